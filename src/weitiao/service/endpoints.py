"""From a route as data to an ASGI endpoint: access, the body, the answer, the refusal, the count."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.service.calls import Call, Disconnected, Route
from weitiao.service.errors import JSON, bad_request, refusal
from weitiao.service.limits import Refused
from weitiao.service.trail import KEPT_ROLES, NOT_KEPT

if TYPE_CHECKING:
    from weitiao.service.app import Service

LOG = logging.getLogger("weitiao.service")
BODY_SECONDS = 30.0
GONE = 499  # never sent: for the metrics only
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class Endpoint:
    """One route as an ASGI application: Starlette calls those without wrapping them once more."""

    def __init__(self, service: "Service", route: Route) -> None:
        self.service, self.route = service, route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        call, started = Call(self.service, Request(scope, receive, send), self.route), time.perf_counter()
        response = await _answered(call)
        headers = [(b"x-request-id", call.id.encode()), (b"x-content-type-options", b"nosniff")]
        if call.version:
            headers.append((b"x-model-version", call.version.encode()))
        if self.service.draining:
            headers.append((b"connection", b"close"))
        response.raw_headers += headers
        try:
            await response(scope, receive, send)
        finally:
            call.stack.close()  # first: it counts the tokens of an answer that was given up
            self._count(call, response.status_code, time.perf_counter() - started)

    def _count(self, call: Call, status: int, seconds: float) -> None:
        """Tell the metrics and the audit log."""
        path = self.route.path
        self.service.metrics.observe_request(path, call.model, status, seconds, call.tokens)
        if self.route.role in KEPT_ROLES and status not in NOT_KEPT:
            self.service.trail.put(_event(call, status))


async def _answered(call: Call) -> Response:
    """The response to a call, whatever happens. What is refused or fails is told in the route's own protocol."""
    style = call.route.style
    try:
        _check_origin(call)
        if call.route.role:
            call.caller = await call.service.access.check_async(call.request, call.route.role)
        if call.route.body is not None:
            call.body = await _body(call)
        found = await call.route.handler(call)
        return found if isinstance(found, Response) else Response(found.as_json(), media_type=JSON)
    except Refused as error:
        return refusal(error, style)
    except WeitiaoError as error:
        return refusal(Refused(422, "unprocessable", str(error)), style)
    except (Disconnected, ClientDisconnect):
        return Response(status_code=GONE)
    except Exception:
        # The traceback names lines of code, never a text: pydantic's own errors are answered above.
        LOG.exception("request %s to %s failed", call.id, call.route.path)
        message = say(
            f"the service failed; its log tells more: {call.id}", f"服务内部出错，详见日志：{call.id}"
        )
        return refusal(Refused(500, "internal_error", message), style)


def _event(call: Call, status: int) -> dict[str, Any]:
    """What the audit log keeps of a call."""
    caller = call.caller
    return {
        "action": f"{call.route.method} {call.route.path}",
        "request": call.id,
        "key": caller.key_id if caller else "",
        "tenant": caller.tenant if caller else "",
        "model": call.model,
        "version": call.version,
        "status": status,
    }


async def _body(call: Call) -> Any:
    """The body, checked.

    Raises:
        Refused: 400 not JSON or of another shape, 408 it comes too slowly, 413 too large, 415 not declared as JSON.
    """
    assert call.route.body is not None
    try:
        async with asyncio.timeout(BODY_SECONDS):
            raw = await call.request.body()
    except TimeoutError:
        raise Refused(408, "too_slow", say("the body came too slowly", "请求体传输过慢")) from None
    if not raw and not call.route.body_required:
        return None
    # A page elsewhere can make a browser send any other type without asking, but not this one.
    if call.request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise Refused(
            415,
            "not_json",
            say("send Content-Type: application/json", "请发送 Content-Type: application/json"),
        )
    try:
        return call.route.body.model_validate_json(raw)
    except ValidationError as error:
        raise bad_request(_first(error), "bad_body") from None


def _first(error: ValidationError) -> str:
    """Where the body is wrong, and how; none of what the client sent but the names of fields that it should have."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or str(part).isidentifier())
    if first["type"] == "json_invalid":
        return say("the body is not JSON", "请求体不是合法的 JSON")
    return f"{place[:100]}: {first['msg']}" if place else first["msg"]


def _check_origin(call: Call) -> None:
    """Without keys the service answers this machine only: not a page in its browser that came from elsewhere.

    Raises:
        Refused: 403.
    """
    if not call.service.settings.local_only:
        return
    headers = call.request.headers
    addresses = [f"//{headers.get('host', '')}", *headers.getlist("origin")]
    if not all(_host(address) in LOCAL_NAMES for address in addresses):
        message = say("without --keys only this machine is answered", "未设置 --keys 时只响应本机请求")
        raise Refused(403, "not_local", message)


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:  # half a bracket
        return ""
