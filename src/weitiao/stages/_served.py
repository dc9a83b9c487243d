"""A bundle behind its own HTTP service for a moment, so that an export can prove that door too."""

import json
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

MODEL = "model"
SERVING = "onnxruntime"  # the engine that is always there
AT_ONCE = 32  # texts of a request
AT_ONCE_CHARACTERS = 150_000  # JSON may take 12 bytes for one; the service reads bodies of 2 MB
START_SECONDS = 60


def can_serve() -> bool:
    """Whether what the service needs is installed."""
    return all(find_spec(name) for name in ("fastapi", "uvicorn", "argon2", "jwt", "prometheus_client"))


@contextmanager
def served(
    bundle: Path, *, engine: str = SERVING, threads: int = 0
) -> Iterator[Callable[[list[Any]], list[Any]]]:
    """A function from items to the answers that the service gives for them, over HTTP on this machine.

    Raises:
        WeitiaoError: the service does not start, or refuses an item.
    """
    import uvicorn

    from weitiao.service.app import Settings, make_app

    with tempfile.TemporaryDirectory() as folder:
        # Under another name: the bundle's own is hidden while it is being written.
        (Path(folder) / MODEL).symlink_to(bundle.resolve(), target_is_directory=True)
        app = make_app(Settings(folder=folder, engine=engine, precision="fp32", threads=threads))
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield _asker(_port(server, thread))
        finally:
            server.should_exit = True
            thread.join()


def _port(server: Any, thread: threading.Thread) -> int:
    """The port that the system chose, once the server listens."""
    end = time.monotonic() + START_SECONDS
    while thread.is_alive() and time.monotonic() < end:
        if server.started:
            return int(server.servers[0].sockets[0].getsockname()[1])
        time.sleep(0.01)
    raise WeitiaoError(
        say(
            "The service did not start. Leave it out with --no-service",
            "服务未能启动。可用 --no-service 跳过",
        )
    )


def _asker(port: int) -> Callable[[list[Any]], list[Any]]:
    def ask(items: list[Any]) -> list[Any]:
        found: list[Any] = []
        for part in in_requests(items):
            body = json.dumps({"texts": part}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/predict/{MODEL}", body, {"Content-Type": "application/json"}
            )
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
                    found += json.load(answer)["predictions"]
            except urllib.error.HTTPError as error:
                raise _refused(error) from None
        return found

    return ask


def _refused(error: urllib.error.HTTPError) -> WeitiaoError:
    reason = f"{error.code}: {json.load(error)['error']}"
    return WeitiaoError(
        say(
            f"The service refused the rows to prove it by ({reason}). Leave it out with --no-service",
            f"服务拒绝了用于验证的数据（{reason}）。可用 --no-service 跳过",
        )
    )


def in_requests(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Items in parts that one request may carry."""
    part: list[Any] = []
    characters = 0
    for item in items:
        length = sum(map(len, [item] if isinstance(item, str) else item))
        if part and (len(part) == AT_ONCE or characters + length > AT_ONCE_CHARACTERS):
            yield part
            part, characters = [], 0
        part.append(item)
        characters += length
    if part:
        yield part
