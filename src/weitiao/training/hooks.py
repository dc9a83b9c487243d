"""What a tuning method may do while its model is trained: the loop, checkpoints and the engagement check call these.

Each does nothing by default, so most methods have none.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class Hooks:
    """Called by ``loop.train`` in this order: ``begin`` once, then ``extra_loss`` and ``after_step`` at every step."""

    def begin(self, model: "nn.Module", total_steps: int) -> None:
        """Before the first step, of a resumed run too."""

    def extra_loss(self, model: "nn.Module") -> "Tensor | None":
        """Added once to the loss of a step."""
        return None

    def after_step(self, model: "nn.Module", step: int, total_steps: int) -> None:
        """After the optimizer's step, while the gradients are still there; ``step`` counts from 1."""

    def settled(self, step: int, total_steps: int) -> bool:
        """Whether the weights after this step may become the result: what is trained has its final shape."""
        return True

    def state(self) -> "dict[str, Tensor]":
        """What a checkpoint must hold beside parameters and optimizer."""
        return {}

    def load_state(self, state: "dict[str, Tensor]") -> None:
        """Take up what ``state`` gave."""

    def engaged(self, model: "nn.Module") -> dict[str, Any]:
        """Facts that prove the method did what it is for, after training; beyond parameters that moved.

        Raises:
            WeitiaoError: it did not.
        """
        return {}
