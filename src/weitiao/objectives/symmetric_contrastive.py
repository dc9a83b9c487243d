"""Each picture must find its captions in the batch, and each caption its picture / 图文互找的对比损失（CLIP）.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 2.3, a
fixed temperature and several captions a picture.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.objectives.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class SymmetricContrastive(Loss):
    """The mean of two cross-entropies over cosines, picture to caption and back, and over the captions.

    Outputs are ``[N, 1 + K, D]``; equal targets are of one caption: such pairs are right too, and no negatives of each
    other.
    """

    temperature: float = option(0.07, "cosines are divided by it", "余弦除以该温度", least=0.001)

    fits = ("values",)
    embeddings_only = True
    compares_examples = True

    def loss_sum(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        import torch
        from torch.nn import functional as F

        own_N = torch.arange(len(targets), device=outputs.device)
        same_NN = (targets.unsqueeze(1) == targets) & (own_N.unsqueeze(1) != own_N)
        pictures_ND, total = outputs[:, 0], outputs.sum() * 0
        for captions_ND in outputs[:, 1:].unbind(1):
            cosines_NN = (pictures_ND @ captions_ND.T / self.temperature).masked_fill(same_NN, -torch.inf)
            for side_NN in (cosines_NN, cosines_NN.T):
                total = total + F.cross_entropy(side_NN, own_N, reduction="sum")
        return total / (2 * (outputs.shape[1] - 1))
