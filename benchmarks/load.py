"""A load generator for HTTP: its own client over plain sockets, run in a process of its own.

``closed``: so many clients, each sending its next request when it has its answer. ``offered``: so many requests a
second, whether the answers come or not. Every answer is kept: when it was sent, how long it took, what it was.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Answer:
    """One request's fate. ``status`` 0: the connection broke. Seconds; ``sent`` on this process's clock."""

    sent: float
    seconds: float
    status: int
    number: int = 0
    version: str = ""
    retry_after: str = ""
    body: bytes = b""


class Client(asyncio.Protocol):
    """One connection that is kept open; a request at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.buffer = bytearray()
        self.head: dict[bytes, bytes] | None = None
        self.status, self.length = 0, 0
        self.waiting: asyncio.Future[tuple[int, dict[bytes, bytes], bytes]] | None = None
        self.open = False

    def connection_made(self, transport: Any) -> None:
        self.transport, self.open = transport, True

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self.waiting and not self.waiting.done():
            self.waiting.set_exception(error or ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.head is None:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            first, *lines = bytes(self.buffer[:end]).split(b"\r\n")
            self.head = {
                name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)
            }
            self.status, self.length = int(first.split()[1]), int(self.head.get(b"content-length", b"0"))
            del self.buffer[: end + 4]
        if len(self.buffer) >= self.length and self.waiting and not self.waiting.done():
            body = bytes(self.buffer[: self.length])
            del self.buffer[: self.length]
            head, self.head = self.head, None
            self.waiting.set_result((self.status, head, body))
            if head.get(b"connection", b"").lower() == b"close":
                self.open = False

    async def ask(self, request: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        """Send one request and wait for its answer."""
        if self.transport.is_closing():
            raise ConnectionResetError
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.waiting


@dataclass
class Load:
    """Requests for one address, and the answers so far."""

    host: str
    port: int
    requests: Sequence[bytes]
    keep_bodies: bool = False
    answers: list[Answer] = field(default_factory=list)
    turn: int = 0

    async def connect(self) -> Client:
        """A new connection."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Client, self.host, self.port)
        return client

    async def one(self, client: Client, due: float | None = None) -> Answer:
        """Send the next request; ``due``: when it should have been sent, from which its seconds count."""
        number = self.turn % len(self.requests)
        self.turn += 1
        sent = time.perf_counter() if due is None else due
        try:
            status, head, body = await client.ask(self.requests[number])
        except OSError:
            answer = Answer(sent, time.perf_counter() - sent, 0, number)
        else:
            answer = Answer(sent, time.perf_counter() - sent, status, number)
            answer.version = head.get(b"x-model-version", b"").decode()
            answer.retry_after = head.get(b"retry-after", b"").decode()
            answer.body = body if self.keep_bodies else b""
        self.answers.append(answer)
        return answer

    async def closed(self, clients: int, going: Callable[[], bool]) -> None:
        """So many clients while ``going``; each waits for its answer. A client ends when its connection is refused."""

        async def client() -> None:
            connection = None
            while going():
                if connection is None or not connection.open:
                    try:
                        connection = await self.connect()
                    except OSError:
                        return
                await self.one(connection)

        await asyncio.gather(*(client() for _ in range(clients)))

    async def offered(self, rate: float, seconds: float, connections: int = 200) -> int:
        """``rate`` requests a second for so long. Returns how many could not be sent for want of a connection."""
        free = [await self.connect() for _ in range(connections)]
        start, sent, missed, tasks = time.perf_counter(), 0, 0, set()

        async def send(connection: Client, due: float) -> None:
            if not connection.open:  # closed by the service while it was not in use
                connection = await self.connect()
            await self.one(connection, due)
            free.append(connection)

        while (now := time.perf_counter() - start) < seconds:
            while sent < now * rate:
                if free:
                    task = asyncio.ensure_future(send(free.pop(), time.perf_counter()))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                else:
                    missed += 1
                sent += 1
            await asyncio.sleep(0.001)
        await asyncio.wait(tasks, timeout=60) if tasks else None
        return missed


def during(seconds: float) -> Callable[[], bool]:
    """True for so long from now."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() < end


def request(path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a POST."""
    data = json.dumps(body, ensure_ascii=False).encode()
    lines = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(data))}
    head = "".join(f"{name}: {value}\r\n" for name, value in (lines | (headers or {})).items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data


def summary(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """Counts by status, answers a second, and the seconds of the 200s and of the refusals."""
    statuses: dict[str, int] = {}
    for answer in answers:
        statuses[str(answer.status)] = statuses.get(str(answer.status), 0) + 1
    good = [answer.seconds for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status in (429, 503)]
    return {
        "statuses": statuses,
        "per_second": len(good) / seconds,
        "seconds": quantiles(good),
        "refused_seconds": quantiles([answer.seconds for answer in refused]),
        "refused_without_retry_after": sum(not answer.retry_after for answer in refused),
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Some quantiles of seconds."""
    ordered = sorted(values)
    if not ordered:
        return {}
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
    found = {
        name: ordered[min(int(share * len(ordered)), len(ordered) - 1)] for name, share in places.items()
    }
    return {name: round(value, 5) for name, value in (found | {"most": ordered[-1]}).items()}


def planned(plan: dict[str, Any]) -> list[bytes]:
    """The requests of a plan: ``path`` for predictions, or ``infer`` for a model's logits."""
    if model := plan.get("infer"):
        path = f"/v2/models/{model}/infer"
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES"}
        bodies = [
            {"inputs": [tensor | {"data": [text]}], "outputs": [{"name": "logits"}]} for text in plan["texts"]
        ]
        return [request(path, body) for body in bodies]
    return [request(plan["path"], {"text": text}) for text in plan["texts"]]


def until(load: Load, plan: dict[str, Any]) -> Callable[[], bool]:
    """Whether a plan goes on: for ``seconds``, until ``count`` requests were sent or a file ``until`` is there."""
    if count := plan.get("count"):
        return lambda: load.turn < count
    timely, file = during(plan["seconds"]), Path(plan.get("until") or "/nowhere")
    return lambda: timely() and not file.exists()


async def carried_out(load: Load, plan: dict[str, Any]) -> dict[str, Any]:
    """Run a plan; what it found."""
    extra: dict[str, Any] = {}
    if warm := plan.get("warm"):
        await load.closed(plan["clients"], during(warm))
        load.answers.clear()
    start = time.perf_counter()
    if "rate" in plan:
        extra["not_sent"] = await load.offered(plan["rate"], plan["seconds"], plan.get("connections", 200))
    else:
        await load.closed(plan["clients"], until(load, plan))
    return summary(load.answers, time.perf_counter() - start) | extra


def main() -> None:
    """``python -m benchmarks.load``: a plan as JSON on standard input, the summary on standard output."""
    plan = json.loads(sys.stdin.read())
    load = Load(
        plan.get("host", "127.0.0.1"), plan["port"], planned(plan), keep_bodies=bool(plan.get("keep"))
    )
    try:
        import uvloop

        found = uvloop.run(carried_out(load, plan))
    except ImportError:
        found = asyncio.run(carried_out(load, plan))
    if keep := plan.get("keep"):
        rows = [[a.sent, a.seconds, a.status, a.number, a.version, a.body.decode()] for a in load.answers]
        Path(keep).write_text(json.dumps(rows), encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
