"""Focal loss: easy examples count less / 焦点损失：降低易分样本的权重.

Source: Lin et al. 2017, "Focal Loss for Dense Object Detection": -(1 - p)^gamma log p.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.data.encode import IGNORED
from weitiao.objectives.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Focal(Loss):
    """Cross-entropy times (1 - p)^gamma, with p the probability of the true class."""

    focal_gamma: float = option(2.0, "how much less easy examples count", "易分样本的衰减指数 γ", least=0)

    fits = ("classes",)

    def loss_sum(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        from torch.nn import functional as F

        valid = targets != IGNORED
        log_p = F.log_softmax(outputs[valid], -1).gather(1, targets[valid].unsqueeze(1)).squeeze(1)
        return -((1 - log_p.exp()).pow(self.focal_gamma) * log_p).sum()
