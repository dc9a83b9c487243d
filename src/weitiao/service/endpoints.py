"""From a route as data to an ASGI endpoint: access, the body, the answer, the refusal, the count."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.service.calls import Call, Disconnected, EventStream, Route
from weitiao.service.errors import JSON, bad_request, refusal
from weitiao.service.limits import Refused
from weitiao.service.trail import KEPT_ROLES, NOT_KEPT

if TYPE_CHECKING:
    from weitiao.service.app import Service

LOG = logging.getLogger("weitiao.service")
BODY_SECONDS = 30.0
GONE = 499  # never sent: for the metrics only
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def endpoint(service: "Service", route: Route) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of one route."""

    async def answer(request: Request) -> Response:
        call, started = Call(service, request, route), time.perf_counter()
        response = await _answered(call)
        if call.version:
            response.headers["X-Model-Version"] = call.version
        response.headers["X-Request-Id"] = call.id
        response.headers["X-Content-Type-Options"] = "nosniff"
        if service.draining:
            response.headers["Connection"] = "close"

        def finished() -> None:
            seconds = time.perf_counter() - started
            service.metrics.observe_request(
                route.path, call.model, response.status_code, seconds, call.tokens
            )
            if route.role in KEPT_ROLES and response.status_code not in NOT_KEPT:
                service.trail.put(_event(call, response.status_code))

        if isinstance(response, EventStream):
            response.finished = finished
        else:
            call.stack.close()  # first: it counts the tokens of an answer that was given up
            finished()
        return response

    return answer


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
