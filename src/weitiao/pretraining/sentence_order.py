"""Are two neighbouring texts in order? As ALBERT asks / 两段相邻文本的先后是否正确（ALBERT 的句序目标）."""

from dataclasses import dataclass

import numpy as np

from weitiao.pretraining.base import Pretraining, Vocabulary, halves


@dataclass
class SentenceOrder(Pretraining):
    """Half of the pairs are a block's two halves as they stand, half are turned round. Lan et al. 2020."""

    judges_pairs = True

    def pair(
        self, block: np.ndarray, others: list[np.ndarray], vocabulary: Vocabulary, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        first, second = halves(block, vocabulary)
        return (first, second, 0) if random.random() < 0.5 else (second, first, 1)
