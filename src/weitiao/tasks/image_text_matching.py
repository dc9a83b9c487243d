"""Pictures and words in one space: the picture for a phrase, the phrase for a picture / 图文匹配：以文找图，以图找文.

A network of pictures is trained so that a picture lies where a frozen text encoder puts its captions (Radford et al.
2021, with the text side left as it is). With a bilingual encoder, phrases of both languages find the same pictures.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core.config import option
from weitiao.data.columns import CAPTIONS
from weitiao.data.encode import Encoded
from weitiao.evaluation._slices import languages_of
from weitiao.evaluation.base import Predictions
from weitiao.tasks._frozen import CaptionReader
from weitiao.tasks._pictures import Pictures, PictureTask
from weitiao.tasks.base import Answers, text_of

CAPTION_KEYS = ("text", "text_b")
WIDTH = 48  # of a cnn's first layer: few pictures for each word, so it has to look closely


@dataclass
class ImageTextMatching(PictureTask):
    """Pixels -> a network of pictures -> linear; captions -> frozen encoder -> linear; cosine."""

    image_size: int = option(
        32, "pixels of a picture's side, to which others are fitted", "图片边长（像素），其他尺寸会缩放到此",
        least=8, most=256,
    )  # fmt: skip
    color: bool = option(True, "three channels instead of grey", "使用三通道彩色，而非灰度")
    shear_degrees: float = option(8.0, "slanted by up to this", "随机倾斜的最大角度", least=0, most=45)
    elastic: float = option(
        0.03, "bent: standard deviation, a share of the side", "弹性形变的标准差（占边长）", least=0, most=0.2
    )
    text_model: str = option(
        "multilingual-e5-small", "the frozen encoder of captions", "冻结的文本编码器，用于图片说明"
    )
    shared_size: int = option(
        256, "dimensions of the space of pictures and words", "图文共享空间的维度", least=8, most=2048
    )
    top: int = option(1, "how many to return for a picture or a phrase", "每个查询返回几个结果", least=1)

    name = "image_text_matching"
    columns = CAPTIONS
    searches = True
    tunings = ("full",)

    def defaults(self) -> Mapping[str, Any]:
        own = {"model": "cnn", "batch_size": 128, "num_epochs": 60, "learning_rate": 2e-3}
        return {**super().defaults(), **own}

    def first_width(self, network: str) -> int:
        return self.width or (WIDTH if network == "cnn" else 0)

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        record = self.pixels_of(row)
        first = text_of(row, "text")
        second = row.get("text_b") or first
        return {**record, "text": first, "text_b": text_of({"text_b": second}, "text_b"), "label": 1.0}

    def query(self, picture: str = "", phrase: str = "") -> dict[str, Any]:
        """A record of a picture alone, or of a phrase alone; what is missing is blank.

        Raises:
            BadRow: it is no picture.
        """
        blank = {"image": "", "pixels": bytes(self.image_size**2 * self.channels), "was": ""}
        return {
            **(self.pixels_of({"image": picture}) if picture else blank),
            "text": phrase,
            "text_b": phrase,
        }

    def learn(self, records: Any) -> Answers:
        return Answers("values", [], 0.0, 1.0)

    def reader(self, folder: Path) -> Any:
        return CaptionReader(self.text_model, folder)

    def keep(self, reader: Any, folder: Path) -> None:
        reader.keep(folder)

    def encode_rows(
        self, rows: list[dict[str, Any]], tokenizer: Any, max_length: int, answers: Answers | None
    ) -> Encoded:
        encoded = self.encode_pixels(rows, None)
        captions = [row[key] for row in rows for key in CAPTION_KEYS]
        encoded.features = tokenizer.features(captions).reshape(len(rows), len(CAPTION_KEYS), -1)
        if answers is not None:  # equal numbers for equal captions; 24 bits are what fp32 holds
            numbers = [zlib.crc32(row["text"].strip().casefold().encode()) & 0xFFFFFF for row in rows]
            encoded.targets = np.array(numbers, np.float32)
        return encoded

    def head(self, answers: Answers, pooling: str) -> dict[str, Any]:
        from weitiao.models.backbone import read_config
        from weitiao.models.known import resolve_model

        size = int(read_config(resolve_model(self.text_model).path)["hidden_size"])
        return {
            "type": "embedding", "outputs": 0, "pooling": "none", "features": size, "shared": self.shared_size,
        }  # fmt: skip

    def objective(self, answers: Answers) -> str:
        return "symmetric_contrastive"

    def evaluation(self, answers: Answers) -> str:
        return "retrieval"

    def majority(self, records: Any, answers: Answers) -> Any:
        return None

    def predictions(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> Predictions:
        """A row for each caption: those in another language than the first are rows of their own."""
        stacked_NKE = np.stack(outputs)
        columns = [list(records[key]) for key in CAPTION_KEYS]
        if columns[0] == columns[1]:  # the table has one column of captions
            columns = columns[:1]
        numbers, names = list(records["row_number"]), list(records["image"])
        ranks, texts, first = [], [], []
        for place, captions in enumerate(columns, 1):
            cosines = stacked_NKE[:, place] @ stacked_NKE[:, 0].T  # phrases by pictures
            same = _same(captions)
            ranks.append(np.stack([_ranks(cosines, same), _ranks(cosines.T, same)], 1))
            texts += captions
            first += [captions[best] or names[best] for best in cosines.argmax(1)]
        rows = np.tile(np.arange(len(numbers)), len(columns))
        extra = {
            "candidates": len(numbers), "first": first, "pictures": _Repeated(Pictures(encoded), len(numbers)),
            "slices": {"language": languages_of(texts)},
        }  # fmt: skip
        predicted = np.concatenate(ranks)
        return Predictions(
            texts, [numbers[row] for row in rows], [], np.ones_like(predicted), predicted, extra=extra
        )

    def answers(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> list[Any]:
        """How near each picture is to its first caption."""
        return [{"label": "similarity", "score": float(each[0] @ each[1])} for each in outputs]

    def shown(self, record: dict[str, Any]) -> str:
        return record["image"] or f"#{record.get('row_number', '')}"


@dataclass
class _Repeated:
    """The pictures of N rows, for rows that repeat them."""

    pictures: Pictures
    count: int

    def __getitem__(self, row: int) -> str:
        return self.pictures[row % self.count]


def _same(captions: Sequence[str]) -> np.ndarray:
    """Which rows have the same caption, bool ``[N, N]``."""
    _, numbers = np.unique([caption.strip().casefold() for caption in captions], return_inverse=True)
    return numbers[:, None] == numbers


def _ranks(cosines: np.ndarray, same: np.ndarray) -> np.ndarray:
    """The rank, from 1, of the nearest right one in each row, int ``[N]``; ties count against it."""
    best = np.where(same, cosines, -np.inf).max(1, keepdims=True)
    return 1 + ((cosines >= best) & ~same).sum(1)
