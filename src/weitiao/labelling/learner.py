"""Frozen features, labels as they come in, and a head fitted anew each round: what active learning goes round with."""

from collections.abc import Mapping, Sequence

import numpy as np

from weitiao.selection.base import Pool, Selection
from weitiao.training.probe import Linear, solve

COMMITTEE = 5
PENALTY = 1.0


class Learner:
    """The texts to label, and what is known of labels.

    Args:
        features_NF: of the texts to label.
        classes: how many labels there are.
        known_MF, known_M: features and labels (int) that were there before.
    """

    def __init__(
        self,
        features_NF: np.ndarray,
        classes: int,
        known_MF: np.ndarray | None = None,
        known_M: np.ndarray | None = None,
        *,
        seed: int = 0,
        penalty: float = PENALTY,
    ) -> None:
        self.features_NF, self.classes, self.seed, self.penalty = features_NF, classes, seed, penalty
        self.known_MF = np.empty((0, features_NF.shape[1]), np.float32) if known_MF is None else known_MF
        self.known_M = np.empty(0, np.int64) if known_M is None else known_M
        self.last: tuple[dict[int, int], Linear | None] | None = (
            None  # the labels fitted to last, and their head
        )
        every = np.concatenate([features_NF, self.known_MF])
        self.mean, self.scale = every.mean(0), every.std(0) + 1e-6

    def fit(self, labels: Mapping[int, int], rows: Sequence[int] | None = None) -> Linear | None:
        """The head fitted to what was known before and to ``labels`` (row -> class), of ``rows`` only where given.

        None where there are fewer than two classes to tell apart.
        """
        chosen = {row: labels[row] for row in (labels if rows is None else rows)}
        if self.last is None or self.last[0] != chosen:
            self.last = chosen, self._fit(*self._rows(chosen))
        return self.last[1]

    def choose(
        self, selection: Selection, labels: Mapping[int, int], left: np.ndarray, count: int, round_: int
    ) -> np.ndarray:
        """The next rows to label, of those in ``left`` (int ``[L]``); int ``[min(count, L)]``."""
        random = np.random.default_rng([self.seed, round_])
        head = self.fit(labels)
        features, targets = self._rows(labels)
        pool_LF = self.features_NF[left]
        equal_LC = np.full((len(left), self.classes), 1 / self.classes)
        votes = []
        for _ in range(COMMITTEE if selection.needs_committee and head is not None else 0):
            drawn = random.integers(0, len(targets), len(targets))
            voter = self._fit(features[drawn], targets[drawn])
            votes.append(equal_LC if voter is None else voter.probabilities(pool_LF))
        pool = Pool(
            equal_LC if head is None else head.probabilities(pool_LF),
            (pool_LF - self.mean) / self.scale,
            (features - self.mean) / self.scale,
            np.stack(votes) if votes else np.empty((0, len(left), self.classes)),
        )
        return left[selection.choose(pool, count, random)]

    def _rows(self, labels: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Features and targets of all that is known."""
        given = np.array(list(labels.values()), np.int64)
        features = np.concatenate([self.known_MF, self.features_NF[list(labels)]])
        return features, np.concatenate([self.known_M, given])

    def _fit(self, features: np.ndarray, targets: np.ndarray) -> Linear | None:
        if len(np.unique(targets)) < 2:
            return None
        return solve(features, targets, self.classes, penalty=self.penalty, seed=self.seed)


def accuracy(head: Linear | None, features_NF: np.ndarray, labels_N: np.ndarray) -> float:
    """The share of rows whose label the head gives; without a head, that of the most frequent label."""
    if head is None:
        return float(np.bincount(labels_N).max() / len(labels_N))
    return float((head.probabilities(features_NF).argmax(1) == labels_N).mean())
