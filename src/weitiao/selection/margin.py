"""Texts between two labels: the best two are close / 最可能的两个标签概率相近的文本.

Source: Scheffer, Decomain and Wrobel 2001, "Active Hidden Markov Models for Information Extraction".
"""

from dataclasses import dataclass

import numpy as np

from weitiao.selection.base import Pool, Selection, highest


@dataclass
class Margin(Selection):
    """Smallest difference of the two highest probabilities first."""

    def choose(self, pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
        if pool.probabilities_NC.shape[1] < 2:
            return random.permutation(len(pool))[:count]
        second_N2 = np.partition(pool.probabilities_NC, -2, axis=1)[:, -2:]
        return highest(second_N2[:, 0] - second_N2[:, 1], count, random)
