"""Precision, recall, F1 and the area under the ROC curve, from counts; any leading axes broadcast."""

import numpy as np


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the first axis, ties sharing their mean.

    The same as ``scipy.stats.rankdata``, whose import costs a second.

    Args:
        values: float [N] or [N, C].
    """
    values = np.asarray(values, dtype=float)
    if values.ndim == 2:
        return np.stack([average_ranks(column) for column in values.T], axis=1)
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """``top / bottom``, and 0 where ``bottom`` is 0 (scikit-learn's ``zero_division=0``)."""
    top, bottom = np.broadcast_arrays(np.asarray(top, dtype=float), np.asarray(bottom, dtype=float))
    return np.divide(top, bottom, out=np.zeros(top.shape), where=bottom != 0)


def precision_recall_f1(
    correct: np.ndarray, predicted: np.ndarray, gold: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 from how many were rightly predicted, predicted, and true: each [..., C]."""
    return ratio(correct, predicted), ratio(correct, gold), ratio(2 * correct, np.add(predicted, gold))


def row_of_rates(correct: float, predicted: float, gold: float) -> dict[str, float]:
    """One line of scikit-learn's report: precision, recall, f1-score, support."""
    precision, recall, f1 = precision_recall_f1(np.asarray(correct), np.asarray(predicted), np.asarray(gold))
    rates = {"precision": float(precision), "recall": float(recall), "f1-score": float(f1)}
    return {**rates, "support": int(gold)}


def average_row(rows: list[dict[str, float]], weighted: bool = False) -> dict[str, float]:
    """The macro average of report lines, or the average weighted by support."""
    support = np.array([row["support"] for row in rows], dtype=float)
    weights = support if weighted else np.ones(len(rows))
    names = ("precision", "recall", "f1-score")
    total = weights.sum()
    means = {name: float(weights @ [row[name] for row in rows] / total) if total else 0.0 for name in names}
    return {**means, "support": int(support.sum())}


def roc_areas(gold: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The area under each class's ROC curve by the Mann-Whitney statistic (ties count half).

    Args:
        gold: {0, 1} [N, C].
        scores: float [N, C].

    Returns:
        float [C]; NaN for a class that has only positives or only negatives.
    """
    gold = np.asarray(gold, dtype=float)
    positive = gold.sum(axis=0)
    pairs = positive * (len(gold) - positive)
    wins = (gold * average_ranks(scores)).sum(axis=0) - positive * (positive + 1) / 2
    return np.divide(wins, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
