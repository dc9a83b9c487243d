"""Does the second text follow the first? As BERT asked / 第二段是否接在第一段之后（BERT 的句对目标）."""

from dataclasses import dataclass

import numpy as np

from weitiao.pretraining.base import Pretraining, Vocabulary, halves


@dataclass
class NextSentence(Pretraining):
    """Half of the pairs are a block's two halves; in the others the second is another block's. Devlin et al. 2019."""

    judges_pairs = True

    def pair(
        self, block: np.ndarray, others: list[np.ndarray], vocabulary: Vocabulary, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        first, second = halves(block, vocabulary)
        if not others or random.random() < 0.5:
            return first, second, 0
        strange = halves(others[random.integers(len(others))], vocabulary)[1]
        return first, strange[: len(second)], 1
