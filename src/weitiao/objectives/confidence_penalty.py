"""Confidence penalty: answers of low entropy cost / 置信度惩罚：抑制过度自信的输出（附加项）.

Source: Pereyra et al. 2017, "Regularizing Neural Networks by Penalizing Confident Output Distributions": -beta H(p).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.objectives.base import Addition

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class ConfidencePenalty(Addition):
    """Minus the entropy of each valid answer, times ``beta``; of several labels, the mean over them."""

    confidence_beta: float = option(0.1, "weight of the entropy", "熵的权重 β", least=0)

    fits = ("classes", "labels")

    def term(self, passes: "Passes") -> "Tensor":
        from torch.nn import functional as F

        outputs = passes.outputs[passes.valid]
        if passes.targets.ndim == 2:
            yes, no = F.logsigmoid(outputs), F.logsigmoid(-outputs)
            return self.confidence_beta * (yes.exp() * yes + no.exp() * no).mean(1).sum()
        logs = F.log_softmax(outputs, -1)
        return self.confidence_beta * (logs.exp() * logs).sum()
