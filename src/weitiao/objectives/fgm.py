"""FGM: also the text moved a little where it hurts most must be right / FGM：沿梯度扰动词向量的对抗训练（附加项）.

Source: Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised Text Classification", equations 5 and 6:
L(s + r), r = epsilon g / ||g||, with s a text's word embeddings and g the gradient of the loss by them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.objectives._noise import along, gradient
from weitiao.objectives.base import Addition

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class Fgm(Addition):
    """The loss of a second pass over embeddings moved by ``fgm_epsilon`` along the first pass's gradient."""

    fgm_epsilon: float = option(
        1.0,
        "how far a text's embeddings are moved (Euclidean norm)",
        "一条文本的词向量移动多远（二范数）",
        least=1e-6,
    )

    fits = ("classes", "labels", "values")
    perturbs = True

    def later(self, passes: "Passes") -> "Iterator[Tensor]":
        noise_TE = self.fgm_epsilon * along(passes, gradient(passes.noise_TD))
        yield passes.loss(passes.run(noise_TE))
