"""What happened in the last minute, for the alerts: rates, shares and latencies without a Prometheus server."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

# Upper edges of the latency histogram's buckets, seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SLOTS, SLOT_SECONDS = 12, 5
WINDOW_SECONDS = SLOTS * SLOT_SECONDS
COUNTS = ("requests", "errors", "refused", "tokens", "score_sum", "scores")


@dataclass
class Recent:
    """Counts in a ring of five-second slots: constant memory, whatever the load. The caller holds a lock."""

    clock: Callable[[], float] = time.monotonic
    _sums: np.ndarray = field(default_factory=lambda: np.zeros((SLOTS, len(COUNTS))))
    _seconds: np.ndarray = field(default_factory=lambda: np.zeros((SLOTS, len(BUCKETS) + 1)))
    _slot: np.ndarray = field(default_factory=lambda: np.full(SLOTS, -1, np.int64))

    def add(self, seconds: float | None = None, **counts: float) -> None:
        """Count something now: the duration of a request, and amounts by name (see ``COUNTS``)."""
        now = int(self.clock() // SLOT_SECONDS)
        place = now % SLOTS
        if self._slot[place] != now:
            self._slot[place] = now
            self._sums[place] = 0
            self._seconds[place] = 0
        for name, amount in counts.items():
            self._sums[place, COUNTS.index(name)] += amount
        if seconds is not None:
            self._seconds[place, bisect_left(BUCKETS, seconds)] += 1

    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """The last minute's amounts ``[COUNTS]`` and requests by latency ``[buckets + 1]``."""
        now = int(self.clock() // SLOT_SECONDS)
        fresh = self._slot > now - SLOTS
        return self._sums[fresh].sum(0), self._seconds[fresh].sum(0)


def summary(parts: Iterable[Recent]) -> dict[str, float]:
    """The values that alerts may name, over some models together; what nothing was seen for is left out."""
    totals = [part.totals() for part in parts]
    if not totals:
        return {}
    sums = dict(zip(COUNTS, np.sum([one for one, _ in totals], axis=0).tolist(), strict=True))
    by_latency = np.sum([one for _, one in totals], axis=0)
    found = {"request_rate": sums["requests"] / WINDOW_SECONDS, "token_rate": sums["tokens"] / WINDOW_SECONDS}
    if sums["requests"]:
        found["error_share"] = sums["errors"] / sums["requests"]
        found["refused_share"] = sums["refused"] / sums["requests"]
    if by_latency.sum():
        for share in (50, 95, 99):
            found[f"p{share}_latency_seconds"] = quantile(by_latency, share / 100)
    if sums["scores"]:
        found["confidence_mean"] = sums["score_sum"] / sums["scores"]
    return found


def quantile(counts: np.ndarray, share: float) -> float:
    """A quantile of bucketed durations, as Prometheus' ``histogram_quantile`` gives it.

    Linear inside a bucket; beyond the last edge, that edge.
    """
    below = np.cumsum(counts)
    rank = share * below[-1]
    place = int(np.searchsorted(below, rank))
    if place >= len(BUCKETS):
        return BUCKETS[-1]
    low = BUCKETS[place - 1] if place else 0.0
    inside = rank - (below[place - 1] if place else 0.0)
    return float(low + (BUCKETS[place] - low) * inside / max(counts[place], 1e-12))
