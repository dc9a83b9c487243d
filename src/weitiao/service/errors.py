"""The refusals that the service itself gives, and how a refusal looks in each protocol.

``limits.Refused`` is the one exception that becomes an HTTP answer; access, sizes and queues all raise it.
"""

import json
import math
from typing import Any

from starlette.responses import Response

from weitiao.core.messages import say
from weitiao.service.limits import Refused

JSON = "application/json"
OPENAI_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
                429: "rate_limit_error", 503: "overloaded_error"}  # fmt: skip


def bad_request(message: str, code: str = "bad_request") -> Refused:
    """The body is not what the route reads: 400. The message never repeats a text that the client sent."""
    return Refused(400, code, message)


def overloaded(retry_seconds: float) -> Refused:
    """The queue is full: 503, with the whole seconds (1 .. 60) after which another try makes sense."""
    wait = min(max(math.ceil(retry_seconds), 1), 60)
    message = say(f"the queue is full; try again in {wait} s", f"队列已满，请在 {wait} 秒后重试")
    return Refused(503, "queue_full", message, {"Retry-After": str(wait)})


def unknown_model(name: str, version: str = "") -> Refused:
    """No such model or version here, or none that this caller may see: 404, in the same words."""
    shown = f"{name[:80]}/{version[:80]}" if version else name[:80]
    return Refused(404, "model_not_found", say(f"no model '{shown}'", f"没有模型“{shown}”"))


def refusal(error: Refused, style: str) -> Response:
    """A refusal as JSON: ``{"error": message, "code"}``, or in OpenAI's shape where ``style`` is ``openai``."""
    return Response(json.dumps(refusal_body(error, style)), error.status, error.headers, JSON)


def refusal_body(error: Refused, style: str) -> dict[str, Any]:
    """The JSON of a refusal."""
    if style == "openai":
        kind = OPENAI_KINDS.get(
            error.status, "invalid_request_error" if error.status < 500 else "server_error"
        )
        return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}
    return {"error": error.message, "code": error.code}
