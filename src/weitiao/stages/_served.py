"""A bundle behind its own HTTP service for a moment, so that an export can prove that door too."""

import json
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

MODEL = "model"
AT_ONCE = 32  # texts of a request
START_SECONDS = 60


def can_serve() -> bool:
    """Whether what the service needs is installed."""
    return all(find_spec(name) for name in ("fastapi", "uvicorn", "argon2", "jwt", "prometheus_client"))


@contextmanager
def served(bundle: Path) -> Iterator[Callable[[list[Any]], list[Any]]]:
    """A function from items to the answers that the service gives for them, over HTTP on this machine.

    Raises:
        WeitiaoError: the service does not start.
    """
    import uvicorn

    from weitiao.service.app import Settings, make_app

    with tempfile.TemporaryDirectory() as folder:
        # Under another name: the bundle's own is hidden while it is being written.
        (Path(folder) / MODEL).symlink_to(bundle.resolve(), target_is_directory=True)
        app = make_app(Settings(folder=folder, engine="onnxruntime", precision="fp32"))
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
        for start in range(0, len(items), AT_ONCE):
            body = json.dumps({"texts": items[start : start + AT_ONCE]}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/predict/{MODEL}", body, {"Content-Type": "application/json"}
            )
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
                found += json.load(answer)["predictions"]
        return found

    return ask
