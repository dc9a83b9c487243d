"""Any number of labels a text: micro and macro F1, how often the whole set is right, AUROC.

Scores equal scikit-learn's on label indicator matrices with ``zero_division=0``.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from weitiao.core.messages import say
from weitiao.evaluation._bootstrap import Statistic, point
from weitiao.evaluation._rates import average_row, precision_recall_f1, roc_areas, row_of_rates
from weitiao.evaluation._table import footer, headline, rates_table, sections
from weitiao.evaluation.base import Evaluation, Predictions


class MultiLabel(Evaluation):
    """Scores for a set of labels a text, which may be empty."""

    name = "multi_label"
    monitor = "micro_f1"

    def scores(self, predictions: Predictions) -> dict[str, float]:
        found = point(*self.resampled(predictions))
        if predictions.probabilities is not None:
            areas = roc_areas(predictions.gold, predictions.probabilities)
            if not np.isnan(areas).all():
                found["auroc"] = float(np.nanmean(areas))
        return found

    def resampled(self, predictions: Predictions) -> tuple[np.ndarray, Statistic]:
        each_once = np.ones(len(predictions), dtype=np.int64)
        return each_once, _from_counts(predictions.gold, predictions.predicted)

    def baseline(self, predictions: Predictions, train_majority: Any) -> dict[str, Any]:
        if train_majority is None:
            train_majority = Counter(map(tuple, np.asarray(predictions.gold).tolist())).most_common(1)[0][0]
        elif any(isinstance(label, str) for label in train_majority):
            train_majority = [label in train_majority for label in predictions.labels]
        always = np.tile(np.asarray(train_majority, dtype=np.int64), (len(predictions), 1))
        if always.shape != np.shape(predictions.gold):  # an empty list of names
            always = np.zeros_like(predictions.gold)
        found = point(np.ones(len(always)), _from_counts(predictions.gold, always))
        return {"answer": _names(predictions.labels, always[0]), **found}

    def details(self, predictions: Predictions) -> dict[str, Any]:
        gold, predicted = np.asarray(predictions.gold), np.asarray(predictions.predicted)
        correct = gold * predicted
        rows = {
            label: row_of_rates(correct[:, place].sum(), predicted[:, place].sum(), gold[:, place].sum())
            for place, label in enumerate(predictions.labels)
        }
        averages = {
            "micro avg": row_of_rates(correct.sum(), predicted.sum(), gold.sum()),
            "macro avg": average_row(list(rows.values())),
            "weighted avg": average_row(list(rows.values()), weighted=True),
        }
        return {"labels": list(predictions.labels), "per_class": rows, "averages": averages}

    def gold_slices(self, predictions: Predictions) -> list[tuple[str, str, np.ndarray]]:
        gold = np.asarray(predictions.gold, dtype=bool)
        return [("label", label, gold[:, place]) for place, label in enumerate(predictions.labels)]

    def worst_errors(self, predictions: Predictions, n: int = 50) -> list[dict[str, Any]]:
        gold, predicted = np.asarray(predictions.gold), np.asarray(predictions.predicted)
        wrong = gold != predicted
        weight = wrong.astype(
            float
        )  # how far off each wrong label is; equal where there are no probabilities
        if predictions.probabilities is not None:
            weight = wrong * np.abs(np.asarray(predictions.probabilities, dtype=float) - gold)
        order = np.lexsort((np.arange(len(gold)), -wrong.sum(axis=1), -weight.max(axis=1, initial=0)))
        found = []
        for row in order[wrong.any(axis=1)[order]][:n]:
            entry = {
                "row_number": int(predictions.row_numbers[row]),
                "text": predictions.texts[row],
                "gold": _names(predictions.labels, gold[row]),
                "predicted": _names(predictions.labels, predicted[row]),
            }
            if predictions.probabilities is not None:
                given = np.asarray(predictions.probabilities[row], dtype=float)
                # What went wrong: the true label believed least, and the wrong label believed most.
                entry["probability_gold"] = float(given[gold[row] == 1].min(initial=1.0))
                entry["probability_predicted"] = float(given[predicted[row] > gold[row]].max(initial=0.0))
            found.append(entry)
        return found

    def report_text(self, report: Mapping[str, Any]) -> str:
        names = {
            "micro_f1": say("micro F1", "微平均 F1"),
            "macro_f1": say("macro F1", "宏平均 F1"),
            "subset_accuracy": say("whole set right", "标签集合全对"),
            "auroc": "AUROC",
        }
        table = rates_table(report["per_class"], report["averages"])
        return sections(table, headline(report, names), footer(report))


def _names(labels: list[str], row: np.ndarray) -> str:
    """``a|b`` for the labels that are set in a {0, 1} row [C]; ``-`` for none."""
    return "|".join(label for label, on in zip(labels, row, strict=True) if on) or "-"


def _from_counts(gold: np.ndarray, predicted: np.ndarray) -> Statistic:
    """Scores from how often each of the N rows counts: [B, N] -> {score: float [B]}."""
    gold, predicted = np.asarray(gold, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    whole = (gold == predicted).all(axis=1).astype(np.float64)

    def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
        counts = counts.astype(np.float64)
        correct, answers, support = counts @ (gold * predicted), counts @ predicted, counts @ gold
        micro = precision_recall_f1(correct.sum(axis=-1), answers.sum(axis=-1), support.sum(axis=-1))[2]
        return {
            "micro_f1": micro,
            "macro_f1": precision_recall_f1(correct, answers, support)[2].mean(axis=-1),
            "subset_accuracy": counts @ whole / counts.sum(axis=-1),
        }

    return scores
