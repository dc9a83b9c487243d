"""Teach the smaller model what the original says, on unlabelled text too / 让小模型学习原模型，可用无标注文本.

Three signals: outputs softened by a temperature (Hinton et al. 2015), hidden states by a map of layers, with a
projection where sizes differ (Jiao et al. 2020, "TinyBERT"), and attention relations (Wang et al. 2021, "MiniLMv2").
"""

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from weitiao.compression._lesson import Lesson
from weitiao.compression._signals import Signals, listen
from weitiao.compression._student import open_student
from weitiao.compression._training import Plan, fit
from weitiao.compression.base import Compression, Steps, Subject
from weitiao.core.config import option
from weitiao.core.device import pick_precision
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import NoteEvent
from weitiao.core.messages import say
from weitiao.data.encode import Encoded
from weitiao.models.encoder import Encoder
from weitiao.models.heads import TokenHead

PROJECTION_RATE = 1e-3  # projections start at random and are thrown away: they may be quick


@dataclass
class Distillation(Compression):
    """The teacher is the model before any step; the student the model as it is now, or another one."""

    student: str = option(
        "",
        "another encoder as the student: a name, a folder or a hub id",
        "改用另一编码器作学生：名称、目录或 hub id",
    )
    distil_epochs: float = option(3.0, "passes over the texts", "遍历文本的轮数", least=0.01)
    distil_learning_rate: float = option(1e-4, "peak learning rate", "最高学习率", least=0)
    distil_precision: str = option(
        "auto", "of this training", "该训练的精度", choices=("auto", "bf16", "fp32")
    )
    temperature: float = option(2.0, "softens the outputs", "软化输出的温度", least=0.1, most=100)
    output_weight: float = option(1.0, "weight of the outputs", "输出损失的权重", least=0)
    hidden_weight: float = option(1.0, "weight of the hidden states", "隐藏状态损失的权重", least=0)
    relation_weight: float = option(1.0, "weight of the attention relations", "注意力关系损失的权重", least=0)
    layer_map: list[str] = option(
        [],
        "the teacher's layer for each of the student's, from 0 (default: evenly)",
        "学生每层对应的教师层，从 0 起（默认均匀对应）",
    )
    most_texts: int = option(20_000, "texts used at most", "最多使用的文本数", least=1)

    def apply(self, subject: Subject) -> Steps:
        if not self.output_weight and not self.hidden_weight and not self.relation_weight:
            raise WeitiaoError(say("Nothing to distil: every weight is 0", "没有可蒸馏的信号：权重全为 0"))
        records = subject.unlabelled(self.most_texts)
        if self.student:
            pooling = getattr(subject.teacher.head, "pooling", "mean")
            open_student(subject, self.student, pooling)
        ours, theirs, inner = self._encoded(subject, records)
        if not inner and (self.hidden_weight or self.relation_weight):
            yield NoteEvent(
                say(
                    "Teacher and student cannot be compared token by token: only the outputs are taught",
                    "教师与学生无法逐 token 比较：只学习输出",
                ),
                "warning",
            )
        pairs = self._pairs(subject) if inner and self.hidden_weight else []
        relations = bool(inner and self.relation_weight)
        precision = pick_precision(self.distil_precision, "cpu")
        signals: Any = None
        layers = [teacher for _, teacher in pairs]
        for item in listen(subject.teacher, theirs, layers, relations, _autocast(precision)):
            if isinstance(item, Signals):
                signals = item
            else:
                yield item
        losses = yield from self._teach(subject, ours, signals, pairs, relations, precision)
        return {
            "texts": len(ours), "layer_map": pairs, "relations": relations,
            "first_loss": losses[0], "last_loss": losses[-1],
        }  # fmt: skip

    def _teach(
        self,
        subject: Subject,
        encoded: Encoded,
        signals: Signals,
        pairs: list[tuple[int, int]],
        relations: bool,
        precision: str,
    ) -> Any:
        lesson = Lesson(
            subject,
            signals,
            [student for student, _ in pairs],
            relations,
            (self.output_weight, self.hidden_weight, self.relation_weight),
            self.temperature,
        )
        # The texts' own numbers are the targets: the loss looks up what the teacher said about them.
        numbered = replace(encoded, targets=np.arange(len(encoded)))
        plan = Plan(self.distil_epochs, self.distil_learning_rate, precision=precision, dropout=False)
        if projected := list(lesson.projections.parameters()):
            plan.extra = [{"params": projected, "lr": PROJECTION_RATE}]
        losses = []
        try:
            for event in fit(subject, numbered, lesson.loss_sum, plan):
                losses.append(event.loss)
                yield event
        finally:
            lesson.close()
        return losses

    def _encoded(self, subject: Subject, records: list[dict[str, Any]]) -> tuple[Encoded, Encoded, bool]:
        """The texts for student and teacher, and whether their tokens can be compared one by one."""

        def encode(rows: list[dict[str, Any]]) -> tuple[Encoded, Encoded]:
            tokenizers = (subject.tokenizer, subject.teacher_tokenizer)
            ours, theirs = (subject.task.encode(rows, each, subject.max_length, None) for each in tokenizers)
            return ours, theirs

        ours, theirs = encode(records)
        models = (subject.model.backbone, subject.teacher.backbone)
        inner = all(isinstance(model, Encoder) for model in models) and ours.per_example == 1
        by_token = isinstance(subject.model.head, TokenHead)
        if not inner and not by_token:
            return ours, theirs, False
        alike = np.flatnonzero(ours.ids.lengths == theirs.ids.lengths)
        if len(alike) * 2 >= len(records):
            return (*encode([records[row] for row in alike]), inner)
        if by_token:
            raise WeitiaoError(
                say(
                    "The student cuts most texts into other tokens than the teacher. Take another --student",
                    "学生对多数文本的切分与教师不同。请换一个 --student",
                )
            )
        return ours, theirs, False

    def _pairs(self, subject: Subject) -> list[tuple[int, int]]:
        """(student's layer, teacher's layer)."""
        count, those = (m.backbone.shape.num_hidden_layers for m in (subject.model, subject.teacher))
        chosen = [int(part) for part in self.layer_map if str(part).strip().isdecimal()]
        if not self.layer_map:
            chosen = [round((number + 1) * those / count) - 1 for number in range(count)]
        if len(chosen) != count or any(number >= those for number in chosen):
            raise WeitiaoError(
                say(
                    f"--layer-map must name {count} layers of 0 .. {those - 1}",
                    f"--layer-map 应给出 {count} 个 0 到 {those - 1} 之间的层号",
                )
            )
        pairs = list(enumerate(chosen))
        if _reads_all(subject.model.head) and _reads_all(subject.teacher.head):
            return pairs
        # The last layer gives out only what the head reads.
        return [(ours, teachers) for ours, teachers in pairs if ours < count - 1 and teachers < those - 1]


def _reads_all(head: Any) -> bool:
    """Whether a head reads the state of every token."""
    return isinstance(head, TokenHead) or getattr(head, "pooling", "") == "mean"


def _autocast(precision: str) -> Any:
    """A context factory for running the teacher in this precision."""
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast("cpu", torch.bfloat16)
