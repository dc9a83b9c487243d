"""A number a pair of texts: Spearman and Pearson correlation, mean squared error.

A correlation with a constant is undefined; it is reported as 0 with a note, so that it never looks good.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from weitiao.core.messages import say
from weitiao.evaluation._bootstrap import Statistic, point
from weitiao.evaluation._rates import average_ranks
from weitiao.evaluation._table import footer, headline, sections
from weitiao.evaluation.base import Evaluation, Predictions


class Similarity(Evaluation):
    """Scores for how well predicted numbers follow the true ones."""

    name = "similarity"
    monitor = "spearman"

    def scores(self, predictions: Predictions) -> dict[str, float]:
        return {
            name: float(np.nan_to_num(value)) for name, value in point(*self.resampled(predictions)).items()
        }

    def resampled(self, predictions: Predictions) -> tuple[np.ndarray, Statistic]:
        return np.ones(len(predictions), dtype=np.int64), _from_counts(*_numbers(predictions))

    def baseline(self, predictions: Predictions, train_majority: Any) -> dict[str, Any]:
        """Always the same number, the mean unless one is given: it correlates with nothing."""
        gold, _ = _numbers(predictions)
        answer = float(gold.mean() if train_majority is None else train_majority)
        squared = float(((gold - answer) ** 2).mean())
        return {"answer": f"{answer:.4g}", "spearman": 0.0, "pearson": 0.0, "mse": squared}

    def details(self, predictions: Predictions) -> dict[str, Any]:
        return {}

    def notes(self, predictions: Predictions) -> list[str]:
        found = []
        whose = (say("true", "真实"), say("predicted", "预测"))
        for values, kind in zip(_numbers(predictions), whose, strict=True):
            if np.ptp(values) == 0:
                found.append(
                    say(
                        f"All {kind} values are {values[0]:.4g}: correlation is undefined and reported as 0.",
                        f"所有{kind}值都是 {values[0]:.4g}：相关系数无定义，记为 0。",
                    )
                )
        return found

    def worst_errors(self, predictions: Predictions, n: int = 50) -> list[dict[str, Any]]:
        """The largest differences in rank (as a share of N): what costs Spearman most on any scale."""
        gold, predicted = _numbers(predictions)
        error = (average_ranks(predicted) - average_ranks(gold)) / len(gold)
        order = np.lexsort((np.arange(len(gold)), -np.abs(error)))
        return [
            {
                "row_number": int(predictions.row_numbers[row]),
                "text": predictions.texts[row],
                "gold": float(gold[row]),
                "predicted": float(predicted[row]),
                "rank_error": float(error[row]),
            }
            for row in order[error[order] != 0][:n]
        ]

    def report_text(self, report: Mapping[str, Any]) -> str:
        names = {"spearman": "Spearman", "pearson": "Pearson", "mse": say("mean squared error", "均方误差")}
        return sections(headline(report, names), footer(report))


def _numbers(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted numbers as float64 [N] each."""
    return np.asarray(predictions.gold, dtype=np.float64), np.asarray(predictions.predicted, dtype=np.float64)


def _from_counts(gold: np.ndarray, predicted: np.ndarray) -> Statistic:
    """Scores from how often each of the N rows counts; NaN where undefined."""
    squared = (gold - predicted) ** 2

    def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "spearman": _correlation(counts, _ranks(counts, gold), _ranks(counts, predicted)),
            "pearson": _correlation(counts, gold[None], predicted[None]),
            "mse": counts @ squared / counts.sum(axis=-1),
        }

    return scores


def _ranks(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The rank of each value [N] in each resample [B, N], ties at their mean rank: float [B, N]."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(values[order]) != 0]))
    sizes = np.add.reduceat(counts[:, order], starts, axis=1)  # [B, distinct values]
    ranks_of_group = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    group = np.searchsorted(values[order][starts], values)
    return ranks_of_group[:, group]


def _correlation(counts: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Pearson correlation of two [B or 1, N] under counts [B, N]: float [B], NaN for a constant."""
    total = counts.sum(axis=1, keepdims=True)

    def centred(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        around = values - (counts * values).sum(axis=1, keepdims=True) / total
        spread = np.sqrt((counts * around**2).sum(axis=1) / total[:, 0])
        # Rounding leaves a constant with a spread near, not at, zero.
        return around, np.where(spread > 1e-12 * np.abs(values).max(), spread, np.nan)

    (left, left_spread), (right, right_spread) = centred(left), centred(right)
    return (counts * left * right).sum(axis=1) / total[:, 0] / (left_spread * right_spread)
