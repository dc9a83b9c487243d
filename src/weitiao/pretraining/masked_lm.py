"""Hide words and predict them, as BERT does / 遮住词语再预测（BERT 的目标）."""

from dataclasses import dataclass

import numpy as np

from weitiao.core.config import option
from weitiao.pretraining.base import Example, Pretraining, Vocabulary


@dataclass
class MaskedLm(Pretraining):
    """-sum of log p(hidden token | the rest). Drawn anew at every step (Liu et al. 2019), in whole words.

    Of the tokens chosen, 80 % become [MASK], 10 % a random one, 10 % stay (Devlin et al. 2019). An English word is
    hidden with all its pieces. Chinese has no spaces and no word list comes with this: spans of Chinese pieces are
    hidden, each going on with a chance of 40 % (1.7 pieces on average), a stand-in for words (after Cui et al. 2020's
    n-grams).
    """

    mask_rate: float = option(
        0.15, "share of words that are hidden", "被遮住的词的比例", least=0.01, most=0.9
    )
    whole_words: bool = option(
        True,
        "hide words whole, and spans of Chinese; else single tokens",
        "整词遮盖（中文为连续片段）；否则按单个词元",
    )

    predicts_tokens = True
    going_on = 0.4

    def predict(self, examples: list[Example], vocabulary: Vocabulary, random: np.random.Generator) -> None:
        for example in examples:
            ids = example.ids
            free = (ids != vocabulary.cls) & (ids != vocabulary.sep)
            chosen = self._chosen(ids, free, vocabulary, random)
            example.marks = np.flatnonzero(chosen)
            example.targets = ids[chosen].astype(np.int64)
            kind = random.random(len(example.marks))
            other = vocabulary.used[random.integers(0, len(vocabulary.used), len(kind))]
            shown = np.where(kind < 0.8, vocabulary.mask, np.where(kind < 0.9, other, example.targets))
            example.ids = ids.copy()
            example.ids[chosen] = shown

    def _chosen(
        self, ids: np.ndarray, free: np.ndarray, vocabulary: Vocabulary, random: np.random.Generator
    ) -> np.ndarray:
        """Which tokens are to be predicted, bool ``[L]``; at least one where any may be."""
        if not self.whole_words:
            begins = np.ones(len(ids), bool)
        else:
            begins = vocabulary.starts_V[ids] | ~free
            begins[1:] |= ~free[:-1]
            chinese = vocabulary.chinese_V[ids] & free
            joined = chinese[1:] & chinese[:-1] & (random.random(len(ids) - 1) < self.going_on)
            begins[1:] &= ~joined
        begins[0] = True
        unit = np.cumsum(begins) - 1
        drawn = random.random(unit[-1] + 1) < self.mask_rate
        chosen = drawn[unit] & free
        if not chosen.any() and free.any():
            chosen = (unit == unit[random.choice(np.flatnonzero(free))]) & free
        return chosen
