"""Binary cross-entropy for several labels at once / 二元交叉熵，用于多标签分类."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.objectives.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class BinaryCrossEntropy(Loss):
    """The mean over labels of binary cross-entropy, summed over examples."""

    fits = ("labels",)

    def loss_sum(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        from torch.nn import functional as F

        loss = F.binary_cross_entropy_with_logits(outputs, targets.to(outputs), reduction="sum")
        return loss / outputs.shape[1]
