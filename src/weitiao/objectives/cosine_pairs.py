"""Cosine pairs: texts of one class towards cosine 1, of two towards 0 / 文本对：同类余弦趋近 1，异类趋近 0（附加项）.

The loss that SetFit trains with (Tunstall et al. 2022; Reimers & Gurevych 2019), over all pairs of a step at once: the
mean of (1 - cos)^2 over the pairs of one class and of cos^2 over the others, half each.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.objectives._pairs import need_two_classes
from weitiao.objectives.base import Addition

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class CosinePairs(Addition):
    """Of the vectors that the head reads. Times the step's texts, so that the step's mean is the loss."""

    fits = ("classes",)
    heads = ("pooled", "marker", "cloze")
    compares_examples = True

    def prepare(self, targets: "Tensor", classes: int) -> None:
        need_two_classes("cosine_pairs", targets)

    def term(self, passes: "Passes") -> "Tensor":
        import torch
        from torch.nn import functional as F

        z_NF, targets = F.normalize(passes.features, dim=-1), passes.targets
        row, column = torch.triu_indices(len(z_NF), len(z_NF), 1, device=z_NF.device)
        cosines, same = (z_NF @ z_NF.T)[row, column], targets[row] == targets[column]
        halves = ((1 - cosines[same]) ** 2, cosines[~same] ** 2)
        # A step may lack pairs of one kind; without any its loss is 0, with a gradient.
        means = [half.mean() for half in halves if len(half)] or [z_NF.sum() * 0]
        return 0.5 * torch.stack(means).sum() * len(z_NF)
