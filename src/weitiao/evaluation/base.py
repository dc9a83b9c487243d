"""The contract of the evaluation family, what a task hands over to it, and the table of worst errors.

A member says how its kind of answer is scored; the base adds what every score needs: the majority baseline
beside it, an interval around it, the slice of the data where it is worst, and the errors to read first.
"""

import csv
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file
from weitiao.evaluation._bootstrap import Statistic, percentile_intervals
from weitiao.evaluation._slices import languages_of, smallest_slice, text_slices

SLICES_KEPT = 12
SLICES_OF_A_KIND = 4  # so that many labels don't crowd out length and language
ERRORS_KEPT = 20
PICTURES_KEPT = 60  # of a page that shows errors as pictures, which are taken in at a glance


@dataclass
class Predictions:
    """What a task hands over after predicting a split of N texts with C label names.

    ============== ============================ ====================================================
    evaluation     gold, predicted              probabilities
    ============== ============================ ====================================================
    classification int [N]                      [N, C]; or [N], the second label's, for two labels
    multi_label    {0, 1} [N, C]                [N, C]
    spans          per text (start, end, label) None
    similarity     float [N]                    None
    ============== ============================ ====================================================

    ``row_numbers`` are the user's, ``extra["slices"]`` maps a column's name to its value in each row.
    Where the examples are pictures, ``extra["pictures"][row]`` is one of them for a page (a ``data:`` address), of the
    whole split; ``texts`` are then their names, which say nothing about them.
    """

    texts: list[str]
    row_numbers: list[int]
    labels: list[str]
    gold: Any
    predicted: Any
    probabilities: np.ndarray | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> "Predictions":
        """The predictions of some rows (int [M]), in that order."""

        def pick(values: Any) -> Any:
            return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]

        probabilities = None if self.probabilities is None else self.probabilities[rows]
        slices = {name: pick(values) for name, values in self.extra.get("slices", {}).items()}
        return replace(
            self,
            texts=pick(self.texts),
            row_numbers=pick(self.row_numbers),
            gold=pick(self.gold),
            predicted=pick(self.predicted),
            probabilities=probabilities,
            extra={**self.extra, "slices": slices} if slices else self.extra,
        )


class Evaluation(ABC):
    """How one kind of answer is scored. Higher ``monitor`` is better, and it chooses the best checkpoint."""

    name: ClassVar[str]
    monitor: ClassVar[str]
    chooses: ClassVar[str] = ""  # the score that chooses the checkpoint, where that is another one

    @abstractmethod
    def scores(self, predictions: Predictions) -> dict[str, float]:
        """The numbers alone, fast enough to use in training. An undefined score is left out, never NaN."""

    @abstractmethod
    def resampled(self, predictions: Predictions) -> tuple[np.ndarray, Statistic]:
        """What the bootstrap needs: how often each of K different answers occurs (int [K], summing to N), and
        the function that computes the scores from such counts."""

    @abstractmethod
    def baseline(self, predictions: Predictions, train_majority: Any) -> dict[str, Any]:
        """The scores of answering always the same, without looking at the text; ``answer`` says what."""

    @abstractmethod
    def worst_errors(self, predictions: Predictions, n: int = 50) -> list[dict[str, Any]]:
        """The ``n`` wrong answers to read first, the most confidently wrong at the top."""

    @abstractmethod
    def details(self, predictions: Predictions) -> dict[str, Any]:
        """What this kind of answer adds to the report: per-class scores, the confusion matrix ..."""

    @abstractmethod
    def report_text(self, report: Mapping[str, Any]) -> str:
        """The report for people, at most 100 columns wide (a Chinese character takes two)."""

    def gold_slices(self, predictions: Predictions) -> list[tuple[str, str, np.ndarray]]:
        """Slices by the true answer: (what it is cut by, its value, bool [N])."""
        return []

    def notes(self, predictions: Predictions) -> list[str]:
        """What a reader must know to read the scores rightly, a sentence each."""
        return []

    def intervals(self, predictions: Predictions, seed: int = 0) -> dict[str, list[float]]:
        """95 % percentile bootstrap intervals: score -> [low, high]."""
        counts, statistic = self.resampled(predictions)
        return percentile_intervals(counts, statistic, seed=seed)

    def report(
        self, predictions: Predictions, *, train_majority: Any = None, seed: int = 0
    ) -> dict[str, Any]:
        """Everything that ``metrics.json`` keeps of a split, ready for JSON.

        Args:
            train_majority: the most frequent answer in training (a label's name or index; for several labels
                a {0, 1} vector or names; for similarity a number). Without it the baseline takes the most
                frequent answer of this very split, which can only flatter the baseline.
            seed: of the bootstrap.

        Raises:
            WeitiaoError: there is nothing to evaluate.
        """
        if len(predictions) == 0:
            raise WeitiaoError(
                say(
                    "There are no rows to evaluate. Give a file with at least one labelled row.",
                    "没有可供评估的数据行。请提供至少含一行标注的文件。",
                )
            )
        slices = self.slice_scores(predictions, seed)
        return {
            "kind": self.name,
            "monitor": self.monitor,
            "rows": len(predictions),
            "languages": dict(Counter(languages_of(predictions.texts))),
            "scores": self.scores(predictions),
            "intervals": self.intervals(predictions, seed),
            "baseline": self.baseline(predictions, train_majority),
            **self.details(predictions),
            "slices": slices,
            "worst_slice": slices[0] if slices else None,
            "worst_errors": self.worst_errors(
                predictions, PICTURES_KEPT if "pictures" in predictions.extra else ERRORS_KEPT
            ),
            "notes": self.notes(predictions),
        }

    def slice_scores(self, predictions: Predictions, seed: int = 0) -> list[dict[str, Any]]:
        """The slices where ``monitor`` is lowest, worst first: by, value, name, rows, score, interval.

        Of each kind (length, label ...) only the worst few are kept.

        The worst of many slices looks worse than it is, which is why each carries its interval.
        """
        found = []
        for by, value, chosen in text_slices(predictions) + self.gold_slices(predictions):
            rows = np.flatnonzero(chosen)
            if smallest_slice(len(predictions)) <= len(rows) < len(predictions):
                part = predictions.take(rows)
                found.append((self.scores(part)[self.monitor], by, value, part))
        found.sort(key=lambda entry: entry[:3])
        of_a_kind: Counter[str] = Counter()
        kept = []
        for entry in found:
            of_a_kind[entry[1]] += 1
            if of_a_kind[entry[1]] <= SLICES_OF_A_KIND:
                kept.append(entry)
        return [
            {
                "by": by,
                "value": value,
                "name": f"{by} = {value}",
                "rows": len(part),
                "score": score,
                "interval": self.intervals(part, seed).get(self.monitor),
            }
            for score, by, value, part in kept[:SLICES_KEPT]
        ]


def write_errors(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write worst errors as CSV, atomically; the byte order mark lets Excel open Chinese rightly."""
    columns = list(rows[0]) if rows else ["row_number", "text", "gold", "predicted"]
    columns = [column for column in columns if column != "picture"]  # a table holds words and numbers
    with atomic_file(path) as file:
        file.write("\ufeff")
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([_cell(row[column]) for column in columns] for row in rows)


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets an apostrophe, which makes it text again."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "replace").decode(
        "utf-8"
    )  # JSON lets half a surrogate pair in, UTF-8 none out
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
