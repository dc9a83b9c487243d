"""Several objectives as one: ``cross_entropy+r_drop+0.5*fgm`` is a loss and what is added to it, with weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from weitiao.core import catalogue
from weitiao.core.config import make_member, several, unweighted
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.objectives.base import Addition, Loss, Objective

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from weitiao.data.encode import Encoded
    from weitiao.models.backbone import TextModel
    from weitiao.training.passes import Passes


@dataclass
class Composed:
    """The sum of weighted losses and additions. ``text`` is what the user wrote."""

    text: str
    losses_in: list[tuple[float, Loss]]
    additions: list[tuple[float, Addition]]

    @property
    def parts(self) -> list[Objective]:
        """All objectives in it."""
        return [part for _, part in (*self.losses_in, *self.additions)]

    @property
    def fits(self) -> tuple[str, ...]:
        """The kinds of targets that all of them take."""
        first, *rest = (part.fits for part in self.parts)
        return tuple(kind for kind in first if all(kind in other for other in rest))

    @property
    def embeddings_only(self) -> bool:
        """Whether one of the losses takes embeddings alone."""
        return any(loss.embeddings_only for _, loss in self.losses_in)

    @property
    def compares_examples(self) -> bool:
        """Whether steps may not be cut."""
        return any(part.compares_examples for part in self.parts)

    @cached_property
    def perturbs(self) -> bool:
        """Whether embeddings are moved."""
        return any(addition.perturbs for _, addition in self.additions)

    @property
    def group_column(self) -> str:
        """The table's column that says which group an example is of; empty: none is needed."""
        return next((part.group_column for part in self.parts if hasattr(part, "group_column")), "")

    @property
    def needs_facts(self) -> bool:
        """Whether one of them must know more of an example than its target."""
        return any(type(part).facts is not Objective.facts for part in self.parts)

    @property
    def notes(self) -> list[str]:
        """What the user should know, after ``prepare``."""
        return [part.note for part in self.parts if part.note]

    def facts(
        self, texts: Sequence[str], groups: Sequence[str], names: Sequence[str]
    ) -> "dict[str, np.ndarray]":
        """As ``Objective.facts``, of all."""
        return {name: fact for part in self.parts for name, fact in part.facts(texts, groups, names).items()}

    def state(self) -> dict[str, Any]:
        """As ``Objective.state``, of those that have one, by name."""
        return {_name(part): state for part in self.parts if (state := part.state())}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        for part in self.parts:
            if _name(part) in state:
                part.load_state(state[_name(part)])

    def remember(self, model: "TextModel", encoded: "Encoded") -> None:
        """As ``Loss.remember``, for each."""
        for _, loss in self.losses_in:
            loss.remember(model, encoded)

    def prepare(self, targets: "Tensor", classes: int) -> None:
        """As ``Objective.prepare``, for each."""
        for part in self.parts:
            part.prepare(targets, classes)

    def loss_sum(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """The losses alone, of one pass."""
        (weight, loss), *rest = self.losses_in
        total = _times(weight, loss.loss_sum(outputs, targets))
        for weight, loss in rest:
            total = total + weight * loss.loss_sum(outputs, targets)
        return total

    def losses(self, passes: "Passes") -> "Iterator[Tensor]":
        """What goes backwards, one after the other: the first pass with its terms, then what further passes give."""
        outputs = passes.first(noise=self.perturbs, again=bool(self.additions))
        (weight, loss), *rest = self.losses_in
        total = _times(weight, loss.pass_sum(passes, outputs))
        for weight, loss in rest:
            total = total + weight * loss.pass_sum(passes, outputs)
        for weight, addition in self.additions:
            term = addition.term(passes)
            if term is not None:
                total = total + weight * term
        yield total
        for weight, addition in self.additions:
            for loss in addition.later(passes):
                yield _times(weight, loss)

    def check(self, kind: str, head: str, dropout: float | None) -> None:
        """Refuse what cannot work with these targets (``classes``, ``labels``, ``values``), head and dropout.

        Raises:
            WeitiaoError: names the part and the way out.
        """
        for part in self.parts:
            name = _name(part)
            if kind not in part.fits:
                usable = ", ".join(n for n in catalogue.members("objectives") if _suits(n, kind, head))
                raise WeitiaoError(
                    say(
                        f"--objective {name} is for {'/'.join(part.fits)}; this task has {kind}. Choices: {usable}",
                        f"--objective {name} 适用于 {'/'.join(part.fits)}，而本任务是 {kind}。可选：{usable}",
                    )
                )
            if getattr(part, "embeddings_only", False) and head != "embedding":
                raise WeitiaoError(
                    say(
                        f"--objective {name} compares embeddings: add --encoder bi",
                        f"--objective {name} 比较的是文本向量：请加上 --encoder bi",
                    )
                )
            kinds = ", ".join(part.heads)
            if head not in part.heads:
                raise WeitiaoError(
                    say(
                        f"--objective {name} works on heads of the kinds {kinds}; this task's is {head}",
                        f"--objective {name} 适用于 {kinds} 类型的头，而本任务是 {head}",
                    )
                )
            if getattr(part, "needs_dropout", False) and dropout == 0:
                raise WeitiaoError(
                    say(
                        f"{name} compares passes that differ by their dropout: it can't work with --dropout 0",
                        f"{name} 比较的是 dropout 不同的两次前向计算，不能与 --dropout 0 同用",
                    )
                )


def compose(text: str, values: Mapping[str, Any]) -> Composed:
    """The objective that a text names, with those of ``values`` that are its parts' settings.

    Raises:
        WeitiaoError: a part is unknown or named twice, a weight is no number above 0, there is no loss, or
            the losses are for different targets, or a part's settings cannot work.
    """
    found = [(_weight(part), make_member("objectives", unweighted(part), values)) for part in several(text)]
    names = [_name(part) for _, part in found]
    for name in names:
        if names.count(name) > 1:
            raise WeitiaoError(
                say(
                    f"--objective {text} names {name} twice; give it one weight, as in 0.5*{name}",
                    f"--objective {text} 两次写了 {name}；请只写一次并给出权重，例如 0.5*{name}",
                )
            )
    losses = [(weight, part) for weight, part in found if isinstance(part, Loss)]
    additions = [(weight, part) for weight, part in found if isinstance(part, Addition)]
    if not losses:
        known = ", ".join(_losses())
        raise WeitiaoError(
            say(
                f"--objective {text} has no loss to add to: begin with one, as in cross_entropy+{text}. "
                f"Losses: {known}",
                f"--objective {text} 没有基础损失：请先写一个，例如 cross_entropy+{text}。可选的损失：{known}",
            )
        )
    composed = Composed(text, losses, additions)
    for part in composed.parts:
        part.check()
    if not composed.fits:
        each = "; ".join(f"{_name(part)}: {'/'.join(part.fits)}" for part in composed.parts)
        raise WeitiaoError(
            say(
                f"--objective {text} cannot work: no targets suit all of it ({each})",
                f"--objective {text} 无法使用：没有同时适合各部分的目标（{each}）",
            )
        )
    return composed


def _weight(part: str) -> float:
    """The weight before ``*``; 1 where there is none."""
    head, star, name = part.rpartition("*")
    try:
        weight = float(head) if star else 1.0
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise WeitiaoError(
            say(
                f"'{head}' is no weight for {name}: it must be a number above 0, as in 0.5*{name}",
                f"“{head}”不能作 {name} 的权重：应为大于 0 的数，例如 0.5*{name}",
            )
        )
    return weight


def _times(weight: float, loss: "Tensor") -> "Tensor":
    return loss if weight == 1 else weight * loss


def _name(part: Objective) -> str:
    return type(part).__module__.rsplit(".", 1)[-1]


def _losses() -> list[str]:
    return [name for name in catalogue.members("objectives") if issubclass(_class(name), Loss)]


def _suits(name: str, kind: str, head: str) -> bool:
    cls = _class(name)
    return (
        kind in cls.fits
        and head in cls.heads
        and not (getattr(cls, "embeddings_only", False) and head != "embedding")
    )


def _class(name: str) -> Any:
    return catalogue.member("objectives", name)
