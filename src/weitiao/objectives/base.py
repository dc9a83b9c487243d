"""The contracts of objectives: a loss, and what can be added to one (``cross_entropy+r_drop+0.5*fgm``).

Both give sums over a micro-batch's valid targets, not means: the loop divides by the valid targets of the whole step,
so that the gradient does not depend on how a step is cut. ``fits`` says which outputs and targets an objective is for;
the contract tests use it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from weitiao.data.encode import Encoded
    from weitiao.models.backbone import TextModel
    from weitiao.training.passes import Passes


class Objective(ABC):
    """What both kinds have. ``prepare`` is called once, before training, with the training targets."""

    # classes: logits [N, C], int targets [N]; labels: logits [N, C], {0, 1} targets [N, C];
    # values: outputs [N, 1] or embeddings [N, 2, D], float targets [N]
    fits: ClassVar[tuple[str, ...]]
    heads: ClassVar[tuple[str, ...]] = (
        "pooled",
        "marker",
        "token",
        "cloze",
        "embedding",
    )  # kinds of heads it works on
    compares_examples: ClassVar[bool] = False  # it needs a step's examples together, so steps are not cut
    note: str = ""  # what ``prepare`` found that the user should know

    def check(self) -> None:  # noqa: B027 (optional)
        """Look at the settings before anything is read.

        Raises:
            WeitiaoError: one is missing or cannot work.
        """

    def facts(
        self, texts: Sequence[str], groups: Sequence[str], names: Sequence[str]
    ) -> "dict[str, np.ndarray]":
        """What it must know of some training examples beside their targets: arrays ``[N, ...]`` by name.

        Called for all training examples, part by part in their order, before ``prepare``. Passes find them as
        ``passes.batch.facts``.

        Args:
            texts: what each example reads.
            groups: what ``group_column`` says of each; empty where no column is wanted.
            names: those of the classes or labels.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold of it, as plain values."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027 (optional)
        """Take up what ``state`` gave."""

    def prepare(self, targets: "Tensor", classes: int) -> None:  # noqa: B027 (optional)
        """Learn what the objective needs to know of the training targets (class weights, for one).

        Raises:
            WeitiaoError: it cannot work with these targets.
        """


class Loss(Objective):
    """A loss of the model's outputs."""

    embeddings_only: ClassVar[bool] = False  # of ``values``, it takes embeddings and no single output

    @abstractmethod
    def loss_sum(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """A scalar: the sum over valid targets."""

    def pass_sum(self, passes: "Passes", outputs: "Tensor") -> "Tensor":
        """The same of the first pass, for a loss that must know more of its batch."""
        return self.loss_sum(outputs, passes.targets)

    def remember(self, model: "TextModel", encoded: "Encoded") -> None:
        """See the model as it is before training, and the training examples, to which ``facts`` may be added."""


class Addition(Objective):
    """What is added to a loss: a ``term`` of the same backward pass, or ``later`` passes with their own.

    Its weight (``0.5*name``) multiplies all of it.
    """

    perturbs: ClassVar[bool] = (
        False  # it moves the embeddings: their layer runs in every pass, nothing is cached
    )
    needs_dropout: ClassVar[bool] = False  # it compares passes that differ by their dropout

    def term(self, passes: "Passes") -> "Tensor | None":
        """A scalar to add to the loss of the first pass; None: nothing."""
        return None

    def later(self, passes: "Passes") -> "Iterator[Tensor]":
        """Further losses. Each goes backwards before the next is asked for; ``passes.noise_TD.grad`` is the
        gradient of the first pass's loss by the words' embeddings."""
        return iter(())
