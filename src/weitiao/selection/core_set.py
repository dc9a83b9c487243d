"""Texts far from all that are labelled: cover the whole table / 离已标注文本最远者，覆盖整张表（核心集）.

Source: Sener and Savarese 2018, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", algorithm 1
(k-center greedy).
"""

from dataclasses import dataclass

import numpy as np

from weitiao.selection.base import Pool, Selection


@dataclass
class CoreSet(Selection):
    """The farthest from the labelled ones and from those already chosen, one after the other."""

    def choose(self, pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
        x_NF = pool.features_NF
        squares_N = (x_NF**2).sum(1)
        nearest_N = np.full(len(pool), np.inf)
        for part_MF in np.array_split(pool.labelled_MF, max(1, len(pool.labelled_MF) // 500)):
            if len(part_MF):
                apart_NM = squares_N[:, None] - 2 * x_NF @ part_MF.T + (part_MF**2).sum(1)
                nearest_N = np.minimum(nearest_N, apart_NM.min(1))
        chosen: list[int] = []
        for _ in range(min(count, len(pool))):
            start = not chosen and np.isinf(nearest_N).all()
            row = int(random.integers(len(pool))) if start else int(nearest_N.argmax())
            chosen.append(row)
            nearest_N = np.minimum(nearest_N, squares_N - 2 * x_NF @ x_NF[row] + squares_N[row])
            nearest_N[chosen] = -np.inf
        return np.array(chosen, np.int64)
