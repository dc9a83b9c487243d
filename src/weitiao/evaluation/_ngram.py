"""Interpolated modified Kneser-Ney over a row of symbols, what a language model has to beat.

Chen and Goodman 1999, section 3: p(w | h) = (c(h w) - D(c)) / c(h) + gamma(h) p(w | h'), where lower orders count
in how many contexts a gram stands, and D1, D2, D3+ follow from the counts of counts. The first order is mixed
with 1 / V.

Every gram of an order has a number; the grams of the next order are numbered by pairs (number, next symbol), so orders
of any length fit 64 bits, and all counting is sorting.
"""

from collections.abc import Iterator

import numpy as np


def bits(train: np.ndarray, test: np.ndarray, symbols: int, highest: int) -> Iterator[tuple[int, np.ndarray]]:
    """For each order 1 .. ``highest``, the bits of each symbol of ``test`` under the model of that order.

    Args:
        train, test: int symbols below ``symbols``; what comes before the first of the test part is the training's end.
    """
    row = np.concatenate([train, test]).astype(np.int64)
    known = len(train)
    # The gram that ends at each place, and how many there are; 0 is what comes before the beginning.
    grams, numbers = row.astype(np.int32) + 1, symbols + 1
    context = np.zeros(len(row), np.int32)  # the gram before each place
    lower = np.full(len(test), 1 / symbols)
    for order in range(1, highest + 1):
        counts = np.bincount(grams[:known], minlength=numbers)
        firsts = _first_places(grams[:known], numbers)
        yield order, -np.log2(np.maximum(_mixed(counts, firsts, context, grams, known, lower), 1e-12))
        # The numbers of the next order: this order's gram before a place, with the symbol there.
        before = np.concatenate([[0], grams[:-1]])
        _, next_grams = np.unique(before * np.int64(symbols) + row, return_inverse=True)
        next_grams = next_grams.astype(np.int32) + 1
        next_numbers = int(next_grams.max()) + 1
        # In how many different contexts each gram stands: the different longer grams that end with it.
        longer = _first_places(next_grams[:known], next_numbers)
        continued = np.bincount(grams[:known][longer[longer >= 0]], minlength=numbers)
        lower = _mixed(continued, firsts, context, grams, known, lower)
        grams, numbers, context = next_grams, next_numbers, before.astype(np.int32)


def _first_places(grams: np.ndarray, numbers: int) -> np.ndarray:
    """A place where each gram stands; -1 where it does not."""
    places = np.full(numbers, -1, np.int64)
    places[grams[::-1]] = np.arange(len(grams) - 1, -1, -1)
    return places


def _mixed(
    counts: np.ndarray,
    firsts: np.ndarray,
    context: np.ndarray,
    grams: np.ndarray,
    known: int,
    lower: np.ndarray,
) -> np.ndarray:
    """p of each symbol of the test part, from one order's counts and the lower order's p."""
    seen = np.flatnonzero(counts)
    of_context = context[firsts[seen]]  # the context of each gram
    values = counts[seen]
    n1, n2, n3, n4 = (max(int((values == k).sum()), 1) for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    discounts = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    discounts = np.clip(discounts, 0.0, [0, 1, 2, 3])
    size = int(context.max()) + 1
    totals = np.bincount(of_context, values, minlength=size)
    left = np.bincount(of_context, discounts[np.minimum(values, 3)], minlength=size)
    here, before = counts[grams[known:]], context[known:]
    total = totals[before]
    safe = np.maximum(total, 1)
    mixed = np.maximum(here - discounts[np.minimum(here, 3)], 0) / safe + left[before] / safe * lower
    return np.where(total > 0, mixed, lower)
