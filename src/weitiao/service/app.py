"""The web application: settings, models, access and metrics put together behind the routes."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from weitiao.core.messages import say
from weitiao.core.privacy.logs import guard_logs
from weitiao.core.version import __version__
from weitiao.runtime import load
from weitiao.service import alerts
from weitiao.service.access import Access
from weitiao.service.batching import Batcher
from weitiao.service.docs_page import Docs
from weitiao.service.documentation import openapi
from weitiao.service.endpoints import Endpoint
from weitiao.service.errors import refusal
from weitiao.service.limits import BodyLimit, Refused
from weitiao.service.metrics import Metrics
from weitiao.service.models import Models, Version, labels_of, reference_of
from weitiao.service.routes import ROUTES
from weitiao.service.streams import Streams
from weitiao.service.trail import Trail
from weitiao.service.watch import FolderWatch
from weitiao.service.work import Work, length

KEY_VARIABLE = "WEITIAO_AUDIT_KEY"


@dataclass
class Settings:
    """What is served, and how.

    Attributes:
        folder: one bundle, or a folder of bundles (``service.folders``).
        keys: keys.toml; empty: everybody may do everything.
        local_only: refuse requests that a web page from elsewhere makes a browser on this machine send.
        engine, precision, threads: as in ``runtime.load``.
        max_batch: most texts computed at once; 1: no batching.
        max_wait_ms: how long a batch may wait for the crowd that was there before.
        queue: texts that may wait, for each model.
        streams: answers that a decoder writes in turn.
        watch: seconds between looks at the folder for new versions; 0: never.
        alerts: a file of alert rules; empty: none.
        audit: the audit log's file; empty: none. ``WEITIAO_AUDIT_KEY`` makes its chain a keyed one.
        mask: mask personal data in texts before a model reads them, and in what a model writes. Logs are masked always.
    """

    folder: str | Path
    keys: str | Path = ""
    local_only: bool = False
    engine: str = "auto"
    precision: str = "auto"
    threads: int = 0
    max_batch: int = 32
    max_wait_ms: float = 2.0
    queue: int = 256
    streams: int = 4
    watch: float = 0.0
    alerts: str | Path = ""
    audit: str | Path = ""
    mask: bool = False


@dataclass
class Service:
    """What every request is answered with."""

    settings: Settings
    access: Access
    metrics: Metrics
    models: Models
    alerts: alerts.Watch
    trail: Trail
    draining: bool = False


def make_app(settings: Settings) -> FastAPI:
    """The application, with its models loaded; ``app.state.service`` is its ``Service``.

    Raises:
        WeitiaoError: no bundle there, one that cannot be loaded, or a keys.toml that cannot be read.
    """
    rules = alerts.read_rules(settings.alerts) if settings.alerts else []
    access, metrics = Access(settings.keys), Metrics([route.path for route in ROUTES])
    trail = Trail(settings.audit, os.environ.get(KEY_VARIABLE, "").encode())
    models = Models(
        Path(settings.folder),
        lambda name, folder: open_version(name, folder, settings, metrics),
        lambda name, version: _declare(metrics, name, version),
    )
    metrics.queue_from(models.depth)
    service = Service(settings, access, metrics, models, alerts.Watch(rules, metrics), trail)
    # FastAPI's own pages load a script from elsewhere.
    app = FastAPI(title="Weitiao", version=__version__, lifespan=_lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    description = openapi(ROUTES)
    routes = [Route(one.path, Endpoint(service, one), methods=[one.method]) for one in ROUTES]
    # Before FastAPI's own (/openapi.json): routes are tried in order.
    app.router.routes[:0] = [*routes, Route("/docs", Docs(description), methods=["GET"])]
    app.openapi = lambda: description  # type: ignore[method-assign]
    app.add_exception_handler(HTTPException, _no_route)
    app.add_middleware(BodyLimit, sizes=access.sizes, answer=lambda error: refusal(error, "plain"))
    return app


def open_version(name: str, folder: Path, settings: Settings, metrics: Metrics | None = None) -> Version:
    """Load a bundle and start the thread that serves it.

    Raises:
        WeitiaoError: it is no bundle, or cannot be loaded.
    """
    found = load(folder, engine=settings.engine, precision=settings.precision, threads=settings.threads)
    version = found.bundle.version
    if found.bundle.manifest["kind"] == "decoder":
        streams = Streams(found, at_once=settings.streams, capacity=settings.queue, name=name)
        return Version(name, version, folder, found, streams, None)
    work = Work(name, found, metrics)
    batcher = Batcher(
        work.compute,
        max_batch=settings.max_batch,
        max_wait=settings.max_wait_ms / 1000,
        capacity=settings.queue,
        length=length,
        observe=work.observe,
        name=name,
    )
    return Version(name, version, folder, found, batcher, work)


def _declare(metrics: Metrics, name: str, version: Version | None) -> None:
    if version is None:
        metrics.forget(name)
    else:
        metrics.declare(name, version.version, labels_of(version), reference_of(version))


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    guard_logs()
    watch = FolderWatch(service.models, service.settings.watch)
    watch.start()
    await service.alerts.start()
    yield
    service.draining = True
    await watch.stop()
    await service.alerts.stop()
    await asyncio.to_thread(service.models.close)
    await asyncio.to_thread(service.trail.close)


async def _no_route(request: Request, error: Any) -> Response:
    """What no route answers: 404, or 405 with the methods that there are."""
    text = {404: say("no such path", "没有这个路径"), 405: say("no such method here", "此路径不支持该方法")}
    message = text.get(error.status_code, str(error.detail))
    code = {404: "no_such_path", 405: "no_such_method"}.get(error.status_code, "refused")
    style = "openai" if request.url.path.startswith("/v1/") else "plain"
    return refusal(Refused(error.status_code, code, message, error.headers), style)
