"""Store weights and compute products in 8-bit whole numbers / 用 8 位整数存储权重并计算矩阵乘法.

Weights and rows of the embeddings are stored as int8. Products are computed in whole numbers, each input's
channels evened out and its range cut where that is most exact; the groups of products that disturb the outputs most
stay in floating point until the decisions agree with those of the exact model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from weitiao.compression._calibrate import Session, best_setting, look
from weitiao.compression._quantise import Group, Setting, groups, quantised
from weitiao.compression.base import Compression, Steps, Subject, spread
from weitiao.core.config import option
from weitiao.core.events import Event, NoteEvent, ProgressEvent
from weitiao.core.messages import say
from weitiao.data.encode import Encoded
from weitiao.models.heads import TokenHead

CALIBRATION = 256  # texts whose activations set the ranges
RANKING = 64  # texts on which one group alone is tried


@dataclass
class Int8(Compression):
    """Static: ranges set beforehand, answers independent of the batch. Dynamic: ranges of each batch, no smoothing."""

    int8_way: str = option(
        "static",
        "ranges set on texts beforehand, or taken from each batch (slower, and answers depend on the batch)",
        "取值范围预先用文本确定，或取自每个批次（较慢，且结果与批次有关）",
        choices=("static", "dynamic"),
    )
    int8_agreement: float = option(
        0.998,
        "decisions that must agree with the exact model on the texts at hand",
        "在现有文本上与精确模型一致的决策比例下限",
        least=0,
        most=1,
    )
    int8_bits: int = option(
        7,
        "bits of a weight: 7, the same decisions on every processor; 8, a little more exact, but products overflow "
        "on processors without VNNI",
        "每个权重的位数：7 位在任何处理器上决策一致；8 位略精确，但在不支持 VNNI 的处理器上乘积会溢出",
        least=7,
        most=8,
    )
    int8_texts: int = option(1000, "texts to compare decisions on", "用于比较决策的文本数", least=1)
    int8_budget: float = option(
        0.5,
        "share of the groups that may stay in floating point",
        "允许保留浮点的矩阵组比例",
        least=0,
        most=1,
    )

    on = "graph"

    def apply(self, subject: Subject) -> Steps:
        exact = subject.graph
        found = groups(exact.graph)
        records = subject.unlabelled(self.int8_texts)
        encoded = subject.encode(records)
        padding = int(subject.model.config.get("pad_token_id") or 0)
        by_token = isinstance(subject.model.head, TokenHead)
        yield ProgressEvent(say("calibrating", "校准"), 0, len(found))
        seen = look(exact, found, subject.encode(spread(records, CALIBRATION)), padding, subject.seed)
        settings: dict[str, Setting] = {}
        for number, group in enumerate(found):
            settings[group.input], _ = best_setting(exact, group, seen[group.input], self.int8_bits)
            yield ProgressEvent(say("calibrating", "校准"), number + 1, len(found))
        few = subject.encode(spread(records, RANKING))
        judge = _Judge(self, exact, encoded, few, padding, by_token)
        kept: list[str] = []
        agreement = judge.agreement(settings)
        if agreement < self.int8_agreement and self.int8_budget:
            order: list[str] = []
            for item in judge.ranked(settings, found):
                if isinstance(item, Event):
                    yield item
                else:
                    order = item
            kept, agreement = judge.fewest(settings, order[: int(self.int8_budget * len(order))])
        if agreement < self.int8_agreement:
            yield NoteEvent(
                say(
                    f"int8: {100 * agreement:.2f} % of decisions agree, {100 * self.int8_agreement:.2f} % were "
                    f"wanted; {len(kept)} of {len(found)} groups in floating point is what --int8-budget allows",
                    f"int8：{100 * agreement:.2f}% 的决策一致，目标为 {100 * self.int8_agreement:.2f}%；"
                    f"--int8-budget 只允许 {len(kept)}/{len(found)} 组保留浮点",
                ),
                "warning",
            )
        chosen = {name: setting for name, setting in settings.items() if name not in kept}
        subject.graph = quantised(exact, chosen, bits=self.int8_bits, dynamic=self.int8_way == "dynamic")
        return {
            "groups": len(found),
            "in_floating_point": kept,
            "agreement_here": agreement,
            "texts": len(encoded),
        }


class _Judge:
    """Compares a quantised model with the exact one over the texts at hand."""

    def __init__(
        self, step: Int8, exact: Any, encoded: Encoded, few: Encoded, padding: int, by_token: bool
    ) -> None:
        self.step, self.exact, self.padding, self.by_token = step, exact, padding, by_token
        self.encoded, self.few = encoded, few
        session = Session(exact, padding)
        self.wanted = session.outputs(encoded, by_token)
        self.wanted_few = session.outputs(self.few, by_token)

    def _model(self, settings: dict[str, Setting], **how: bool) -> Session:
        step = self.step
        small = quantised(
            self.exact, settings, bits=step.int8_bits, dynamic=step.int8_way == "dynamic", **how
        )
        return Session(small, self.padding)

    def agreement(self, settings: dict[str, Setting]) -> float:
        """The share of decisions that are those of the exact model."""
        return agreement(self.wanted, self._model(settings).outputs(self.encoded, self.by_token))

    def ranked(self, settings: dict[str, Setting], found: list[Group]) -> Iterator[Event | list[str]]:
        """The inputs of groups, the most disturbing first: each quantised alone; the last item is the result."""
        error = {}
        sizes = {tensor.name: np.prod(tensor.dims) for tensor in self.exact.graph.initializer}
        for number, group in enumerate(found):
            yield ProgressEvent(say("looking for sensitive layers", "查找敏感层"), number, len(found))
            alone = self._model({group.input: settings[group.input]}, rows=False, rest=False)
            outputs = alone.outputs(self.few, self.by_token)
            squares = (float(np.square(a - b).sum()) for a, b in zip(self.wanted_few, outputs, strict=True))
            # For each weight: what is kept in floating point costs time by its size.
            error[group.input] = sum(squares) / sum(sizes[name] for name in group.weights)
        yield ProgressEvent(say("looking for sensitive layers", "查找敏感层"), len(found), len(found))
        yield sorted(error, key=lambda name: -error[name])

    def fewest(self, settings: dict[str, Setting], order: list[str]) -> tuple[list[str], float]:
        """The shortest beginning of ``order`` that has to stay in floating point, by bisection, and the agreement.

        Where not even all of it is enough: all of it.
        """

        def without(count: int) -> float:
            return self.agreement({n: s for n, s in settings.items() if n not in order[:count]})

        low, high = 0, len(order)
        reached = without(high)
        while low + 1 < high:
            middle = (low + high) // 2
            found = without(middle)
            if found >= self.step.int8_agreement:
                high, reached = middle, found
            else:
                low = middle
        return order[:high], reached


def agreement(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """The share of equal decisions: the best class of each text or token; single numbers must be within 0.02."""
    same = []
    for x, y in zip(a, b, strict=True):
        if x.shape[-1] == 1:
            same.append(np.abs(x - y).ravel() < 0.02)
        else:
            same.append(np.atleast_1d(x.argmax(-1) == y.argmax(-1)))
    return float(np.concatenate(same).mean()) if same else 1.0
