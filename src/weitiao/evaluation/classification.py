"""One label a text: accuracy, F1 per class, AUROC, calibration, the confusion matrix.

Precision, recall and F1 equal ``sklearn.metrics.classification_report(gold, predicted, zero_division=0)``:
the macro average is over the classes that occur among the true or the predicted labels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from weitiao.core.messages import say
from weitiao.evaluation._bootstrap import Statistic, point
from weitiao.evaluation._calibration import expected_calibration_error, reliability_bins
from weitiao.evaluation._rates import average_row, precision_recall_f1, ratio, roc_areas, row_of_rates
from weitiao.evaluation._table import footer, headline, rates_table, sections
from weitiao.evaluation.base import Evaluation, Predictions


class Classification(Evaluation):
    """Scores for exactly one label a text."""

    name = "classification"
    monitor = "accuracy"

    def scores(self, predictions: Predictions) -> dict[str, float]:
        found = _rates(predictions.gold, predictions.predicted, len(predictions.labels))
        probabilities = two_columns(predictions)
        if probabilities is None:
            return found
        one_hot = np.eye(len(predictions.labels))[predictions.gold]
        areas = roc_areas(one_hot, probabilities)
        if not np.isnan(areas).all():
            found["auroc"] = float(np.nanmean(areas))
        rows = np.arange(len(predictions))
        correct = predictions.gold == predictions.predicted
        found["expected_calibration_error"] = expected_calibration_error(
            probabilities[rows, predictions.predicted], correct
        )
        given = probabilities[rows, predictions.gold]
        found["log_loss"] = float(-np.log(np.clip(given, np.finfo(float).eps, 1.0)).mean())
        return found

    def resampled(self, predictions: Predictions) -> tuple[np.ndarray, Statistic]:
        cells = confusion(predictions.gold, predictions.predicted, len(predictions.labels))
        gold, predicted = np.nonzero(cells)
        return cells[gold, predicted], _from_counts(gold, predicted, ("accuracy", "macro_f1"))

    def baseline(self, predictions: Predictions, train_majority: Any) -> dict[str, Any]:
        if train_majority is None:
            answer = int(np.bincount(predictions.gold).argmax())
        elif isinstance(train_majority, str):
            answer = predictions.labels.index(train_majority)
        else:
            answer = int(train_majority)
        always = np.full(len(predictions), answer)
        return {
            "answer": predictions.labels[answer],
            **_rates(predictions.gold, always, len(predictions.labels)),
        }

    def details(self, predictions: Predictions) -> dict[str, Any]:
        labels = predictions.labels
        cells = confusion(predictions.gold, predictions.predicted, len(labels))
        rows = {
            label: row_of_rates(cells[place, place], cells[:, place].sum(), cells[place].sum())
            for place, label in enumerate(labels)
            if cells[:, place].any() or cells[place].any()
        }
        averages: dict[str, dict[str, float]] = {
            "accuracy": {"f1-score": float(np.trace(cells) / cells.sum()), "support": int(cells.sum())},
            "macro avg": average_row(list(rows.values())),
            "weighted avg": average_row(list(rows.values()), weighted=True),
        }
        found = {"labels": list(labels), "per_class": rows, "averages": averages, "confusion": cells.tolist()}
        probabilities = two_columns(predictions)
        if probabilities is not None:
            confidence = probabilities[np.arange(len(predictions)), predictions.predicted]
            found["reliability"] = reliability_bins(confidence, predictions.gold == predictions.predicted)
        return found

    def gold_slices(self, predictions: Predictions) -> list[tuple[str, str, np.ndarray]]:
        return [("label", label, predictions.gold == place) for place, label in enumerate(predictions.labels)]

    def notes(self, predictions: Predictions) -> list[str]:
        occurs = np.bincount(predictions.gold, minlength=len(predictions.labels))
        absent = [label for label, count in zip(predictions.labels, occurs, strict=True) if not count]
        if not absent:
            return []
        few = ", ".join(absent[:5]) + (" …" if len(absent) > 5 else "")
        return [
            say(
                f"Labels without a true example in this split, of which nothing is known: {few}",
                f"以下标签在该数据集中没有真实样本，无法评估：{few}",
            )
        ]

    def worst_errors(self, predictions: Predictions, n: int = 50) -> list[dict[str, Any]]:
        wrong = np.flatnonzero(predictions.gold != predictions.predicted)
        probabilities = two_columns(predictions)
        if probabilities is not None:
            to_gold = probabilities[wrong, predictions.gold[wrong]]
            to_predicted = probabilities[wrong, predictions.predicted[wrong]]
            order = np.lexsort((wrong, to_gold, -to_predicted))
            wrong, to_gold, to_predicted = wrong[order], to_gold[order], to_predicted[order]
        found = []
        for place, row in enumerate(wrong[:n]):
            entry = {
                "row_number": int(predictions.row_numbers[row]),
                "text": predictions.texts[row],
                "gold": predictions.labels[predictions.gold[row]],
                "predicted": predictions.labels[predictions.predicted[row]],
            }
            if probabilities is not None:
                entry["probability_gold"] = float(to_gold[place])
                entry["probability_predicted"] = float(to_predicted[place])
            if "pictures" in predictions.extra:
                entry["picture"] = predictions.extra["pictures"][int(row)]
            found.append(entry)
        return found

    def report_text(self, report: Mapping[str, Any]) -> str:
        names = {
            "accuracy": say("accuracy", "准确率"),
            "macro_f1": say("macro F1", "宏平均 F1"),
            "auroc": "AUROC",
            "expected_calibration_error": say("calibration error", "校准误差"),
        }
        table = rates_table(report["per_class"], report["averages"])
        return sections(table, headline(report, names), footer(report))


def confusion(gold: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """The confusion matrix, int [C, C]: rows are true, columns predicted."""
    flat = np.asarray(gold, dtype=np.int64) * labels + np.asarray(predicted, dtype=np.int64)
    return np.bincount(flat, minlength=labels * labels).reshape(labels, labels)


def two_columns(predictions: Predictions) -> np.ndarray | None:
    """The probabilities, float64 [N, C]; those of the second of two labels, [N], get their complement."""
    if predictions.probabilities is None:
        return None
    probabilities = np.asarray(predictions.probabilities, dtype=np.float64)
    return np.stack([1 - probabilities, probabilities], axis=1) if probabilities.ndim == 1 else probabilities


def _rates(gold: np.ndarray, predicted: np.ndarray, labels: int) -> dict[str, float]:
    """Accuracy, macro F1 and weighted F1 of label indices, int [N] each."""
    cells = confusion(gold, predicted, labels)
    rows, columns = np.nonzero(cells)
    return point(cells[rows, columns], _from_counts(rows, columns))


def _from_counts(
    gold: np.ndarray, predicted: np.ndarray, wanted: tuple[str, ...] = ("accuracy", "macro_f1", "weighted_f1")
) -> Statistic:
    """Scores from how often each of K (gold, predicted) pairs occurs: int [B, K] -> {score: float [B]}."""
    present = np.unique(np.concatenate([gold, predicted]))
    of_gold = (gold[:, None] == present).astype(np.float64)  # [K, C], only the classes that occur
    of_predicted = (predicted[:, None] == present).astype(np.float64)
    hit = gold == predicted

    def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
        support, answers = counts @ of_gold, counts @ of_predicted
        correct = (counts * hit) @ of_gold
        _, _, f1 = precision_recall_f1(correct, answers, support)
        occurs = (support + answers) > 0
        every = {
            "accuracy": ratio(correct.sum(axis=-1), support.sum(axis=-1)),
            "macro_f1": ratio(f1.sum(axis=-1), occurs.sum(axis=-1)),
            "weighted_f1": ratio((f1 * support).sum(axis=-1), support.sum(axis=-1)),
        }
        return {name: every[name] for name in wanted}

    return scores
