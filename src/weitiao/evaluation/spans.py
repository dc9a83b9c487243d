"""Entities in a text: precision, recall and F1 of exact (start, end, type) matches, as seqeval counts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from weitiao.core.messages import say
from weitiao.evaluation._bootstrap import Statistic, point
from weitiao.evaluation._rates import average_row, precision_recall_f1, ratio, row_of_rates
from weitiao.evaluation._table import footer, headline, rates_table, sections
from weitiao.evaluation.base import Evaluation, Predictions


class Spans(Evaluation):
    """Entity-level scores; an entity is right if its start, its end and its type are."""

    name = "spans"
    monitor = "f1"

    def scores(self, predictions: Predictions) -> dict[str, float]:
        return point(*self.resampled(predictions))

    def resampled(self, predictions: Predictions) -> tuple[np.ndarray, Statistic]:
        return np.ones(len(predictions), dtype=np.int64), _from_counts(*_counts(predictions)[:3])

    def baseline(self, predictions: Predictions, train_majority: Any) -> dict[str, Any]:
        """Most of a text is no entity, so the majority answer is to find none, which scores 0."""
        scores = dict.fromkeys(("f1", "precision", "recall", "macro_f1"), 0.0)
        return {"answer": say("no entities", "没有实体"), **scores}

    def details(self, predictions: Predictions) -> dict[str, Any]:
        correct, answers, support, types = _counts(predictions)
        columns = zip(types, correct.sum(axis=0), answers.sum(axis=0), support.sum(axis=0), strict=True)
        rows = {kind: row_of_rates(*counts) for kind, *counts in columns}
        averages = {
            "micro avg": row_of_rates(correct.sum(), answers.sum(), support.sum()),
            "macro avg": average_row(list(rows.values())),
            "weighted avg": average_row(list(rows.values()), weighted=True),
        }
        return {"labels": types, "per_class": rows, "averages": averages}

    def gold_slices(self, predictions: Predictions) -> list[tuple[str, str, np.ndarray]]:
        _, _, support, types = _counts(predictions)
        return [("contains", kind, support[:, place] > 0) for place, kind in enumerate(types)]

    def notes(self, predictions: Predictions) -> list[str]:
        if any(len(entities) for entities in predictions.gold):
            return []
        return [
            say(
                "This split has no true entities, so F1 is 0 by definition.",
                "该数据集没有真实实体，F1 按定义为 0。",
            )
        ]

    def worst_errors(self, predictions: Predictions, n: int = 50) -> list[dict[str, Any]]:
        """The texts with most missed and spurious entities; between equals, the one with more missed."""
        found = []
        for row in range(len(predictions)):
            gold, predicted = _entities(predictions.gold[row]), _entities(predictions.predicted[row])
            if gold != predicted:
                found.append((len(gold ^ predicted), len(gold - predicted), row, gold, predicted))
        found.sort(key=lambda error: (-error[0], -error[1], error[2]))
        return [
            {
                "row_number": int(predictions.row_numbers[row]),
                "text": predictions.texts[row],
                "gold": _show(predictions.texts[row], gold),
                "predicted": _show(predictions.texts[row], predicted),
                "missed": _show(predictions.texts[row], gold - predicted),
                "spurious": _show(predictions.texts[row], predicted - gold),
            }
            for _, _, row, gold, predicted in found[:n]
        ]

    def report_text(self, report: Mapping[str, Any]) -> str:
        names = {"f1": "F1", "precision": say("precision", "精确率"), "recall": say("recall", "召回率")}
        names["macro_f1"] = say("macro F1", "宏平均 F1")
        table = rates_table(report["per_class"], report["averages"])
        return sections(table, headline(report, names), footer(report))


Entity = tuple[int, int, str]


def _entities(spans: Any) -> set[Entity]:
    """The distinct entities of a text."""
    return {(int(start), int(end), str(kind)) for start, end, kind in spans}


def _counts(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Right, predicted and true entities of each type in each text, int [N, T] each; and the T types."""
    gold = [_entities(spans) for spans in predictions.gold]
    predicted = [_entities(spans) for spans in predictions.predicted]
    types = sorted({kind for spans in gold + predicted for _, _, kind in spans})
    place = {kind: index for index, kind in enumerate(types)}
    tables = np.zeros((3, len(gold), len(types)), dtype=np.int64)
    for row, (true, found) in enumerate(zip(gold, predicted, strict=True)):
        for table, spans in enumerate((true & found, found, true)):
            for _, _, kind in spans:
                tables[table, row, place[kind]] += 1
    return tables[0], tables[1], tables[2], types


def _from_counts(correct: np.ndarray, answers: np.ndarray, support: np.ndarray) -> Statistic:
    """F1 from how often each of the N texts counts: [B, N] -> {score: float [B]}."""

    def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
        counts = counts.astype(np.float64)
        right, found, true = (counts @ table.astype(np.float64) for table in (correct, answers, support))
        occurs = ((found + true) > 0).sum(axis=-1)
        per_type = precision_recall_f1(right, found, true)[2]
        micro = precision_recall_f1(right.sum(axis=-1), found.sum(axis=-1), true.sum(axis=-1))
        return {
            "f1": micro[2],
            "precision": micro[0],
            "recall": micro[1],
            "macro_f1": ratio(per_type.sum(axis=-1), occurs),
        }

    return scores


def _show(text: str, spans: set[Entity]) -> str:
    """``words [start:end] TYPE`` for each span in order; ``-`` for none."""
    return "; ".join(f"{text[start:end]} [{start}:{end}] {kind}" for start, end, kind in sorted(spans)) or "-"
