"""Squared error of a predicted value or of two embeddings' cosine / 均方误差（预测值，或两段文本向量的余弦）."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.objectives.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class SquaredError(Loss):
    """(output - target)^2; for embeddings ``[N, 2, D]`` the output is their cosine."""

    fits = ("values",)

    def loss_sum(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        values = (outputs[:, 0] * outputs[:, 1]).sum(-1) if outputs.ndim == 3 else outputs.squeeze(-1)
        return (values - targets.to(values)).pow(2).sum()
