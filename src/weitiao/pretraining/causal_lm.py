"""Predict each next token, as GPT does / 逐个预测下一个词元（GPT 的目标）."""

from dataclasses import dataclass

import numpy as np

from weitiao.pretraining.base import Example, Pretraining, Vocabulary


@dataclass
class CausalLm(Pretraining):
    """-sum of log p(token | tokens before it in the block). Radford et al. 2018, equation 1."""

    decoder = True
    predicts_tokens = True

    def predict(self, examples: list[Example], vocabulary: Vocabulary, random: np.random.Generator) -> None:
        for example in examples:
            example.targets = example.ids[1:].astype(np.int64)
            example.ids = example.ids[:-1]
            example.marks = np.arange(len(example.ids))
