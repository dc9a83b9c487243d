"""The same application on Ray Serve: replicas on one machine or many, as many as the load asks for.

Each replica is a process with the whole application in it: its own queue, its own batches, its own limits. The
autoscaler looks at the requests that a replica has in hand. ``RAY_ADDRESS`` joins a cluster; without it a local one is
started, and ended with the service.
"""

import contextlib
import dataclasses
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent
from weitiao.core.messages import say
from weitiao.service import server
from weitiao.service.replicas import Board, News, Replica

if TYPE_CHECKING:
    from weitiao.service.app import Settings

NAME = "weitiao"
BOARD = "weitiao-metrics"
OBJECT_STORE_BYTES = 80_000_000  # nothing but requests and answers passes through it
BOARD_SECONDS = 5.0
# An access log would show the paths that clients make up.
QUIET = {"log_level": "WARNING", "enable_access_log": False}
DRAIN_SECONDS = 60.0


@dataclass(frozen=True)
class Scale:
    """How many replicas, and when.

    Attributes:
        target_requests: requests in hand of a replica above which another is started. It stands for the queue's depth:
            what a replica computes and what waits for it.
        cpus: CPUs that a replica takes; its threads, too, where the settings name none.
    """

    min_replicas: int = 1
    max_replicas: int = 8
    target_requests: float = 16.0
    cpus: float = 1.0

    def check(self) -> None:
        """Refuse numbers that contradict each other.

        Raises:
            WeitiaoError: naming them.
        """
        if self.min_replicas > self.max_replicas:
            low, high = self.min_replicas, self.max_replicas
            raise WeitiaoError(
                say(
                    f"--min-replicas {low} is more than --max-replicas {high}",
                    f"--min-replicas {low} 大于 --max-replicas {high}",
                )
            )


def run(
    settings: "Settings", *, host: str, port: int, min_replicas: int, max_replicas: int
) -> Iterator[Event]:
    """Serve until SIGTERM or Ctrl-C; then answer what is in flight and end every process that was started.

    Raises:
        WeitiaoError: Ray is not installed, or the application cannot be started; one line says why.
    """
    scale = Scale(min_replicas, max_replicas)
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if warning := too_many(scale):
            yield NoteEvent(warning, "warning")
        yield NoteEvent(say("Starting Ray ...", "正在启动 Ray ……"))
        with serving(settings, scale, host, port) as address:
            for number in before:  # only now: Ray puts handlers of its own, which end the process at once
                signal.signal(number, end)
            yield NoteEvent(
                say(
                    f"Serving on {address} (docs: {address}/docs)",
                    f"服务地址 {address}（文档：{address}/docs）",
                )
            )
            # In turns: a signal's handler runs between two of them.
            while not stop.wait(1.0):
                pass
        yield NoteEvent(say("Stopped", "已停止"))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def serving(settings: "Settings", scale: Scale, host: str, port: int) -> Iterator[str]:
    """The service on Ray while the block runs; gives its address. Nothing of it is left afterwards.

    Raises:
        WeitiaoError: as in ``run``.
    """
    scale.check()
    settings = _prepared(settings, scale)
    _try(settings)
    with server.bind(host, port) as asked:  # a taken port is told before anything is started
        port = asked.getsockname()[1]
    ray, serve = _ray()
    joined = bool(os.environ.get("RAY_ADDRESS"))
    try:
        _start(ray, serve, joined, host, port)
        actor = ray.remote(num_cpus=0, max_restarts=-1)(Board)
        board = actor.options(name=BOARD, get_if_exists=True).remote()  # lives as long as this name does
        namespace = ray.get_runtime_context().namespace
        try:
            serve.run(deployment(serve, settings, scale, namespace).bind(), name=NAME, route_prefix="/")
        except RuntimeError as error:
            reason = _reason(serve, error)
            raise WeitiaoError(
                say(f"Ray could not start the service: {reason}", f"Ray 无法启动服务：{reason}")
            ) from None
        yield f"http://{host}:{port}"
        del board
    finally:
        with contextlib.suppress(Exception):  # whatever the state, the processes have to go
            serve.delete(NAME) if joined else serve.shutdown()
        ray.shutdown()


