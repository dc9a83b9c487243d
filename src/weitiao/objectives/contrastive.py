"""Contrastive: each text must find its partner among the batch's / 对比损失：在批内找到配对文本（InfoNCE）.

Source: van den Oord et al. 2018 (InfoNCE), with in-batch negatives as in Henderson et al. 2017.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.objectives.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Contrastive(Loss):
    """Cross-entropy over cosines of each matching pair against the other pairs' second texts.

    Pairs whose target is below a half of the largest are not matches: they serve as negatives only.
    """

    temperature: float = option(0.05, "cosines are divided by it", "余弦除以该温度", least=0.001)

    fits = ("values",)
    embeddings_only = True
    compares_examples = True

    def loss_sum(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        import torch
        from torch.nn import functional as F

        if outputs.ndim != 3:
            raise ValueError("contrastive compares embeddings [N, 2, D]")
        cosines = outputs[:, 0] @ outputs[:, 1].T / self.temperature
        match = targets > 0.5
        partner = torch.arange(len(targets), device=outputs.device)
        # A step without a match must still have a gradient graph: its loss is 0.
        return (
            F.cross_entropy(cosines[match], partner[match], reduction="sum")
            if match.any()
            else cosines.sum() * 0
        )
