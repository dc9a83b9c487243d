"""Texts that are open and unlike each other / 既不确定又彼此不同的文本（BADGE）.

Source: Ash et al. 2020, "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds". A text stands for the
gradient of the last layer if its own guess were its label, (p - onehot(guess)) x features; rows are drawn as k-means++
draws its centres. The outer products are never formed: |g_i - g_j|^2 follows from the two factors' inner products.
"""

from dataclasses import dataclass

import numpy as np

from weitiao.selection.base import Pool, Selection


@dataclass
class Badge(Selection):
    """k-means++ on gradient embeddings."""

    def choose(self, pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
        x_NF, count = pool.features_NF, min(count, len(pool))
        a_NC = pool.probabilities_NC.copy()
        a_NC[np.arange(len(pool)), a_NC.argmax(1)] -= 1
        squares_N = (a_NC**2).sum(1) * (x_NF**2).sum(1)
        nearest_N = squares_N.copy()  # the gradient of what the model is sure of is 0: the first centre
        chosen: list[int] = []
        while len(chosen) < count:
            total = nearest_N.sum()
            if total > 0:
                row = int(random.choice(len(pool), p=nearest_N / total))
            else:  # none differs from those chosen
                row = int(random.choice(np.setdiff1d(np.arange(len(pool)), chosen)))
            chosen.append(row)
            inner_N = (a_NC @ a_NC[row]) * (x_NF @ x_NF[row])
            nearest_N = np.minimum(nearest_N, np.maximum(squares_N - 2 * inner_N + squares_N[row], 0))
            nearest_N[chosen] = 0
        return np.array(chosen, np.int64)