def _start(ray: Any, serve: Any, joined: bool, host: str, port: int) -> None:
    """Join a cluster, or start one without a dashboard, and its HTTP proxy."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {} if joined else {
        "num_cpus": os.cpu_count(),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }  # fmt: skip
    # What replicas log, alerts above all, is to be seen here.
    ray.init(log_to_driver=True, logging_level="error", **own)
    serve.start(http_options={"host": host, "port": port}, logging_config=QUIET)


def deployment(serve: Any, settings: "Settings", scale: Scale, namespace: str) -> Any:
    """The application as a deployment of Ray Serve, built anew in each replica."""

    def build() -> Any:
        from ray.serve import get_replica_context

        from weitiao.service.app import make_app

        app = make_app(settings)
        name = get_replica_context().replica_id.unique_id
        Replica(name, app.state.service, RayBoard(namespace)).start()
        return app

    options: dict[str, Any] = {
        "name": NAME,
        "ray_actor_options": {"num_cpus": scale.cpus},
        # The application refuses by itself, with Retry-After, when its queue is full.
        "max_ongoing_requests": 2 * settings.queue,
        "graceful_shutdown_timeout_s": DRAIN_SECONDS,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 2.0,
        "max_constructor_retry_count": 2,
        "logging_config": QUIET,
        "autoscaling_config": {
            "min_replicas": scale.min_replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.target_requests,
            "look_back_period_s": 15.0,
            "upscale_delay_s": 5.0,
            "downscale_delay_s": 120.0,
        },
    }
    return serve.deployment(**options)(serve.ingress(build)())


class RayBoard:
    """The board as a replica sees it: an actor somewhere in the cluster."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def swap(self, name: str, page: str) -> News:
        """As ``Board.swap``."""
        return self._ask("swap", name, page)

    def order(self, model: str, folder: str, version: str) -> int:
        """As ``Board.order``."""
        return self._ask("order", model, folder, version)

    def _ask(self, method: str, *arguments: str) -> Any:
        import ray

        actor = ray.get_actor(BOARD, namespace=self.namespace)
        return ray.get(getattr(actor, method).remote(*arguments), timeout=BOARD_SECONDS)


def too_many(scale: Scale) -> str:
    """What to tell the user where the local machine cannot hold that many replicas; else an empty string."""
    room = int((os.cpu_count() or 1) / scale.cpus)
    if os.environ.get("RAY_ADDRESS") or scale.max_replicas <= room:
        return ""
    return say(
        f"{scale.max_replicas} replicas need {scale.max_replicas * scale.cpus:g} CPUs; "
        f"this machine has room for {room}. Set RAY_ADDRESS to use a cluster",
        f"{scale.max_replicas} 个副本需要 {scale.max_replicas * scale.cpus:g} 个 CPU，本机只能容纳 {room} 个。"
        "设置 RAY_ADDRESS 可使用集群",
    )


def _prepared(settings: "Settings", scale: Scale) -> "Settings":
    """Settings that mean the same in a process elsewhere: whole paths, and threads that share the machine's cores."""
    paths = {
        name: os.path.abspath(value)
        for name in ("folder", "keys", "alerts", "audit")
        if (value := getattr(settings, name))
    }
    return dataclasses.replace(settings, **paths, threads=settings.threads or max(int(scale.cpus), 1))


def _try(settings: "Settings") -> None:
    """Read what every replica will read, so that a mistake is one line here and not a traceback there."""
    from weitiao.runtime import open_bundle
    from weitiao.service.access import Access
    from weitiao.service.alerts import read_rules
    from weitiao.service.folders import scan

    if settings.alerts:
        read_rules(settings.alerts)
    Access(settings.keys)
    found = scan(Path(settings.folder))
    if not found:
        raise WeitiaoError(say(f"There is no bundle in {settings.folder}", f"{settings.folder} 中没有部署包"))
    for bundles in found.values():
        open_bundle(bundles[-1])


def _ray() -> tuple[Any, Any]:
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise WeitiaoError(
            say(
                f"--engine ray needs Ray ({error}): pip install 'weitiao[serve,scale]'",
                f"--engine ray 需要 Ray（{error}）：pip install 'weitiao[serve,scale]'",
            )
        ) from None
    return ray, serve


def _reason(serve: Any, error: Exception) -> str:
    """Why a deployment failed: the application's own words where it said some, else Ray's last."""
    text = str(error)
    with contextlib.suppress(Exception):
        application = serve.status().applications[NAME]
        text += "\n" + "\n".join(
            [application.message, *(d.message for d in application.deployments.values())]
        )
    own = re.findall(r"WeitiaoError: (.+)", text)
    lines = own or [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
