"""Mixup of hidden vectors: between two texts, the answer lies between / 隐空间 mixup：混合两条文本的向量与标签（附加项）.

Source: Zhang et al. 2018, "mixup", in the space the head reads as in Verma et al. 2019, "Manifold Mixup", and Guo et
al. 2019: l L(f(h), y_i) + (1 - l) L(f(h), y_j), h = l h_i + (1 - l) h_j, l drawn from Beta(alpha, alpha).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.objectives.base import Addition

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class Mixup(Addition):
    """The loss of each vector mixed with another's of the step; one ``l`` a step. Costs one pass through the head."""

    mixup_alpha: float = option(
        0.4,
        "of the Beta distribution the mixture is drawn from",
        "混合比例所服从的 Beta 分布的参数 α",
        least=0.001,
    )

    fits = ("classes", "labels", "values")
    heads = ("pooled", "marker", "token")
    compares_examples = True

    def term(self, passes: "Passes") -> "Tensor":
        import torch

        valid = passes.valid
        h_NF, targets = passes.features[valid], passes.targets[valid]
        share = float(torch.distributions.Beta(self.mixup_alpha, self.mixup_alpha).sample())
        other = torch.randperm(len(targets)).to(targets.device)
        outputs = passes.head(share * h_NF + (1 - share) * h_NF[other])
        mine, theirs = (passes.loss_sum(outputs, wanted) for wanted in (targets, targets[other]))
        return share * mine + (1 - share) * theirs
