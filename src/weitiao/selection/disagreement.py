"""Texts on which heads fitted to different samples disagree / 由不同样本训练的多个分类头意见分歧最大的文本.

Source: McCallum and Nigam 1998, "Employing EM and Pool-Based Active Learning for Text Classification": the mean of
KL(p_k || mean p) over the committee, which is H(mean p) - mean H(p_k).
"""

from dataclasses import dataclass

import numpy as np

from weitiao.selection.base import Pool, Selection, entropy_of, highest


@dataclass
class Disagreement(Selection):
    """Highest divergence from the committee's mean first; at random where there is no committee."""

    needs_committee = True

    def choose(self, pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
        votes_KNC = pool.committee_KNC
        if not len(votes_KNC):
            return random.permutation(len(pool))[:count]
        scores_N = entropy_of(votes_KNC.mean(0)) - entropy_of(votes_KNC).mean(0)
        return highest(scores_N, count, random)
