"""The Kneser-Ney peer against the formulas written out, and that its probabilities sum to one."""

from collections import Counter

import numpy as np
import pytest

from weitiao.evaluation._ngram import bits


def by_hand(train: list[int], symbols: int, order: int, history: list[int]) -> np.ndarray:
    """p(w | history) of all w, with dictionaries: the same padding (symbol 0 before the beginning) as the arrays have."""

    def counts_of(n: int, continuation: bool) -> Counter:
        padded = [0] * n + train
        grams = [tuple(padded[i - n + 1 : i + 1]) for i in range(n, len(padded))]
        if not continuation:
            return Counter(grams)
        padded = [0, *padded]
        longer = {tuple(padded[i - n : i + 1]) for i in range(n + 1, len(padded))}
        return Counter(gram[1:] for gram in longer)

    p = np.full(symbols, 1 / symbols)
    for n in range(1, order + 1):
        counts = counts_of(n, n < order)
        c = Counter(counts.values())
        n1, n2, n3, n4 = (max(c[k], 1) for k in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        d = np.clip([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3], 0, [0, 1, 2, 3])
        context = tuple(history[len(history) - n + 1 :]) if n > 1 else ()
        own = np.array([counts.get((*context, w), 0) for w in range(symbols)])
        if own.sum():
            lost = d[np.minimum(own, 3)]
            p = np.maximum(own - lost, 0) / own.sum() + lost.sum() / own.sum() * p
    return p


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_arrays_compute_the_formulas(order: int):
    random = np.random.default_rng(0)
    train = [int(x) for x in random.integers(1, 5, 200)]
    test = [int(x) for x in random.integers(1, 6, 30)]  # 5 never occurs in training
    found = dict(bits(np.array(train), np.array(test), 6, 3))[order]
    for place, symbol in enumerate(test):
        p = by_hand(train, 6, order, train + test[:place])
        assert p.sum() == pytest.approx(1)
        assert found[place] == pytest.approx(-np.log2(max(p[symbol], 1e-12)), abs=1e-6)
