"""Pictures that a language model answers questions about, in words / 看图回答：语言模型用文字回答有关图片的问题.

A vision encoder trained before (``--vision``) makes features of each picture, once; ``--tuning bridge`` trains what
makes embeddings of them that the frozen language model reads.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weitiao.core.config import option
from weitiao.data.columns import PICTURE_QUESTIONS, match
from weitiao.data.encode import Encoded, Ragged
from weitiao.data.pictures import png_uri
from weitiao.data.quality import Finding
from weitiao.evaluation.base import Predictions
from weitiao.tasks._digit_questions import ANYTHING, kinds_of, with_questions
from weitiao.tasks._pictures import converted, read_picture
from weitiao.tasks._vision import PictureReader
from weitiao.tasks.base import Answers, Task, label_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weitiao.core.sources import Resolved
    from weitiao.data.table import Table
    from weitiao.models.backbone import TextModel

OTHER = "…"  # an answer that is none of those in the training table
MOST_TOKENS = 24  # of an answer


@dataclass
class ImageToText(Task):
    """Picture -> frozen vision encoder -> projector -> embeddings that a frozen language model reads -> words."""

    vision: str = option(
        "",
        "run folder of the vision encoder: weitiao finetune --task image-classification",
        "视觉编码器的运行目录：weitiao finetune --task image-classification",
    )
    questions: str = option(
        "name,name_zh,even,sum,larger",
        "what is asked of digits where the table asks nothing: name, name_zh, even, even_zh, sum, larger",
        "表中没有问题时，对数字图片提哪些问题：name、name_zh、even、even_zh、sum、larger",
    )
    examples: int = option(
        4000,
        "questions that are made of each table of digits (0: one about every row)",
        "由每张数字表生成的问题数（0：每行一个）",
        least=0,
    )
    image_size: int = option(
        28, "pixels of a picture's side, as the vision encoder reads them", "图片边长（像素），与视觉编码器一致",
        least=8, most=256,
    )  # fmt: skip
    color: bool = option(False, "three channels instead of grey", "使用三通道彩色，而非灰度")

    name = "image_to_text"
    columns = PICTURE_QUESTIONS
    text_keys = ("pixels", "pixels_b", "question")
    reads = "pictures"
    tunings = ("bridge",)

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 3 if self.color else 1

    def defaults(self) -> Mapping[str, Any]:
        """A few thousand examples are enough, since only the projector learns."""
        return {**super().defaults(), "model": "SmolLM2-135M-Instruct", "dev_fraction": 0.0}

    # --- from a table to records

    def table(self, table: "Table") -> "Table":
        kinds = kinds_of(self.questions)
        asked = next(column for column in PICTURE_QUESTIONS if column.role == "question")
        if any(match(name, table.column_names) for name in asked.aliases):
            return table
        return with_questions(table, kinds, self.examples)

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        first = read_picture(row.get("image"), "image", self.image_size, self.channels)
        second = {"image": "", "pixels": b"", "was": ""}
        if row.get("image_b"):
            second = read_picture(row["image_b"], "image_b", self.image_size, self.channels)
        record = {
            **first, "image_b": second["image"], "pixels_b": second["pixels"], "was": first["was"] or second["was"],
            "question": str(row.get("question") or ANYTHING),
        }  # fmt: skip
        return {**record, "label": label_of(row)} if "label" in row else record

    def learn(self, records: Any) -> Answers:
        return Answers("tokens", [*sorted(set(records["label"])), OTHER])

    def findings(self, records: Any) -> list[Finding]:
        return converted(records["row_number"], records["was"], self.image_size, self.channels)

    # --- from records to token ids and features

    def reader(self, folder: Path) -> PictureReader:
        return PictureReader(folder, self.vision, self.image_size, self.channels)

    def keep(self, reader: Any, folder: Path) -> None:
        super().keep(reader.tokenizer, folder)
        (folder / "vision").mkdir()
        for file in reader.vision_files():
            shutil.copyfile(file, folder / "vision" / file.name)

    def encode_rows(
        self, rows: list[dict[str, Any]], tokenizer: Any, max_length: int, answers: Answers | None
    ) -> Encoded:
        """Tokens of the question (type 0) and the answer (type 1); targets are the answer's and the end."""
        reader: PictureReader = tokenizer
        questions = reader.tokens([row["question"] + "\n" for row in rows], max_length)
        written = (
            [[] for _ in rows]
            if answers is None
            else reader.tokens([row["label"] for row in rows], max_length)
        )
        encoded = Encoded(Ragged.of([*q, *a] for q, a in zip(questions, written, strict=True)))
        encoded.types = Ragged.of(
            [0] * len(q) + [1] * len(a) for q, a in zip(questions, written, strict=True)
        )
        encoded.features = reader.features([(row["pixels"], row["pixels_b"]) for row in rows])
        if answers is not None:
            encoded.targets = Ragged.of(([*each, reader.end] for each in written), np.int64)
        return encoded

    # --- the model

    def backbone(
        self, source: "Resolved", dropout: float | None
    ) -> "tuple[nn.Module, dict[str, Any], dict[str, Tensor]]":
        from weitiao.models.backbone import open_backbone

        return open_backbone(source.path, causal=True)

    def head(self, answers: Answers, pooling: str) -> dict[str, Any]:
        from weitiao.tasks._vision import vision_size

        return {
            "type": "language", "outputs": len(answers.names), "pooling": "last", "features": vision_size(self.vision),
        }  # fmt: skip

    def objective(self, answers: Answers) -> str:
        return "causal_lm"

    def evaluation(self, answers: Answers) -> str:
        return "classification"

    def outputs(
        self,
        model: "TextModel",
        encoded: Encoded,
        records: Any,
        reader: Any,
        *,
        brief: bool = False,
        **how: Any,
    ) -> list[Any]:
        """Of each example what the model answers, in words, and its probability.

        Where the true answer is known, the likeliest tokens ``[A, 2]`` instead, each after the true ones: all of
        them are right just when the answer that the model writes by itself is, and no token waits for another.
        """
        from weitiao.tasks._vision import likeliest, written

        if encoded.targets is None:
            return written(model, encoded, reader, MOST_TOKENS)
        return likeliest(model, encoded, **how)

    # --- from outputs to answers

    def predictions(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> Predictions:
        """An answer counts if every token of it is right, the end too; what a wrong one said is shown as ``…``."""
        number = {name: place for place, name in enumerate(answers.names)}
        gold = np.array([number[label] for label in records["label"]])
        assert isinstance(encoded.targets, Ragged)
        known: dict[tuple[int, ...], int] = {}
        for row, label in enumerate(gold.tolist()):
            known.setdefault(tuple(encoded.targets[row].tolist()), label)
        predicted = np.array(
            [known.get(tuple(out[:, 0].astype(int).tolist()), number[OTHER]) for out in outputs], np.int64
        )
        numbers, images = list(records["row_number"]), list(records["image"])
        texts = [
            f"{question} {image or f'#{row}'}"
            for question, image, row in zip(records["question"], images, numbers, strict=True)
        ]
        extra = {
            "pictures": _Drawn(list(records["pixels"]), self.image_size, self.channels),
            "slices": {"question": list(records["question"])},
        }  # fmt: skip
        return Predictions(texts, numbers, answers.names, gold, predicted, extra=extra)

    def answers(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> list[Any]:
        """``{"answer", "score"}``: the words, and the probability of all of them."""
        return [{"answer": text, "score": score} for text, score in outputs]

    def shown(self, record: dict[str, Any]) -> str:
        return record["image"] or f"#{record.get('row_number', '')}"


@dataclass
class _Drawn:
    """The first picture of each row for a page."""

    pixels: list[bytes]
    size: int
    channels: int

    def __getitem__(self, row: int) -> str:
        return png_uri(self.pixels[row], self.size, self.channels)
