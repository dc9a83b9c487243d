"""Supervised contrastive: texts of one class lie close together / 有监督对比：同类文本的向量彼此靠近（附加项）.

Source: Khosla et al. 2020, "Supervised Contrastive Learning", equation 2 (L_out); beside cross-entropy as in Gunel et
al. 2021: sum over i of -1/|P(i)| sum over p in P(i) of log(exp(z_i z_p / t) / sum over a != i of exp(z_i z_a / t)).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.objectives._pairs import need_two_classes
from weitiao.objectives.base import Addition

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class SupervisedContrastive(Addition):
    """Of the vectors that the head reads, scaled to length 1. A text without another of its class counts 0."""

    supcon_temperature: float = option(0.1, "cosines are divided by it", "余弦除以该温度", least=0.001)

    fits = ("classes",)
    heads = ("pooled", "marker", "cloze")
    compares_examples = True

    def prepare(self, targets: "Tensor", classes: int) -> None:
        need_two_classes("supervised_contrastive", targets)

    def term(self, passes: "Passes") -> "Tensor":
        import torch
        from torch.nn import functional as F

        z_NF, targets = F.normalize(passes.features, dim=-1), passes.targets
        if len(targets) < 2:  # nothing to compare it with
            return z_NF.sum() * 0
        itself = torch.eye(len(targets), dtype=torch.bool, device=z_NF.device)
        cosines = (z_NF @ z_NF.T / self.supcon_temperature).masked_fill(itself, float("-inf"))
        logs = F.log_softmax(cosines, -1).masked_fill(itself, 0.0)
        friends = (targets[:, None] == targets[None, :]) & ~itself
        return -((logs * friends).sum(1) / friends.sum(1).clamp_min(1)).sum()
