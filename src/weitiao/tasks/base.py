"""The contract of a task: from a table's rows to token ids and targets, and from outputs to answers.

A member is a dataclass whose ``option`` fields are settings. The way through: ``example`` (row -> record),
``learn`` (records -> what the answers can be), ``encode`` (records -> token ids and targets, by ``encode_rows``),
``head``, and back with ``predictions`` (for evaluation) and ``answers`` (for people).
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from weitiao.core.errors import BadRow
from weitiao.core.messages import say
from weitiao.data.columns import Column
from weitiao.data.encode import Encoded, load_tokenizer, rows_in_chunks
from weitiao.evaluation.base import Predictions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weitiao.core.sources import Resolved
    from weitiao.data.quality import Finding
    from weitiao.data.table import Table
    from weitiao.models.backbone import TextModel
    from weitiao.models.heads import Head

# A text and spans in it (start, end) -> a new text and where its spans are: what ``augmentation`` does.
Rewrite = Callable[[str, Sequence[tuple[int, int]]], tuple[str, list[tuple[int, int]]]]


@dataclass
class Answers:
    """What the training table taught about the answers: saved with the model.

    ``kind`` is ``classes`` (one of ``names``), ``labels`` (any of ``names``), or ``values`` (a number in
    ``low .. high``).
    """

    kind: str
    names: list[str] = field(default_factory=list)
    low: float = 0.0
    high: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Task(ABC):
    """One kind of learning problem.

    It reads texts unless ``reads`` says otherwise; then it also says what comes in the place of a pretrained encoder
    and its tokenizer. ``tunings`` names the methods that its models can be adapted by, where not all can.
    """

    reads: ClassVar[str] = "texts"
    searches: ClassVar[bool] = False  # it answers with what lies nearest in a table, and has ``query``
    tunings: ClassVar[tuple[str, ...]] = ()

    name: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]]
    text_keys: ClassVar[tuple[str, ...]] = ("text",)
    label_key: ClassVar[str] = "label"
    labelled: ClassVar[bool] = True  # the answer is a label, which many examples share
    transformers_class: ClassVar[str] = (
        ""  # the suffix of the class there with the same head, where there is one
    )

    def table(self, table: "Table") -> "Table":
        """The table that examples are made of: as it was read, unless the task asks questions of its own about it."""
        return table

    @abstractmethod
    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row's cells by role -> a record.

        Raises:
            BadRow: naming the role and why.
        """

    @abstractmethod
    def learn(self, records: Any) -> Answers:
        """What the answers can be, from the training records."""

    @abstractmethod
    def encode_rows(
        self, rows: list[dict[str, Any]], tokenizer: Any, max_length: int, answers: Answers | None
    ) -> Encoded:
        """Token ids of some records, and targets where ``answers`` is given."""

    def encode(self, records: Any, tokenizer: Any, max_length: int, answers: Answers | None) -> Encoded:
        """Token ids of all records (a list, or a ``datasets.Dataset``), a chunk at a time: a million texts must fit."""
        parts = [self.encode_rows(rows, tokenizer, max_length, answers) for rows in rows_in_chunks(records)]
        return Encoded.joined(parts or [self.encode_rows([], tokenizer, max_length, answers)])

    @abstractmethod
    def head(self, answers: Answers, pooling: str) -> dict[str, Any]:
        """The head's description for ``models.heads.make_head``."""

    @abstractmethod
    def predictions(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> Predictions:
        """Outputs beside the truth, for evaluation."""

    @abstractmethod
    def answers(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> list[Any]:
        """Outputs as results for people, in Hugging Face's shapes."""

    def defaults(self) -> Mapping[str, Any]:
        """Settings of ``weitiao finetune`` where the user gives none and the task knows better than its method."""
        return {"model": "multilingual-e5-small", "batch_size": 16, "max_length": 128, "dev_fraction": 0.1}

    def source(self, model: str, tell: Callable[[str], None]) -> "Resolved":
        """Where the model of a name comes from.

        Raises:
            WeitiaoError: there is none.
        """
        from weitiao.models.known import resolve_model

        return resolve_model(model, tell)

    def reader(self, folder: Path) -> Any:
        """What ``encode`` needs from a model's folder: its tokenizer."""
        return load_tokenizer(folder)

    def keep(self, reader: Any, folder: Path) -> None:
        """Write what ``reader`` needs into a trained model's folder, where it is not there yet."""
        if reader is not None and not (folder / "tokenizer.json").exists():
            reader.save(str(folder / "tokenizer.json"))

    def carried(self) -> dict[str, Any]:
        """Settings that a trained model's folder holds in place of the given ones: a file's content for its path."""
        return {}

    def backbone(
        self, source: "Resolved", dropout: float | None
    ) -> "tuple[nn.Module, dict[str, Any], dict[str, Tensor]]":
        """The model to begin with, as ``models.backbone.open_backbone`` gives it."""
        from weitiao.models.backbone import open_backbone

        return open_backbone(source.path, dropout)

    def check(self, answers: Answers, tokenizer: Any) -> None:  # noqa: B027 (optional)
        """Refuse settings that cannot work with these answers or this vocabulary, before anything is encoded.

        Raises:
            WeitiaoError: names the value and the way out.
        """

    def start(
        self,
        head: "Head",
        beside: "dict[str, Tensor]",
        backbone: "nn.Module",
        tokenizer: Any,
        answers: Answers,
    ) -> None:
        """Begin a new head from what the model's weights hold ``beside`` the encoder."""
        from weitiao.models.saving import start_pooler

        start_pooler(head, beside)

    def rewritten(self, record: dict[str, Any], rewrite: Rewrite) -> dict[str, Any]:
        """A record with its texts written otherwise; what points into them points to the same words."""
        return {**record, **{key: rewrite(record[key], [])[0] for key in self.text_keys}}

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
        """What the model says of each example, for ``predictions`` and ``answers``.

        Args:
            records: those that were encoded.
            reader: what ``reader`` gave.
            brief: it is asked in training, and must not take long.
            how: as for ``training.outputs.outputs_of``.
        """
        from weitiao.training.outputs import outputs_of

        return outputs_of(model, encoded, **how)

    def augmentation(self) -> "Callable[[Tensor], Tensor] | None":
        """What makes other examples of a batch in training; see ``training.batches``."""
        return None

    def findings(self, records: Any) -> "list[Finding]":
        """What else is to be said of records before they are used, beside ``data.quality``."""
        return []

    def check_encoded(self, encoded: Encoded, records: Any, max_length: int) -> "list[Finding]":
        """What is to be said of training records once they are tokens.

        Raises:
            WeitiaoError: nothing can be learnt from them.
        """
        return []

    def objective(self, answers: Answers) -> str:
        """The default objective."""
        return {"classes": "cross_entropy", "labels": "binary_cross_entropy", "values": "squared_error"}[
            answers.kind
        ]

    def evaluation(self, answers: Answers) -> str:
        """The evaluation member."""
        return {"classes": "classification", "labels": "multi_label", "values": "similarity"}[answers.kind]

    def majority(self, records: Any, answers: Answers) -> Any:
        """The answer of the majority baseline, learnt from the training records."""
        labels = records[self.label_key]
        if answers.kind == "values":
            return float(np.mean([scaled(float(label), answers) for label in labels]))
        if answers.kind == "labels":
            sets = Counter(tuple(sorted(label)) for label in labels)
            most = max(sorted(sets), key=sets.__getitem__)
            return list(most)
        return max(answers.names, key=Counter(labels).__getitem__)

    def shown(self, record: dict[str, Any]) -> str:
        """A record's text for reports."""
        return " | ".join(str(record[key]) for key in self.text_keys)


def text_of(row: dict[str, Any], role: str = "text") -> str:
    """A cell that must hold text; empty text is allowed here and reported with the data's findings."""
    value = row.get(role)
    if value is None:
        raise BadRow(role, say("there is no text", "没有文本"))
    if not isinstance(value, str):
        raise BadRow(role, say(f"{str(value)[:40]!r} is not text", f"{str(value)[:40]!r} 不是文本"))
    return value


def label_of(row: dict[str, Any], role: str = "label") -> str:
    """A cell that must hold a label."""
    value = row.get(role)
    if value is None or str(value).strip() == "":
        raise BadRow(role, say("there is no label", "没有标签"))
    return str(value).strip()


def class_targets(records: Iterable[dict[str, Any]], answers: Answers, key: str = "label") -> np.ndarray:
    """Class numbers, int64 ``[N]``."""
    number = {name: i for i, name in enumerate(answers.names)}
    return np.array([number[record[key]] for record in records], np.int64)


def scaled(value: float, answers: Answers) -> float:
    """A value in the training table's range, put to 0 .. 1."""
    return (value - answers.low) / ((answers.high - answers.low) or 1.0)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of independent labels."""
    return 1 / (1 + np.exp(-logits))


def ranked(probabilities: np.ndarray, names: Sequence[str], top: int) -> Any:
    """``{"label", "score"}`` of the best class, or a list of the ``top`` best."""
    order = np.argsort(-probabilities, kind="stable")[: max(top, 1)]
    found = [{"label": names[i], "score": float(probabilities[i])} for i in order]
    return found[0] if top <= 1 else found
