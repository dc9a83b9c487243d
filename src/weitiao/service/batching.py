"""Micro-batching: texts of many requests run through a model together, on one thread a model.

While a batch is computed, requests gather for the next, so a crowd makes its own batches and a lone request never
waits. Where a crowd was there a moment ago, a batch waits for it, at most ``max_wait`` seconds.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from weitiao.service.errors import overloaded

Compute = Callable[[str, list[Any]], Sequence[Any]]
Observe = Callable[[str, list[Any], Sequence[Any]], None]
LOG = logging.getLogger("weitiao.service")
LOOK_AHEAD = 4  # batches' worth of waiting jobs among which those of like length are sought
MEMORY = 0.9  # of the throughput's running mean, per batch


@dataclass(eq=False)
class Job:
    """Items of one request that are computed in one go."""

    kind: str
    items: list[Any]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[list[Any]]"
    length: int
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """The queue of one model and the thread that empties it.

    Args:
        compute: ``compute(kind, items)`` -> one result an item; called on the thread only. Items of a batch share
            their kind. If a batch raises, each of its jobs is computed alone, so that an error stays with its own.
        max_batch: most items at once.
        max_wait: seconds that a batch may wait for the crowd that was there before.
        capacity: items that may wait. A request that finds as many waiting is refused.
        length: the length of an item, cheaply: batches are put together from items of like length.
        observe: told of kind, items and results once these are on their way, for metrics.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        max_batch: int = 32,
        max_wait: float = 0.002,
        capacity: int = 256,
        length: Callable[[Any], int] = len,
        observe: Observe | None = None,
        name: str = "model",
    ) -> None:
        self._compute, self._length, self._observe = compute, length, observe
        self.max_batch, self.max_wait, self.capacity = max_batch, max_wait, capacity
        self._jobs: deque[Job] = deque()
        self._depth = 0  # items in self._jobs
        self._expected = 1  # items that a batch waits for
        self._wanted = 1  # items at which the thread wants to be woken
        self._rate = 0.0  # items a second, a running mean
        self._closing = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"batches of {name}", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Items that wait."""
        return self._depth

    def check_room(self) -> None:
        """Refuse before any work is done on a request.

        Raises:
            Refused: 503, the queue is full.
        """
        if self._depth >= self.capacity:
            raise overloaded(self._depth / self._rate if self._rate else 1.0)

    def put(self, kind: str, items: Sequence[Any]) -> "list[asyncio.Future[list[Any]]]":
        """Queue the items of a request; futures of their results, in parts of at most ``max_batch`` items.

        Cancelling a future takes its part out of the queue.

        Raises:
            Refused: 503, the queue is full.
        """
        loop, jobs = asyncio.get_running_loop(), []
        for start in range(0, len(items), self.max_batch):
            part = list(items[start : start + self.max_batch])
            length = max(self._length(item) for item in part)
            jobs.append(Job(kind, part, loop, loop.create_future(), length))
        with self._condition:
            self.check_room()
            self._jobs.extend(jobs)
            self._depth += len(items)
            if self._depth >= self._wanted:
                self._condition.notify()
        return [job.future for job in jobs]

    def close(self) -> None:
        """End the thread once the queue is empty, and wait for that."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            started = time.monotonic()
            results = self._computed(jobs)
            count = sum(len(job.items) for job in jobs)
            now = count / max(time.monotonic() - started, 1e-6)
            self._rate = MEMORY * self._rate + (1 - MEMORY) * now if self._rate else now
            self._deliver(jobs, results)
            self._tell(jobs, results)

    def _next(self) -> list[Job]:
        """The jobs of the next batch; none where the batcher is closing and nothing waits."""
        with self._condition:
            while True:
                self._wanted = 1
                while not self._jobs and not self._closing:
                    self._condition.wait()
                if not self._jobs:
                    return []
                self._wait_for_crowd(self._jobs[0].arrived + self.max_wait)
                if jobs := self._chosen():
                    # What came together this time may well come together again.
                    self._expected = sum(len(job.items) for job in jobs)
                    return jobs

    def _wait_for_crowd(self, until: float) -> None:
        self._wanted = min(self._expected, self.max_batch)
        while self._depth < self._wanted and not self._closing:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._condition.wait(left)

    def _chosen(self) -> list[Job]:
        """The job that waits longest, and those of its kind and nearest to its length, taken off the queue."""
        waiting: list[Job] = []
        while self._jobs and len(waiting) < LOOK_AHEAD * self.max_batch:
            job = self._jobs.popleft()
            if job.future.cancelled():
                self._depth -= len(job.items)
            else:
                waiting.append(job)
        if not waiting:
            return []
        first, room, chosen = waiting[0], self.max_batch, []
        for job in sorted(waiting, key=lambda job: (job is not first, abs(job.length - first.length))):
            if job.kind == first.kind and len(job.items) <= room:
                chosen.append(job)
                room -= len(job.items)
        taken = set(map(id, chosen))
        self._jobs.extendleft(job for job in reversed(waiting) if id(job) not in taken)
        self._depth -= sum(len(job.items) for job in chosen)
        return chosen

    def _computed(self, jobs: list[Job]) -> list[Any]:
        """A list of results, or an exception, for each job."""
        try:
            results = list(self._compute(jobs[0].kind, [item for job in jobs for item in job.items]))
        except Exception as error:  # whatever it is, it belongs to a request and not to the thread
            return [error] if len(jobs) == 1 else [self._computed([job])[0] for job in jobs]
        found, start = [], 0
        for job in jobs:
            found.append(results[start : start + len(job.items)])
            start += len(job.items)
        return found

    def _deliver(self, jobs: list[Job], results: list[Any]) -> None:
        """Wake each event loop once for all of its jobs."""
        for loop in {job.loop for job in jobs}:
            own = [(job, result) for job, result in zip(jobs, results, strict=True) if job.loop is loop]
            try:
                loop.call_soon_threadsafe(_settle, own)
            except RuntimeError:  # that loop has been closed, and whoever waited is gone with it
                continue

    def _tell(self, jobs: list[Job], results: list[Any]) -> None:
        good = [(job, found) for job, found in zip(jobs, results, strict=True) if isinstance(found, list)]
        if self._observe is None or not good:
            return
        items = [item for job, _ in good for item in job.items]
        try:
            self._observe(jobs[0].kind, items, [result for _, found in good for result in found])
        except Exception:  # answers must not depend on what is counted
            LOG.exception("metrics of a batch")


def _settle(pairs: list[tuple[Job, Any]]) -> None:
    for job, result in pairs:
        if job.future.done():
            continue
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
