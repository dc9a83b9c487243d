"""The queue and the thread behind a model: batches, room, errors, cancelling, streams in turn."""

import asyncio
import threading

import pytest

from weitiao.service.batching import Batcher
from weitiao.service.limits import Refused
from weitiao.service.streams import Streams


class Gate:
    """A computation that waits until it is let go, so that a test decides what gathers meanwhile."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        self.batches: list[tuple[str, list[str]]] = []

    def compute(self, kind: str, items: list[str]) -> list[str]:
        self.batches.append((kind, items))
        self.entered.release()
        self.go.wait()
        if "poison" in items:
            raise ValueError("poison")
        return [f"{kind} {item}" for item in items]

    async def begun(self) -> None:
        await asyncio.to_thread(self.entered.acquire)


def batching(test, **settings):
    """Run an async test with a gate and its batcher; what is left is let go and the thread ended."""
    gate = Gate()
    batcher = Batcher(gate.compute, **settings)

    async def whole():
        try:
            return await asyncio.wait_for(test(gate, batcher), 30)
        finally:
            gate.go.set()
            await asyncio.to_thread(batcher.close)

    return asyncio.run(whole())


def test_requests_gather_while_a_batch_is_computed():
    async def test(gate, batcher):
        first = batcher.put("predict", ["a"])
        await gate.begun()
        rest = [batcher.put("predict", [name]) for name in "bcd"]
        gate.go.set()
        return [await future for futures in (first, *rest) for future in futures]

    assert batching(test, max_batch=8) == [["predict a"], ["predict b"], ["predict c"], ["predict d"]]


def test_a_crowd_makes_one_batch_and_a_large_request_several():
    async def test(gate, batcher):
        batcher.put("predict", ["a"])
        await gate.begun()
        rest = [*batcher.put("predict", ["b"]), *batcher.put("predict", ["c"])]
        rest += batcher.put("predict", list("defgh"))
        gate.go.set()
        results = [await future for future in rest]
        return results, gate.batches

    results, batches = batching(test, max_batch=3)
    assert results == [
        ["predict b"],
        ["predict c"],
        ["predict d", "predict e", "predict f"],
        ["predict g", "predict h"],
    ]
    assert [len(items) for _, items in batches] == [1, 2, 3, 2]


def test_a_batch_is_of_one_kind_and_of_like_lengths():
    async def test(gate, batcher):
        batcher.put("predict", ["first"])
        await gate.begun()
        texts = [("predict", "aa"), ("embed", "bb"), ("predict", "c" * 90), ("predict", "ddd")]
        rest = [batcher.put(kind, [text])[0] for kind, text in texts]
        gate.go.set()
        await asyncio.wait(rest)
        return gate.batches[1:]

    batches = batching(test, max_batch=2)
    assert batches == [("predict", ["aa", "ddd"]), ("embed", ["bb"]), ("predict", ["c" * 90])]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    async def test(gate, batcher):
        batcher.put("predict", ["a"])
        await gate.begun()
        waiting = [batcher.put("predict", [name])[0] for name in "bc"]
        with pytest.raises(Refused) as refused:
            batcher.put("predict", ["d"])
        depth = batcher.depth
        gate.go.set()
        await asyncio.wait(waiting)
        await batcher.put("predict", ["e"])[0]
        return refused.value, depth

    refused, depth = batching(test, capacity=2)
    assert refused.status == 503
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert depth == 2


def test_an_error_stays_with_its_own_request():
    async def test(gate, batcher):
        batcher.put("predict", ["a"])
        await gate.begun()
        good, bad, last = (batcher.put("predict", [name])[0] for name in ("b", "poison", "c"))
        gate.go.set()
        await asyncio.wait([good, bad, last])
        return good.result(), bad.exception(), last.result()

    good, bad, last = batching(test)
    assert (good, last) == (["predict b"], ["predict c"])
    assert isinstance(bad, ValueError)


def test_what_nobody_waits_for_is_not_computed():
    async def test(gate, batcher):
        batcher.put("predict", ["a"])
        await gate.begun()
        left, stays = (batcher.put("predict", [name])[0] for name in ("left", "stays"))
        left.cancel()
        gate.go.set()
        await stays
        return gate.batches, batcher.depth

    batches, depth = batching(test)
    assert batches[1:] == [("predict", ["stays"])]
    assert depth == 0


def test_closing_finishes_what_waits():
    async def test(gate, batcher):
        batcher.put("predict", ["a"])
        await gate.begun()
        waiting = batcher.put("predict", ["b"])[0]
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        gate.go.set()
        await closing
        return await waiting

    assert batching(test) == ["predict b"]


class Writer:
    """A decoder whose answers are the prompt's letters; it keeps the order in which they were written."""

    def __init__(self) -> None:
        self.written, self.closed = [], []

    def stream(self, prompt, **options):
        try:
            for letter in prompt:
                if letter == "!":
                    raise ValueError("cannot go on")
                self.written.append(letter)
                yield letter
        finally:
            self.closed.append(prompt)


def streaming(test, **settings):
    writer = Writer()
    streams = Streams(writer, **settings)

    async def whole():
        try:
            return await asyncio.wait_for(test(writer, streams), 30)
        finally:
            await asyncio.to_thread(streams.close)

    return asyncio.run(whole())


async def read(streams, stream):
    return [piece async for piece in streams.read(stream)]


def test_answers_are_written_in_turn():
    async def test(writer, streams):
        with streams._condition:  # both are queued before either is begun
            queued = [streams.put(prompt, {}) for prompt in ("aaaa", "bb")]
        return [await read(streams, stream) for stream in queued], "".join(writer.written)

    assert streaming(test) == ([list("aaaa"), list("bb")], "ababaa")


def test_a_reader_that_leaves_stops_the_writing():
    async def test(writer, streams):
        reading = streams.read(streams.put("a" * 1_000_000, {}))
        await anext(reading)
        await reading.aclose()
        return writer

    writer = streaming(test)
    assert len(writer.written) < 1_000_000
    assert writer.closed == ["a" * 1_000_000]


def test_an_error_of_one_answer_leaves_the_others():
    async def test(writer, streams):
        bad, good = streams.put("a!", {}), streams.put("bcd", {})
        with pytest.raises(ValueError, match="cannot go on"):
            await read(streams, bad)
        return await read(streams, good)

    assert streaming(test) == list("bcd")


def test_answers_beyond_the_queue_are_refused():
    async def test(writer, streams):
        with streams._condition:
            queued = [streams.put("a", {}) for _ in range(2)]
            with pytest.raises(Refused) as refused:
                streams.put("b", {})
        return refused.value.status, [await read(streams, stream) for stream in queued]

    assert streaming(test, capacity=2, at_once=1) == (503, [["a"], ["a"]])
