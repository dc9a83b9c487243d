"""The contract of continual learning: what is added to the training of an update so that less is forgotten.

A member is an addition to the loss, as those of ``objectives``; before the first step it is shown the model as it was,
in ``Known``. Its head has a row for each new class below the old ones, so the old classes keep their numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from weitiao.objectives.base import Addition

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.data.encode import Encoded
    from weitiao.models.backbone import TextModel


@dataclass
class Known:
    """What an update begins with.

    Attributes:
        model: what is trained: the old weights, under a head with a row for each class, old and new.
        old: the model as it was, frozen, with its own head.
        train: the rows that are trained on.
        before: training rows of earlier tasks, with targets.
        base: the pretrained weights, by name in the plain backbone.
        tasks: how many tasks it has learnt.
        loss_sum: the loss of outputs and targets: a sum.
        seed: of what is drawn.
    """

    model: "TextModel"
    old: "TextModel"
    train: "Encoded"
    before: "Encoded"
    base: "dict[str, Tensor]"
    tasks: int
    loss_sum: "Callable[[Tensor, Tensor], Tensor]"
    seed: int = 0


class Continual(Addition):
    """One way. By default it adds nothing."""

    fits: ClassVar[tuple[str, ...]] = ("classes", "labels", "values")
    rehearses: ClassVar[bool] = False  # rows of earlier tasks are trained on, too
    tuning: ClassVar[str] = (
        ""  # the update is trained with this tuning, whose change then goes into the weights
    )

    def begin(self, known: Known) -> None:
        """Take what it needs, before the first step."""

    @property
    def rows_per_class(self) -> int:
        """Of earlier tasks, for a way that rehearses; 0: all."""
        return 0
