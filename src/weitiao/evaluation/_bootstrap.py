"""How sure a score is: percentile bootstrap intervals (Efron 1979), all resamples at once.

Resampling rows with replacement only changes how often each row counts, so a resample is a vector of counts,
and a score that can be computed from counts is computed for a whole block of resamples by one matrix product.
"""

from collections.abc import Callable

import numpy as np

Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]  # counts [B, K] -> {score: float [B]}
RESAMPLES = 1000
BLOCK_CELLS = 4_000_000  # counts held at once: bounds the memory to about 100 MB


def point(counts: np.ndarray, statistic: Statistic) -> dict[str, float]:
    """The scores of the rows as they are, from the same counts [K] and function that the bootstrap takes."""
    return {name: float(value[0]) for name, value in statistic(np.asarray(counts)[None]).items()}


def percentile_intervals(
    counts: np.ndarray,
    statistic: Statistic,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> dict[str, list[float]]:
    """Intervals of every score that ``statistic`` computes.

    Args:
        counts: int [K], how many of the N rows gave each of K different answers; ones where each is its own.
        statistic: the scores of each resample, computed from its counts.

    Returns:
        score -> [low, high]. The interval of a score that is NaN in a resample is taken over the others.
    """
    generator = np.random.default_rng(seed)
    block = max(1, min(resamples, BLOCK_CELLS // len(counts)))
    drawn: dict[str, list[np.ndarray]] = {}
    for start in range(0, resamples, block):
        weights = _draw(generator, counts, min(block, resamples - start))
        for name, values in statistic(weights).items():
            drawn.setdefault(name, []).append(values)
    tail = 100 * (1 - level) / 2
    intervals = {}
    for name, blocks in drawn.items():
        values = np.concatenate(blocks)
        values = values[~np.isnan(values)]
        if len(values):
            intervals[name] = [float(bound) for bound in np.percentile(values, [tail, 100 - tail])]
    return intervals


def _draw(generator: "np.random.Generator", counts: np.ndarray, size: int) -> np.ndarray:
    """``size`` resamples of N rows with replacement, as counts: int [size, K]."""
    total = int(counts.sum())
    if total > len(counts):
        return generator.multinomial(total, counts / total, size=size)
    # Every row is its own answer: counting drawn rows is faster than a multinomial of as many kinds.
    rows = generator.integers(0, total, size=(size, total))
    rows += np.arange(size)[:, None] * total
    return np.bincount(rows.ravel(), minlength=size * total).reshape(size, total)
