"""The contract of an objective: the sum of losses over a micro-batch's valid targets.

The sum, not the mean: the loop divides by the valid targets of the whole step, so that the gradient does not depend on
how a step is cut. ``fits`` says which outputs and targets it is for; the contract tests use it.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class Objective(ABC):
    """A loss. ``prepare`` is called once with the training targets."""

    # classes: logits [N, C], int targets [N]; labels: logits [N, C], {0, 1} targets [N, C];
    # values: outputs [N, 1] or embeddings [N, 2, D], float targets [N]
    fits: ClassVar[tuple[str, ...]]
    embeddings_only: ClassVar[bool] = False  # of ``values``, it takes embeddings and no single output
    compares_examples: ClassVar[bool] = False  # it needs a step's examples together, so steps are not cut

    def prepare(self, targets: "Tensor", classes: int) -> None:  # noqa: B027 (optional)
        """Learn what the objective needs to know of the training targets (class weights, for one)."""

    @abstractmethod
    def loss_sum(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """A scalar: the sum over valid targets."""
