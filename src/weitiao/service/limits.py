"""How much one caller may ask: a rate, a daily quota, and the sizes of a request.

Counts live in the process: several replicas behind a balancer each allow the rate, and a restart begins the day's
quota anew.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from weitiao.core.messages import say

Clock = Callable[[], float]
DAY_SECONDS = 86_400
MOST_REMEMBERED = 10_000  # callers whose counts are kept; the one unseen for longest is forgotten first


class Refused(Exception):
    """A request that is not answered: the HTTP status, a code for programs, a line for people, and headers."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})
        super().__init__(message)


@dataclass
class Bucket:
    """A token bucket: refills at ``per_second`` up to ``burst``; each request takes one token."""

    per_second: float
    burst: float
    filled: float = field(default=-1.0)
    moment: float = 0.0

    def take(self, now: float) -> float:
        """Take a token. Returns 0, or the seconds until one is there (then none was taken)."""
        if self.filled < 0:
            self.filled, self.moment = self.burst, now
        self.filled = min(self.burst, self.filled + max(0.0, now - self.moment) * self.per_second)
        self.moment = now
        if self.filled >= 1 - 1e-9:
            self.filled -= 1
            return 0.0
        return (1 - self.filled) / self.per_second


class Limits:
    """Rates and daily quotas of many callers, each under its name. Safe to use from several threads.

    Args:
        clock: seconds that never jump back, for the rate.
        today: seconds since 1970, for the quota, which begins anew at midnight UTC.
    """

    def __init__(self, clock: Clock = time.monotonic, today: Clock = time.time) -> None:
        self._clock, self._today = clock, today
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._counts: dict[str, int] = {}
        self._day = 0

    def take(self, name: str, per_minute: float = 0, per_day: int = 0, burst: float = 0) -> None:
        """Count one request of a caller. A limit of 0 is none; ``burst`` is a tenth of a minute's, at least 1.

        Raises:
            Refused: 429, with ``Retry-After`` in whole seconds. A refused request counts towards nothing.
        """
        with self._lock:
            self._new_day()
            if per_day and self._counts.get(name, 0) >= per_day:
                left = DAY_SECONDS - self._today() % DAY_SECONDS
                raise _too_many("quota_exceeded", left, say("this day's quota is used up", "今日配额已用完"))
            if per_minute:
                wait = self._bucket(name, per_minute, burst).take(self._clock())
                if wait:
                    raise _too_many("rate_limited", wait, say("too many requests", "请求过于频繁"))
            if per_day:
                self._counts[name] = self._counts.get(name, 0) + 1

    def give_back(self, name: str) -> None:
        """Undo the last ``take`` of a rate: what it was for turned out not to count."""
        with self._lock:
            if bucket := self._buckets.get(name):
                bucket.filled = min(bucket.burst, bucket.filled + 1)

    def _bucket(self, name: str, per_minute: float, burst: float) -> Bucket:
        bucket = self._buckets.pop(name, None)
        burst = burst or max(1.0, per_minute / 10)
        if bucket is None or (bucket.per_second, bucket.burst) != (per_minute / 60, burst):
            bucket = Bucket(per_minute / 60, burst)
        self._buckets[name] = bucket  # last in the order: the one used most recently
        if len(self._buckets) > MOST_REMEMBERED:
            self._buckets.popitem(last=False)
        return bucket

    def _new_day(self) -> None:
        day = int(self._today() // DAY_SECONDS)
        if day != self._day:
            self._day, self._counts = day, {}


def _too_many(code: str, seconds: float, reason: str) -> Refused:
    wait = max(1, math.ceil(seconds))
    message = say(f"{reason}; try again in {wait} s", f"{reason}，请在 {wait} 秒后重试")
    return Refused(429, code, message, {"Retry-After": str(wait)})


@dataclass(frozen=True)
class Sizes:
    """The largest request that is read: bytes of the body, characters of a text, texts at once."""

    body_bytes: int = 2_000_000
    text_characters: int = 20_000
    texts: int = 512

    def check_texts(self, texts: Sequence[str]) -> None:
        """Refuse too many texts (413 ``too_many_texts``), or one too long (413 ``text_too_long``).

        Raises:
            Refused: says the number and the limit.
        """
        if len(texts) > self.texts:
            message = say(
                f"{len(texts)} texts in one request, at most {self.texts} are taken: send several requests",
                f"一次请求有 {len(texts)} 条文本，最多 {self.texts} 条：请分多次发送",
            )
            raise Refused(413, "too_many_texts", message)
        for place, text in enumerate(texts):
            if len(text) > self.text_characters:
                message = say(
                    f"text {place} has {len(text):,} characters, at most {self.text_characters:,} are taken",
                    f"第 {place} 条文本有 {len(text):,} 个字符，最多 {self.text_characters:,} 个",
                )
                raise Refused(413, "text_too_long", message)

    def body_refused(self, size: int) -> Refused | None:
        """What to answer to a body of ``size`` bytes: None, if it is small enough."""
        if size <= self.body_bytes:
            return None
        message = say(
            f"the body is larger than {self.body_bytes:,} bytes: send several requests",
            f"请求体超过 {self.body_bytes:,} 字节：请分多次发送",
        )
        return Refused(413, "body_too_large", message)


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class BodyLimit:
    """ASGI middleware that stops reading a body at the limit, whatever its ``Content-Length`` says.

    Args:
        answer: makes the ASGI application that sends a refusal, in the service's own shape of errors.
    """

    def __init__(self, app: Any, sizes: Sizes, answer: Callable[[Refused], Any]) -> None:
        self.app, self.sizes, self.answer = app, sizes, answer

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request: refused at once if it declares too large a body, else counted as it is read."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        refused = self.sizes.body_refused(int(declared) if declared.isdigit() else 0)
        if refused:
            return await self.answer(refused)(scope, receive, send)
        read, begun = 0, False

        async def counted() -> Message:
            nonlocal read, refused
            message = await receive()
            read += len(message.get("body", b""))
            refused = refused or self.sizes.body_refused(read)
            if refused:
                raise refused
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            if begun or not refused:  # what a framework makes of the refusal is not sent
                begun = True
                await send(message)

        try:
            await self.app(scope, counted, noted)
        except Refused:
            if begun or not refused:
                raise
        if refused and not begun:
            await self.answer(refused)(scope, receive, send)
