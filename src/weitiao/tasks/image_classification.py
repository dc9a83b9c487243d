"""A label for a picture: digits, clothes, any folder of pictures by class / 图片分类：数字、服饰，或任意按类别分目录的图片."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weitiao.core.config import option
from weitiao.data.columns import IMAGES
from weitiao.data.encode import Encoded
from weitiao.evaluation.base import Predictions
from weitiao.tasks._pictures import Ground, Pictures, PictureTask
from weitiao.tasks.base import Answers, class_targets, label_of, ranked, softmax

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"num_epochs": 2, "width": 16, "views": 1, "elastic": 0.0},
    "standard": {"num_epochs": 12, "width": 32, "views": 1, "elastic": 0.0},
    "best": {"num_epochs": 24, "width": 48, "views": 9, "elastic": 0.03},
}
RATES = {"cnn": 4e-3, "vit": 1e-3}


@dataclass
class ImageClassification(PictureTask):
    """Pixels -> a network of pictures -> linear -> softmax."""

    preset: str = option(
        "standard",
        "how long and how large: quick (2 epochs), standard, best (wider, longer, bent pictures, averaged shifts)",
        "训练时长与规模：quick（2 轮）、standard、best（更宽、更久，弹性形变，并对平移视角取平均）",
        choices=tuple(PRESETS),
    )
    views: int = option(
        0, "shifted views averaged for an answer: 1, 5 or 9 (0: the preset's)", "预测时平均的平移视角数：1、5 或 9（0：由预设决定）",
        least=0, most=9,
    )  # fmt: skip
    top: int = option(1, "how many labels to return for a picture", "每张图片返回几个标签", least=1)

    name = "image_classification"
    columns = IMAGES

    def defaults(self) -> Mapping[str, Any]:
        epochs = PRESETS[self.preset]["num_epochs"]
        own = {"model": "cnn", "batch_size": 96, "num_epochs": epochs, "learning_rate": RATES["cnn"]}
        return {**super().defaults(), **own}

    def first_width(self, network: str) -> int:
        return self.width or (PRESETS[self.preset]["width"] if network == "cnn" else 0)

    def bend(self) -> float:
        return self.elastic or PRESETS[self.preset]["elastic"]

    def number_of_views(self) -> int:
        return self.views or PRESETS[self.preset]["views"]

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        record = self.pixels_of(row)
        if "label" in row:
            record["label"] = label_of(row)
        return record

    def learn(self, records: Any) -> Answers:
        return Answers("classes", sorted(set(records["label"])))

    def encode_rows(
        self, rows: list[dict[str, Any]], tokenizer: Any, max_length: int, answers: Answers | None
    ) -> Encoded:
        encoded = self.encode_pixels(rows, tokenizer if isinstance(tokenizer, Ground) else None)
        if answers is not None:
            encoded.targets = class_targets(rows, answers)
        return encoded

    def head(self, answers: Answers, pooling: str) -> dict[str, Any]:
        return {"type": "pooled", "outputs": len(answers.names), "pooling": "none"}

    def predictions(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> Predictions:
        logits = np.stack(outputs)
        numbers = list(records["row_number"])
        texts = [name or f"#{number}" for name, number in zip(records["image"], numbers, strict=True)]
        gold, predicted = encoded.targets, logits.argmax(1)
        shown = {"pictures": Pictures(encoded)}
        return Predictions(texts, numbers, answers.names, gold, predicted, softmax(logits), shown)

    def answers(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> list[Any]:
        return [ranked(softmax(logits), answers.names, self.top) for logits in outputs]

    def shown(self, record: dict[str, Any]) -> str:
        return record["image"] or f"#{record.get('row_number', '')}"
