"""Do two texts match: a class, or how similar they are / 文本匹配：两段文本的类别或相似度."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weitiao.core.config import option
from weitiao.data.columns import PAIRS
from weitiao.data.encode import Encoded, Ragged, encode_texts, uncut_length
from weitiao.evaluation.base import Predictions
from weitiao.tasks.base import Answers, Task, class_targets, label_of, ranked, scaled, softmax, text_of

MOST_NUMERIC_CLASSES = 4


@dataclass
class TextMatching(Task):
    """Both texts read together (``cross``), or each embedded alone and compared by cosine (``bi``)."""

    encoder: str = option(
        "cross",
        "read both texts together, or embed each alone",
        "两段文本一起读入（cross），或各自编码（bi）",
        choices=("cross", "bi"),
    )
    answer: str = option(
        "auto", "a class or a similarity; auto: numbers with fractions or many values are similarities",
        "类别或相似度；auto：带小数或取值较多的数字视为相似度", choices=("auto", "class", "similarity"),
    )  # fmt: skip

    name = "text_matching"
    columns = PAIRS
    text_keys = ("text_a", "text_b")

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        record: dict[str, Any] = {"text_a": text_of(row, "text_a"), "text_b": text_of(row, "text_b")}
        if "label" in row:
            record["label"] = label_of(row)
        return record

    def learn(self, records: Any) -> Answers:
        labels = records["label"]
        numbers = _numbers(labels)
        similar = self.answer == "similarity" or self.encoder == "bi"
        if self.answer == "auto" and numbers is not None and not similar:
            similar = len(set(numbers)) > MOST_NUMERIC_CLASSES or any(
                number != int(number) for number in numbers
            )
        if not similar:
            return Answers("classes", sorted(set(labels)))
        if numbers is None:
            # Classes as similarities: the last name in order (1, "yes", "相同") counts as a match.
            names = sorted(set(labels))
            return Answers("values", names, 0.0, float(len(names) - 1))
        return Answers("values", [], min(numbers), max(numbers))

    def encode_rows(
        self, rows: list[dict[str, Any]], tokenizer: Any, max_length: int, answers: Answers | None
    ) -> Encoded:
        if self.encoder == "bi":
            texts = (text for row in rows for text in (row["text_a"], row["text_b"]))
            encodings = list(encode_texts(tokenizer, texts, max_length))
            uncut = np.array([uncut_length(e) for e in encodings]).reshape(-1, 2).max(1)
            encoded = Encoded(Ragged.of(e.ids for e in encodings), uncut=uncut, per_example=2)
        else:
            pairs = [(row["text_a"], row["text_b"]) for row in rows]
            encodings = list(encode_texts(tokenizer, pairs, max_length))
            uncut = np.array([len(e.ids) for e in encodings])
            # What was cut off a pair is listed in every combination, so it is counted anew.
            cut = [i for i, e in enumerate(encodings) if e.overflowing]
            uncut[cut] = [len(e.ids) for e in tokenizer.encode_batch_fast([pairs[i] for i in cut])]
            encoded = Encoded(Ragged.of(e.ids for e in encodings), uncut=uncut)
            types = Ragged.of(e.type_ids for e in encodings)
            encoded.types = types if types.values.any() else None
        if answers is not None:
            encoded.targets = self._targets(rows, answers)
        return encoded

    def _targets(self, rows: list[dict[str, Any]], answers: Answers) -> np.ndarray:
        if answers.kind == "classes":
            return class_targets(rows, answers)
        if answers.names:
            return class_targets(rows, answers).astype(np.float32) / max(answers.high, 1.0)
        return np.array([scaled(float(row["label"]), answers) for row in rows], np.float32)

    def majority(self, records: Any, answers: Answers) -> Any:
        if answers.kind == "values":
            return float(self._targets([{"label": label} for label in records["label"]], answers).mean())
        return super().majority(records, answers)

    def head(self, answers: Answers, pooling: str) -> dict[str, Any]:
        if self.encoder == "bi":
            return {"type": "embedding", "outputs": 0, "pooling": pooling}
        outputs = 1 if answers.kind == "values" else len(answers.names)
        return {"type": "pooled", "outputs": outputs, "pooling": pooling}

    def _values(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Similarities in 0 .. 1 (cosines for a bi-encoder), ``[N]``."""
        stacked = np.stack(outputs)
        return (stacked[:, 0] * stacked[:, 1]).sum(-1) if self.encoder == "bi" else stacked[:, 0]

    def predictions(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> Predictions:
        texts = [f"{a} | {b}" for a, b in zip(records["text_a"], records["text_b"], strict=True)]
        if answers.kind == "values":
            values = self._values(outputs)
            return Predictions(
                texts, records["row_number"], [], np.asarray(encoded.targets, float), values.astype(float)
            )
        logits = np.stack(outputs)
        rows = records["row_number"]
        return Predictions(texts, rows, answers.names, encoded.targets, logits.argmax(1), softmax(logits))

    def answers(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> list[Any]:
        if answers.kind == "classes":
            return [ranked(softmax(logits), answers.names, 1) for logits in outputs]
        values = self._values(outputs)
        if self.encoder == "cross" and not answers.names:
            values = answers.low + values * (answers.high - answers.low)
        return [{"label": "similarity", "score": float(value)} for value in values]


def _numbers(labels: Sequence[str]) -> list[float] | None:
    try:
        return [float(label) for label in labels]
    except ValueError:
        return None
