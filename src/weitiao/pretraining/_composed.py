"""Objectives together: a step's blocks become examples, pairs first, then what is to be predicted in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weitiao.core.config import make_member, several
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.pretraining.base import Example, Pretraining, Vocabulary


@dataclass
class Composed:
    """At most one objective of tokens and at most one of pairs."""

    text: str
    tokens: Pretraining | None
    pairs: Pretraining | None
    vocabulary: Vocabulary | None = None  # set before the first step

    @property
    def decoder(self) -> bool:
        """Whether it is for causal models."""
        return bool(self.tokens and self.tokens.decoder)

    @property
    def special(self) -> int:
        """Places of a text that special tokens take."""
        return 0 if self.decoder else 3 if self.pairs else 2

    def examples(self, blocks: list[np.ndarray], random: np.random.Generator) -> list[Example]:
        """What the model reads and predicts of these blocks."""
        words = self.vocabulary
        assert words is not None
        made = [self._framed(blocks, number, words, random) for number in range(len(blocks))]
        if self.tokens is not None:
            self.tokens.predict(made, words, random)
        return made

    def _framed(
        self, blocks: list[np.ndarray], number: int, words: Vocabulary, random: np.random.Generator
    ) -> Example:
        block = np.asarray(blocks[number])
        if self.decoder:
            return Example(block)
        cls, sep = np.array([words.cls]), np.array([words.sep])
        if self.pairs is None or len(block) < 2:
            return Example(np.concatenate([cls, block, sep]))
        others = [other for i, other in enumerate(blocks) if i != number and len(other) > 1]
        first, second, answer = self.pairs.pair(block, others, words, random)
        ids = np.concatenate([cls, first, sep, second, sep])
        types = (np.arange(len(ids)) >= len(first) + 2).astype(np.int64)
        return Example(ids, types=types, pair=answer)


def compose(text: str, values: Mapping[str, Any]) -> Composed:
    """The objective that a text names: ``masked_lm``, ``masked_lm+next_sentence``.

    Raises:
        WeitiaoError: a part is unknown, or the parts do not go together.
    """
    parts = [make_member("pretraining", name, values) for name in several(text)]
    tokens = [part for part in parts if part.predicts_tokens]
    pairs = [part for part in parts if part.judges_pairs]
    if not parts or len(tokens) > 1 or len(pairs) > 1 or (pairs and tokens and tokens[0].decoder):
        raise WeitiaoError(
            say(
                f"--objective {text} cannot work: causal_lm stands alone; masked_lm may go with one of next_sentence "
                "and sentence_order",
                f"--objective {text} 无法使用：causal_lm 须单独使用；masked_lm 可与 next_sentence 或 sentence_order 之一合用",
            )
        )
    return Composed(text, tokens[0] if tokens else None, pairs[0] if pairs else None)
