"""Weigh groups up on which the model is worst, as training goes on / 训练中逐步加大表现最差分组的权重（group DRO，附加项）.

Source: Sagawa et al. 2020, "Distributionally Robust Neural Networks for Group Shifts", algorithm 1 over mixed batches:
q_g <- q_g exp(eta l_g), scaled to sum 1; the loss is the sum of q_g l_g, with l_g the mean loss over a group's texts.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weitiao.core.config import option
from weitiao.objectives._groups import Grouped, mean_losses

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class GroupDro(Grouped):
    """Takes the place of the mean loss: what is added is the worst-group loss less the mean one.

    So ``cross_entropy+group_dro`` is the paper's objective, and with a weight of 0.5 half of it. A group that a step
    doesn't hold has no loss in it.
    """

    group_dro_rate: float = option(
        0.05, "how fast the weights of groups move (eta)", "分组权重变化的快慢 η", least=0
    )
    logs: list[float] = field(default_factory=list)  # the logarithms of the weights q, before they are scaled

    def prepare(self, targets: "Tensor", classes: int) -> None:
        super().prepare(targets, classes)
        self.logs = [0.0] * len(self.counts)

    @property
    def weights(self) -> list[float]:
        """The weight of each group now; they sum to 1."""
        powers = [math.exp(value - max(self.logs)) for value in self.logs]
        return [power / sum(powers) for power in powers]

    def term(self, passes: "Passes") -> "Tensor":
        losses = mean_losses(passes, passes.outputs)
        for group, loss in losses.items():
            self.logs[group] += self.group_dro_rate * float(loss.detach())
        weights = self.weights
        robust = sum(weights[group] * loss for group, loss in losses.items())
        return len(passes.targets) * robust - passes.loss(passes.outputs)

    def state(self) -> dict[str, Any]:
        return {"logs": list(self.logs)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.logs = list(state["logs"])
