"""The contract of a selection: which of the unlabelled texts to label next.

A member ranks rows of a ``Pool``: what the present head thinks of them, and where they lie. It sees no label and no
text. No torch; the same generator gives the same choice.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Pool:
    """N unlabelled texts, and the M labelled ones, as the present head sees them.

    Attributes:
        probabilities_NC: of each class; all equal where there is no head yet.
        features_NF: frozen features, standardised.
        labelled_MF: those of the labelled texts.
        committee_KNC: probabilities of K heads, each fitted to another resample of the labelled texts; K is 0
            unless ``Selection.needs_committee``, or where there is nothing to resample.
    """

    probabilities_NC: np.ndarray
    features_NF: np.ndarray
    labelled_MF: np.ndarray
    committee_KNC: np.ndarray

    def __len__(self) -> int:
        return len(self.features_NF)


class Selection(ABC):
    """One way to choose."""

    needs_committee: ClassVar[bool] = False

    @abstractmethod
    def choose(self, pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
        """The ``count`` rows to label next (all, where there are fewer), the first to label first.

        Returns:
            int ``[min(count, N)]``, no row twice.
        """


def highest(scores_N: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """The rows of the highest scores, highest first; equal ones in random order."""
    return np.lexsort((random.random(len(scores_N)), -scores_N))[:count]


def entropy_of(probabilities: np.ndarray) -> np.ndarray:
    """The entropy over the last axis, in nats."""
    return -(probabilities * np.log(np.clip(probabilities, 1e-12, 1.0))).sum(-1)
