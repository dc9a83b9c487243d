"""The contract of a pretraining objective: it edits the blocks of a step and says which tokens are to be predicted.

A member is a dataclass whose ``option`` fields are settings. One that predicts tokens (``predicts_tokens``) hides or
points; one that judges pairs (``judges_pairs``) puts a pair of texts in a block's place. ``masked_lm+next_sentence`` is
both, one after the other: the pairs are made first, then tokens are hidden in them.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Vocabulary:
    """What an objective has to know of the pieces, by id.

    Attributes:
        starts_V: bool, the piece begins a word (each Chinese piece does).
        chinese_V: bool, the piece begins with a Chinese character.
        ends_V: bool, a sentence ends with the piece.
        used: ids that occur in the corpus: what a random token is drawn from.
        cls, sep, mask: special ids; -1 for those that a decoder has not.
    """

    starts_V: np.ndarray
    chinese_V: np.ndarray
    ends_V: np.ndarray
    used: np.ndarray
    sep: int
    cls: int = -1
    mask: int = -1


@dataclass
class Example:
    """One text as the model is to read it.

    ``marks`` are places whose states are read, ``targets`` the ids that belong there; ``types`` tells the texts of a
    pair apart; ``pair`` is the right answer about them (0: as in the corpus, 1: not), -1 where there is no pair.
    """

    ids: np.ndarray
    marks: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    targets: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    types: np.ndarray | None = None
    pair: int = -1


class Pretraining:
    """One objective. All it draws comes from the generator it is given, so a resumed run draws the same."""

    decoder: ClassVar[bool] = False  # for causal models; else for encoders
    predicts_tokens: ClassVar[bool] = False
    judges_pairs: ClassVar[bool] = False

    def pair(
        self, block: np.ndarray, others: list[np.ndarray], vocabulary: Vocabulary, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Two texts made of a block (``others``: the step's other blocks), and the right answer about them."""
        raise NotImplementedError

    def predict(self, examples: list[Example], vocabulary: Vocabulary, random: np.random.Generator) -> None:
        """Set the examples' ids, marks and targets."""
        raise NotImplementedError


def halves(block: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """A block cut at the end of the sentence nearest to its middle, or in the middle where none ends there."""
    middle = len(block) // 2
    ends = np.flatnonzero(vocabulary.ends_V[block[:-1]]) + 1
    ends = ends[(ends >= len(block) // 8) & (ends <= len(block) - len(block) // 8)]
    cut = int(ends[np.abs(ends - middle).argmin()]) if len(ends) else middle
    return block[:cut], block[cut:]
