"""A label for a picture: digits, clothes, any folder of pictures by class / 图片分类：数字、服饰，或任意按类别分目录的图片."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weitiao.core.config import option
from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.messages import say
from weitiao.core.sources import Resolved
from weitiao.data.columns import IMAGES
from weitiao.data.encode import Encoded, Ragged
from weitiao.data.pictures import decode, png_uri
from weitiao.data.quality import FIRST_ROWS, Finding
from weitiao.evaluation.base import Predictions
from weitiao.tasks.base import Answers, Task, class_targets, label_of, ranked, softmax

if TYPE_CHECKING:
    from torch import Tensor, nn

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"num_epochs": 2, "width": 16, "views": 1},
    "standard": {"num_epochs": 18, "width": 32, "views": 1},
    "best": {"num_epochs": 60, "width": 48, "views": 9},
}
RATES = {"cnn": 4e-3, "vit": 1e-3}


@dataclass
class ImageClassification(Task):
    """Pixels -> a network of pictures -> linear -> softmax."""

    preset: str = option(
        "standard",
        "how long and how large: quick (2 epochs), standard, best (wider, longer, averages over shifted views)",
        "训练时长与规模：quick（2 轮）、standard、best（更宽、更久，并对平移视角取平均）",
        choices=tuple(PRESETS),
    )
    image_size: int = option(
        28,
        "pixels of a picture's side, to which others are fitted",
        "图片边长（像素），其他尺寸会缩放到此",
        least=8,
        most=256,
    )
    color: bool = option(False, "three channels instead of grey", "使用三通道彩色，而非灰度")
    width: int = option(
        0, "channels of the first layer (0: the preset's)", "第一层的通道数（0：由预设决定）", least=0
    )
    views: int = option(
        0, "shifted views averaged for an answer: 1, 5 or 9 (0: the preset's)", "预测时平均的平移视角数：1、5 或 9（0：由预设决定）",
        least=0, most=9,
    )  # fmt: skip
    rotation_degrees: float = option(
        12.0, "pictures are turned by up to this", "随机旋转的最大角度", least=0, most=180
    )
    shift: float = option(
        0.1, "moved by up to this share of the side", "随机平移的最大比例（占边长）", least=0, most=0.5
    )
    scale: float = option(
        0.12, "made larger or smaller by up to this share", "随机缩放的最大比例", least=0, most=0.5
    )
    shear_degrees: float = option(12.0, "slanted by up to this", "随机倾斜的最大角度", least=0, most=45)
    elastic: float = option(
        0.0, "bent: standard deviation, a share of the side", "弹性形变的标准差（占边长）", least=0, most=0.2
    )
    top: int = option(1, "how many labels to return for a picture", "每张图片返回几个标签", least=1)

    name = "image_classification"
    columns = IMAGES
    text_keys = ("pixels",)
    reads = "pictures"
    tunings = ("full", "head")

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 3 if self.color else 1

    def defaults(self) -> Mapping[str, Any]:
        epochs = PRESETS[self.preset]["num_epochs"]
        return {"model": "cnn", "batch_size": 96, "num_epochs": epochs, "learning_rate": RATES["cnn"]}

    # --- from a row to pixels

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        cell = row.get("image")
        if not isinstance(cell, str | bytes) or not cell:
            raise BadRow("image", say("there is no picture", "没有图片"))
        pixels, was = decode(cell, self.image_size, self.channels)
        record: dict[str, Any] = {
            "image": cell if isinstance(cell, str) else "",
            "pixels": pixels,
            "was": was,
        }
        if "label" in row:
            record["label"] = label_of(row)
        return record

    def learn(self, records: Any) -> Answers:
        return Answers("classes", sorted(set(records["label"])))

    def encode_rows(
        self, rows: list[dict[str, Any]], tokenizer: Any, max_length: int, answers: Answers | None
    ) -> Encoded:
        size = self.image_size**2 * self.channels
        pixels = np.frombuffer(b"".join(row["pixels"] for row in rows), np.uint8)
        encoded = Encoded(Ragged(pixels, np.arange(len(rows) + 1, dtype=np.int64) * size))
        encoded.image_shape = (self.image_size, self.image_size, self.channels)
        if answers is not None:
            encoded.targets = class_targets(rows, answers)
        return encoded

    def findings(self, records: Any) -> list[Finding]:
        found = [
            (number, was) for number, was in zip(records["row_number"], records["was"], strict=True) if was
        ]
        if not found:
            return []
        different = sorted({was for _, was in found})
        kinds = ", ".join(different[:3]) + (" ..." if len(different) > 3 else "")
        count, total = len(found), len(records["was"])
        to = f"{self.image_size}x{self.image_size} {'RGB' if self.color else 'L'}"
        message = say(
            f"{count:,} of {total:,} pictures were converted to {to} (they were {kinds})",
            f"{total:,} 张图片中有 {count:,} 张被转换为 {to}（原为 {kinds}）",
        )
        return [
            Finding("converted", count, total, [int(number) for number, _ in found[:FIRST_ROWS]], message)
        ]

    # --- the model

    def source(self, model: str, tell: Callable[[str], None]) -> Resolved:
        from weitiao.models.vision import new

        return new(model) or super().source(model, tell)

    def reader(self, folder: Path) -> Any:
        return None

    def backbone(
        self, source: Resolved, dropout: float | None
    ) -> "tuple[nn.Module, dict[str, Any], dict[str, Tensor]]":
        if source.route == "new":
            from weitiao.models.vision import make

            preset = PRESETS[self.preset]
            sizes = {
                "image_size": self.image_size,
                "channels": self.channels,
                "views": self.views or preset["views"],
            }
            width = self.width or (preset["width"] if source.name == "cnn" else 0)
            return (*make(source.name, {**sizes, **({"width": width} if width else {})}), {})
        backbone, config, beside = super().backbone(source, dropout)
        sides = (config.get("image_size"), config.get("channels"))
        if sides != (self.image_size, self.channels):
            raise WeitiaoError(
                say(
                    f"{source.name} does not read pictures of {self.image_size} x {self.image_size} with "
                    f"{self.channels} channels: take cnn or vit, or a folder that was trained on such pictures",
                    f"{source.name} 不读取 {self.image_size} x {self.image_size}、{self.channels} 通道的图片："
                    "请用 cnn、vit，或在这类图片上训练得到的目录",
                )
            )
        return backbone, config, beside

    def head(self, answers: Answers, pooling: str) -> dict[str, Any]:
        return {"type": "pooled", "outputs": len(answers.names), "pooling": "none"}

    def augmentation(self) -> "Callable[[Tensor], Tensor] | None":
        from weitiao.training.affine import Affine

        amounts = (self.rotation_degrees, self.shift, self.scale, self.shear_degrees, self.elastic)
        return Affine(*amounts) if any(amounts) else None

    # --- from logits to answers

    def predictions(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> Predictions:
        logits = np.stack(outputs)
        numbers = list(records["row_number"])
        texts = [name or f"#{number}" for name, number in zip(records["image"], numbers, strict=True)]
        gold, predicted = encoded.targets, logits.argmax(1)
        shown = {"pictures": _Pictures(encoded)}
        return Predictions(texts, numbers, answers.names, gold, predicted, softmax(logits), shown)

    def answers(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> list[Any]:
        return [ranked(softmax(logits), answers.names, self.top) for logits in outputs]

    def shown(self, record: dict[str, Any]) -> str:
        return record["image"] or f"#{record.get('row_number', '')}"


@dataclass
class _Pictures:
    """The pictures of an encoded table for a page, each drawn when it is asked for."""

    encoded: Encoded

    def __getitem__(self, row: int) -> str:
        assert self.encoded.image_shape is not None
        height, _, channels = self.encoded.image_shape
        return png_uri(self.encoded.ids[row].tobytes(), height, channels)
