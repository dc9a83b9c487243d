"""Texts whose answer is the most open over all labels / 预测熵最大的文本.

Source: Settles 2009, "Active Learning Literature Survey", section 3.1.
"""

from dataclasses import dataclass

import numpy as np

from weitiao.selection.base import Pool, Selection, entropy_of, highest


@dataclass
class Entropy(Selection):
    """Highest entropy of the probabilities first."""

    def choose(self, pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
        return highest(entropy_of(pool.probabilities_NC), count, random)
