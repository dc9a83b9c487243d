"""Causal language modelling: the next token, from those before it / 因果语言建模：由前文预测下一个词元.

Which tokens are scored is in the targets: all of a text's, or those of the answers alone.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.data.encode import IGNORED
from weitiao.objectives.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class CausalLm(Loss):
    """-sum of log softmax(outputs)[next token]."""

    fits = ("tokens",)
    heads = ("language",)

    def loss_sum(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        from torch.nn import functional as F

        return F.cross_entropy(outputs, targets, ignore_index=IGNORED, reduction="sum")
