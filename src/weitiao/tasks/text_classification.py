"""A label for a text: two, many, or several at once / 文本分类：二分类、多分类、多标签."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weitiao.core.config import option
from weitiao.core.errors import BadRow
from weitiao.core.messages import say
from weitiao.data.columns import CLASSIFICATION
from weitiao.data.encode import Encoded, Ragged, encode_texts, uncut_length
from weitiao.evaluation.base import Predictions
from weitiao.tasks.base import Answers, Task, class_targets, label_of, ranked, sigmoid, softmax, text_of


@dataclass
class TextClassification(Task):
    """Pooled hidden state -> linear -> softmax, or a sigmoid a label."""

    multi_label: bool = option(
        False, "a text can have several labels, or none", "一条文本可有多个标签，也可没有"
    )
    label_separator: str = option(
        "|",
        "what separates the labels in a cell, with --multi-label",
        "单元格内多个标签的分隔符（配合 --multi-label）",
    )
    top: int = option(1, "how many labels to return for a text", "每条文本返回几个标签", least=1)

    name = "text_classification"
    columns = CLASSIFICATION

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        record: dict[str, Any] = {"text": text_of(row)}
        if "label" in row:
            value = row["label"]
            if self.multi_label:
                parts = value if isinstance(value, list) else str(value or "").split(self.label_separator)
                record["label"] = sorted({str(part).strip() for part in parts if str(part).strip()})
            elif isinstance(value, list):
                way = say("it is a list: pass --multi-label", "这是一个列表：请加上 --multi-label")
                raise BadRow("label", way)
            else:
                record["label"] = label_of(row)
        return record

    def learn(self, records: Any) -> Answers:
        labels = records["label"]
        if self.multi_label:
            return Answers("labels", sorted({name for label in labels for name in label}))
        return Answers("classes", sorted(set(labels)))

    def encode_rows(
        self, rows: list[dict[str, Any]], tokenizer: Any, max_length: int, answers: Answers | None
    ) -> Encoded:
        encodings = list(encode_texts(tokenizer, (row["text"] for row in rows), max_length))
        encoded = Encoded(
            Ragged.of(e.ids for e in encodings), uncut=np.array([uncut_length(e) for e in encodings])
        )
        if answers is not None:
            encoded.targets = self._targets(rows, answers)
        return encoded

    def _targets(self, rows: list[dict[str, Any]], answers: Answers) -> np.ndarray:
        if answers.kind == "classes":
            return class_targets(rows, answers)
        number = {name: i for i, name in enumerate(answers.names)}
        targets = np.zeros((len(rows), len(number)), np.int64)
        for i, row in enumerate(rows):
            targets[i, [number[name] for name in row["label"]]] = 1
        return targets

    def head(self, answers: Answers, pooling: str) -> dict[str, Any]:
        return {"type": "pooled", "outputs": len(answers.names), "pooling": pooling}

    def predictions(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> Predictions:
        logits = np.stack(outputs)
        if answers.kind == "labels":
            probabilities = sigmoid(logits)
            predicted: Any = (probabilities > 0.5).astype(np.int64)
        else:
            probabilities = softmax(logits)
            predicted = logits.argmax(1)
        gold = encoded.targets
        return Predictions(
            records["text"], records["row_number"], answers.names, gold, predicted, probabilities
        )

    def answers(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> list[Any]:
        if answers.kind == "labels":
            found = []
            for p in (sigmoid(logits) for logits in outputs):
                found.append(
                    [{"label": answers.names[i], "score": float(p[i])} for i in np.argsort(-p) if p[i] > 0.5]
                )
            return found
        return [ranked(softmax(logits), answers.names, self.top) for logits in outputs]
