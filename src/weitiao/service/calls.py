"""One request on its way through the service: who calls, which model version it holds, and waiting for results."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from weitiao.service.errors import unknown_model
from weitiao.service.models import Version

if TYPE_CHECKING:
    from weitiao.service.app import Service

LOG = logging.getLogger("weitiao.service")
WATCH_AFTER = 0.2  # seconds; before, it isn't worth watching whether the client is still there


class Disconnected(Exception):
    """The client has gone, so nobody waits for the answer."""


class Shape(BaseModel):
    """A body that comes in or goes out. Unknown fields of a request are passed over, as clients expect."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    leaves_out_none: ClassVar[bool] = False

    def as_json(self) -> str:
        """The JSON text."""
        return self.model_dump_json(exclude_none=self.leaves_out_none)


@dataclass(frozen=True)
class Route:
    """A route as data. ``role``: what the caller needs; empty: open to all, for probes.

    ``summary`` is in English and in Chinese; ``example`` a body that the route reads; ``style`` the protocol whose
    error JSON it speaks: ``openai`` or ``plain``.
    """

    method: str
    path: str
    handler: "Callable[[Call], Awaitable[Shape | Response]]"
    role: str
    summary: tuple[str, str]
    body: type[Shape] | None = None
    answer: type[Shape] | None = None
    style: str = "plain"
    body_required: bool = True
    example: dict[str, Any] | None = None


@dataclass
class Call:
    """One request. ``stack`` is closed when the answer has been sent."""

    service: "Service"
    request: Request
    route: Route
    caller: Any = None
    body: Any = None
    stack: ExitStack = field(default_factory=ExitStack)
    id: str = field(default_factory=lambda: f"{random.getrandbits(128):032x}")
    model: str = ""
    version: str = ""
    tokens: int = 0

    @property
    def path(self) -> dict[str, str]:
        """The parameters in the path."""
        return self.request.path_params

    def hold(self, name: str, version: str = "") -> Version:
        """The version of a model that answers now, held until the answer has been sent.

        Raises:
            Refused: 404, no such model or version, or none that the caller may see.
        """
        if not self.caller.sees(name):
            raise unknown_model(name, version)
        held = self.stack.enter_context(self.service.models.use(name, version))
        self.model, self.version = name, held.version
        return held

    async def wait(self, futures: "Sequence[asyncio.Future[list[Any]]]") -> list[Any]:
        """The results of queued parts, in order.

        Raises:
            Disconnected: the client left; its parts are taken out of the queue.
            Exception: what computing raised.
        """
        try:
            _, pending = await asyncio.wait(futures, timeout=WATCH_AFTER)
            if pending and await first(self.gone(), asyncio.wait(pending)):
                raise Disconnected
        finally:
            for future in futures:
                future.cancel()
        errors = [future.exception() for future in futures]  # each is looked at, or asyncio complains
        for error in errors:
            if error is not None:
                raise error
        return [result for future in futures for result in future.result()]

    async def gone(self) -> None:
        """Returns when the client has left. The body must have been read."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


async def first(left: Awaitable[Any], right: Awaitable[Any]) -> bool:
    """Wait until one of two is done and cancel the other. Whether the left one was done and the right one not."""
    tasks = [asyncio.ensure_future(left), asyncio.ensure_future(right)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return not tasks[1].done()
    finally:
        for task in tasks:
            task.cancel()


class EventStream(Response):
    """Server-sent events. When the client leaves, the source is closed, which stops the writing.

    Args:
        source: the events' data, one line of text each.
        call: whose client reads them.
    """

    media_type = "text/event-stream"

    def __init__(self, source: AsyncIterator[str], call: Call) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.source, self.call = source, call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the source ends or the client leaves."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await first(self.call.gone(), self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        try:
            async for data in self.source:
                body = f"data: {data}\n\n".encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            await self.source.aclose()  # type: ignore[attr-defined]
        await send({"type": "http.response.body", "body": b"", "more_body": False})
