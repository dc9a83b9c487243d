"""The parity certificate: the same rows through every form of a model, and what came out differently."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.runtime.items import columns_of, records_of
from weitiao.tasks.base import Answers, Task

Outputs = Callable[[list[Any]], Sequence[Any]]
SHOWN = 3  # changed rows that an error names; the certificate lists all


@dataclass
class Certificate:
    """Compares forms of one model on some rows. The first one compared is what the others are held against, but
    where an earlier form is named.

    Attributes:
        encode: records -> token ids, as the task's answers need them.
        items: the rows, as ``predict`` takes them.
        row_numbers: their numbers in the table, as a person counts.
        tolerance: on the outputs; a form that must agree may differ by no more, and has to decide the same.
    """

    task: Task
    answers: Answers
    encode: Callable[[list[dict[str, Any]]], Any]
    items: list[Any]
    row_numbers: list[int]
    tolerance: float = 1e-3
    data: dict[str, Any] = field(default_factory=dict)
    compared: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.records = records_of(self.task, self.items)
        self.encoded = self.encode(self.records)
        self._forms: dict[str, tuple[list[Any], list[Any]]] = {}  # outputs and answers by name

    def compare(
        self,
        name: str,
        outputs_fn: Outputs,
        *,
        must: bool = True,
        against: str = "",
        tolerance: float | None = None,
    ) -> dict[str, Any]:
        """Run the rows through one more form of the model and note how it differs.

        Args:
            outputs_fn: items -> for each the raw outputs (an array), or the answer in the shape of ``predict``, where
                a form gives no outputs (a service); then scores are compared in their place.
            must: a difference beyond the tolerance, or another decision, is a failure.
            against: the form to hold it against; empty: the first one.
            tolerance: of this form, where it is another than the certificate's.

        Returns:
            the entry of the certificate: ``name, must, against, tolerance, largest_difference, agreement, changed``.
        """
        found = list(outputs_fn(self.items))
        raw = isinstance(found[0], np.ndarray)
        answers = self._answers(found) if raw else found
        self._forms[name] = found, answers
        against = against or next(iter(self._forms))
        tolerance = self.tolerance if tolerance is None else tolerance
        reference, expected = self._forms[against]
        pairs = zip(reference, found, strict=True) if raw else zip(expected, answers, strict=True)
        differences = [_difference(a, b) for a, b in pairs]
        changed = []
        for row, was, now, difference in zip(self.row_numbers, expected, answers, differences, strict=True):
            before, after = decision(was), decision(now)
            if before != after or (before is None and difference > tolerance):
                changed.append({"row": row, "was": before, "is": after, "difference": difference})
        entry = {
            "name": name,
            "must": must,
            "against": against,
            "tolerance": tolerance,
            "compares": "outputs" if raw else "scores",
            "largest_difference": max(differences, default=0.0),
            "agreement": 1 - len(changed) / len(self.items),
            "changed": changed,
        }
        self.compared.append(entry)
        return entry

    def check(self) -> None:
        """Raise if a form that must agree does not.

        Raises:
            WeitiaoError: naming the form, the difference and the first rows.
        """
        for entry in self.compared:
            off, changed, tolerance = entry["largest_difference"], entry["changed"], entry["tolerance"]
            if not entry["must"] or (off <= tolerance and not changed):
                continue
            first = entry["against"] == self.compared[0]["name"]
            other = say("the trained model", "训练模型") if first else entry["against"]
            way = say(" Allow more with --tolerance", "可用 --tolerance 放宽") if first else ""
            rows = ", ".join(str(one["row"]) for one in changed[:SHOWN])
            where = say(f" (rows {rows})", f"（第 {rows} 行）") if changed else ""
            raise WeitiaoError(
                say(
                    f"{entry['name']} is not {other}: {entry['compares']} differ by up to {off:.2g} "
                    f"(tolerance {tolerance:g}), {len(changed)} of {len(self.items)} decisions changed{where}. "
                    f"Nothing was written.{way}",
                    f"{entry['name']} 与{other}不一致：{'输出' if entry['compares'] == 'outputs' else '分数'}最大相差 "
                    f"{off:.2g}（容差 {tolerance:g}），{len(self.items)} 条中有 {len(changed)} 条判定改变{where}。"
                    f"未写入任何文件。{way}",
                )
            )

    def answers_of(self, name: str) -> list[Any]:
        """What a form answered for the rows, in the shapes of ``predict``."""
        return self._forms[name][1]

    def as_json(self) -> dict[str, Any]:
        """What ``certificate.json`` holds; row numbers and decisions, never a text."""
        return {
            "version": 1,
            "rows": len(self.items),
            "data": self.data,
            "tolerance": self.tolerance,
            "reference": self.compared[0]["name"] if self.compared else "",
            "compared": self.compared,
        }

    def _answers(self, outputs: list[Any]) -> list[Any]:
        return self.task.answers(outputs, self.encoded, columns_of(self.records), self.answers)


def decision(answer: Any) -> Any:
    """What an answer decides, as plain values: a label, labels, spans ``[start, end, label]``; None for a number."""
    if isinstance(answer, dict):
        return None if answer.get("label") == "similarity" else answer.get("label")
    if answer and "entity_group" in answer[0]:
        return [[span["start"], span["end"], span["entity_group"]] for span in answer]
    return [one["label"] for one in answer]


def _difference(a: Any, b: Any) -> float:
    """The largest difference of two outputs, or of two answers' scores (0 where their decisions differ)."""
    if isinstance(a, np.ndarray):
        return (
            float(np.abs(a - b).max())
            if a.shape == b.shape and a.size
            else 0.0
            if a.size == 0
            else float("inf")
        )
    scores = [
        [one["score"] for one in (answer if isinstance(answer, list) else [answer])] for answer in (a, b)
    ]
    if decision(a) != decision(b) or len(scores[0]) != len(scores[1]):
        return 0.0
    return float(max((abs(x - y) for x, y in zip(*scores, strict=True)), default=0.0))


def item_of(task: Task, record: dict[str, Any]) -> Any:
    """A record as ``predict`` takes it; None where it cannot be written so (entities that overlap)."""
    if "places" not in record:
        cells = [record[key] for key in task.text_keys]
        return cells[0] if len(cells) == 1 else tuple(cells)
    h0, h1, t0, t1 = record["places"]
    if not (h1 <= t0 or t1 <= h0):
        return None
    text = record["text"]
    for start, end, tag in sorted([(h0, h1, "e1"), (t0, t1, "e2")], reverse=True):
        text = f"{text[:start]}<{tag}>{text[start:end]}</{tag}>{text[end:]}"
    return text
