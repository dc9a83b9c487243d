"""Rank pairs by cosine: a more similar pair must score above a less similar one / 余弦排序损失（CoSENT）.

Source: Su 2022, "CoSENT": log(1 + sum exp(scale (cos_j - cos_i))) over pairs where target i > target j.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.objectives.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Cosent(Loss):
    """The ranking loss of a step, times its number of examples (so that the step's mean is the loss)."""

    cosent_scale: float = option(20.0, "sharpness of the ranking", "排序损失的锐度", least=0.01)

    fits = ("values",)
    compares_examples = True

    def loss_sum(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        import torch

        values = (outputs[:, 0] * outputs[:, 1]).sum(-1) if outputs.ndim == 3 else outputs.squeeze(-1)
        gaps = (values[None, :] - values[:, None]) * self.cosent_scale
        gaps = gaps[targets[:, None] > targets[None, :]]
        return torch.logsumexp(torch.cat([gaps.new_zeros(1), gaps]), 0) * len(targets)
