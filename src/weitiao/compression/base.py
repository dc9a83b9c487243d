"""The contract of a compression step: a trained model in memory, or its ONNX graph, made smaller.

A member is a dataclass whose ``option`` fields are settings. Steps ``on`` the ``model`` change ``subject.model`` and
``subject.tokenizer``, which stay trainable; steps ``on`` the ``graph`` change ``subject.graph`` and come after them.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.events import Event
from weitiao.core.messages import say

if TYPE_CHECKING:
    from weitiao.data.encode import Encoded
    from weitiao.models.backbone import TextModel
    from weitiao.models.encoder import Encoder
    from weitiao.tasks.base import Answers, Task

Facts = dict[str, Any]
Steps = Generator[Event, None, Facts]


@dataclass
class Subject:
    """What is being compressed, and what steps may look at. None of it is ever measured on.

    Attributes:
        model: the trained model, changed in place by steps on the model.
        tokenizer: its ``tokenizers.Tokenizer``.
        rows: labelled records of the task (a list), for importances and calibration.
        texts: unlabelled texts of the kind that will come.
        graph: the ``onnx.ModelProto`` made of the model, once the first step on the graph is due.
        teacher, teacher_tokenizer: the model before any step.
    """

    model: "TextModel"
    tokenizer: Any
    task: "Task"
    answers: "Answers"
    max_length: int
    rows: list[dict[str, Any]]
    texts: list[str]
    teacher: "TextModel"
    teacher_tokenizer: Any
    seed: int = 42
    graph: Any = None

    @property
    def encoder(self) -> "Encoder":
        """The packed encoder.

        Raises:
            WeitiaoError: the backbone is another architecture's, whose parts have other names.
        """
        from weitiao.models.encoder import Encoder

        if not isinstance(self.model.backbone, Encoder):
            kind = self.model.config.get("model_type", "?")
            raise WeitiaoError(
                say(
                    f"A {kind} model cannot be compressed: only BERT, RoBERTa, XLM-R and CamemBERT can. "
                    "Train one of those",
                    f"{kind} 模型无法压缩：目前仅支持 BERT、RoBERTa、XLM-R 与 CamemBERT，请改用其中之一训练",
                )
            )
        return self.model.backbone

    def labelled(self, most: int = 0) -> "Encoded":
        """The labelled rows, encoded with the tokenizer as it is now.

        Args:
            most: at most so many, 0: all.

        Raises:
            WeitiaoError: there are none.
        """
        if not self.rows:
            raise WeitiaoError(
                say(
                    "This step needs labelled rows: name a table with --calibration",
                    "该步骤需要有标注的数据：请用 --calibration 指定数据表",
                )
            )
        rows = self.rows[:most] if most else self.rows
        return self.task.encode(rows, self.tokenizer, self.max_length, self.answers)

    def encode(self, records: list[dict[str, Any]]) -> "Encoded":
        """Records without labels, encoded with the tokenizer as it is now."""
        return self.task.encode(records, self.tokenizer, self.max_length, None)

    def unlabelled(self, most: int) -> list[dict[str, Any]]:
        """At most so many records of the task without labels, half of them made of the texts, half the rows.

        Raises:
            WeitiaoError: there are neither texts nor rows.
        """
        made: list[dict[str, Any]] = []
        for text in spread(self.texts, max(most // 2, most - len(self.rows))):
            with contextlib.suppress(BadRow):  # a lone text is no record of a task on pairs
                made.append(self.task.example({"text": text}))
        label = self.task.label_key
        rows = [{key: row[key] for key in row if key != label} for row in spread(self.rows, most - len(made))]
        if not made and not rows:
            raise WeitiaoError(
                say(
                    "This step needs texts: name a file of them with --corpus",
                    "该步骤需要文本：请用 --corpus 指定文本文件",
                )
            )
        return made + rows


def spread(items: list[Any], count: int) -> list[Any]:
    """At most so many of the items, evenly spread over the list."""
    if len(items) <= count:
        return items
    return [items[number * len(items) // count] for number in range(count)]


class Compression(ABC):
    """One way to make a model smaller or faster."""

    on: ClassVar[str] = "model"

    @abstractmethod
    def apply(self, subject: Subject) -> Steps:
        """Change the subject, yielding events on the way.

        Returns:
            what was done, in numbers: it goes into the recipe.

        Raises:
            WeitiaoError: the settings do not fit the model; nothing has been changed then.
        """
