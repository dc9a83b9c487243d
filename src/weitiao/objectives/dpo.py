"""Direct preference optimisation: the better of two answers becomes likelier than at the start / 直接偏好优化（DPO）.

Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 7. The reference is the model before training,
whose log probabilities are computed once.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weitiao.core.config import option
from weitiao.objectives.base import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.data.encode import Encoded
    from weitiao.models.backbone import TextModel
    from weitiao.training.passes import Passes

REFERENCE = "reference_log_likelihood"


@dataclass
class Dpo(Loss):
    """-sum of log sigmoid(beta ((chosen - its start) - (rejected - its start))), of log probabilities of answers."""

    dpo_beta: float = option(
        0.1,
        "how closely the start is kept to: larger is closer",
        "对初始模型的约束强度，越大越接近",
        least=0.001,
    )

    fits = ("pairs",)
    heads = ("language",)

    def loss_sum(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """Of log probabilities ``[B, 2]`` and those of the start."""
        from torch.nn import functional as F

        margins_B = (outputs[:, 0] - targets[:, 0]) - (outputs[:, 1] - targets[:, 1])
        return -F.logsigmoid(self.dpo_beta * margins_B).sum()

    def pass_sum(self, passes: "Passes", outputs: "Tensor") -> "Tensor":
        from weitiao.training.language import text_sums

        return self.loss_sum(text_sums(outputs, passes.batch), passes.batch.facts[REFERENCE])

    def remember(self, model: "TextModel", encoded: "Encoded") -> None:
        from weitiao.training.language import log_likelihoods

        sums = log_likelihoods(model, encoded).reshape(len(encoded), 2)
        encoded.facts[REFERENCE] = sums.astype(np.float32)
