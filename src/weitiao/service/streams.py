"""Text generation for several requests on one thread: each stream gets a piece in turn.

So a long answer does not hold up a short one, and a reader that left stops costing at the next piece.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from weitiao.service.errors import overloaded


@dataclass(eq=False)
class Stream:
    """One answer that is being written."""

    prompt: Any
    options: dict[str, Any]
    loop: asyncio.AbstractEventLoop
    pieces: "asyncio.Queue[str | Exception | None]" = field(default_factory=asyncio.Queue)
    source: Iterator[str] | None = None
    left: bool = False

    def tell(self, piece: str | Exception | None) -> None:
        """Hand a piece to the event loop; None ends the stream."""
        try:
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)
        except RuntimeError:  # that loop has been closed, and whoever read is gone with it
            self.left = True


class Streams:
    """The queue of a decoder and the thread that writes its answers.

    Args:
        decoder: a ``runtime.Decoder``; used on the thread only, but for ``count``.
        at_once: answers written in turn; each holds a key-value cache.
        capacity: answers that may wait to be begun. A request that finds as many waiting is refused.
    """

    def __init__(self, decoder: Any, *, at_once: int = 4, capacity: int = 64, name: str = "model") -> None:
        self._decoder, self.at_once, self.capacity = decoder, at_once, capacity
        self._waiting: deque[Stream] = deque()
        self._closing = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"streams of {name}", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Answers that wait to be begun."""
        return len(self._waiting)

    def check_room(self) -> None:
        """Refuse before any work is done on a request.

        Raises:
            Refused: 503, the queue is full.
        """
        if len(self._waiting) >= self.capacity:
            raise overloaded(5.0)

    def put(self, prompt: Any, options: dict[str, Any]) -> Stream:
        """Queue one answer; ``options`` are those of ``Decoder.stream``.

        Raises:
            Refused: 503, the queue is full.
        """
        stream = Stream(prompt, options, asyncio.get_running_loop())
        with self._condition:
            self.check_room()
            self._waiting.append(stream)
            self._condition.notify()
        return stream

    async def read(self, stream: Stream) -> AsyncIterator[str]:
        """The pieces of an answer as they come. Leaving early stops the writing.

        Raises:
            Exception: what the decoder raised.
        """
        try:
            while (piece := await stream.pieces.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            stream.left = True

    def close(self) -> None:
        """End the thread once all answers are written, and wait for that."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        active: list[Stream] = []
        while active := self._joined(active):
            active = [stream for stream in active if self._advanced(stream)]

    def _joined(self, active: list[Stream]) -> list[Stream]:
        """The active streams and those that may begin; waits where there are none."""
        with self._condition:
            while not active and not self._waiting and not self._closing:
                self._condition.wait()
            while self._waiting and len(active) < self.at_once:
                active.append(self._waiting.popleft())
        return active

    def _advanced(self, stream: Stream) -> bool:
        """Write one piece of a stream. False where it is done, or nobody reads any more."""
        try:
            if not stream.left:
                if stream.source is None:
                    stream.source = self._decoder.stream(stream.prompt, **stream.options)
                stream.tell(next(stream.source))
                return True
            if stream.source is not None:
                stream.source.close()  # type: ignore[attr-defined]
        except StopIteration:
            stream.tell(None)
        except Exception as error:  # whatever it is, it belongs to a request and not to the thread
            stream.tell(error)
        return False
