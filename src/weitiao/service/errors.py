"""What the service refuses, as an HTTP answer: a status, one line, and when to try again.

Raised anywhere below a route; the application turns it into the error JSON of the route's own protocol.
"""

import math
from collections.abc import Mapping

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

RETRY_STATUSES = (429, 503)


class HttpError(WeitiaoError):
    """A refused request.

    Args:
        status: 400 .. 599.
        message: one line for the client; it never repeats a text that the client sent.
        code: a short name for programs (``queue_full``, ``unknown_model``).
        retry_after: seconds after which another try makes sense; sent as a whole number of at least 1.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "",
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(math.ceil(retry_after), 1))


class Overloaded(HttpError):
    """The queue is full: 503 with Retry-After."""

    def __init__(self, retry_after: float = 1.0) -> None:
        text = say("the queue is full, try again later", "队列已满，请稍后重试")
        super().__init__(503, text, "queue_full", retry_after=retry_after)


class UnknownModel(HttpError):
    """No model of this name is served, or not to this caller, or not in this version: 404."""

    def __init__(self, name: str, version: str = "") -> None:
        shown = f"{name[:80]}/{version[:80]}" if version else name[:80]
        text = say(f"no model '{shown}' here", f"没有名为“{shown}”的模型")
        super().__init__(404, text, "unknown_model")


class BadRequest(HttpError):
    """The body is not what the route reads: 400."""

    def __init__(self, message: str, code: str = "bad_request") -> None:
        super().__init__(400, message, code)
