"""FreeLB: adversarial training that learns from every step of the search / FreeLB：每步扰动都参与学习的对抗训练（附加项）.

Source: Zhu et al. 2020, "FreeLB: Enhanced Adversarial Training for Natural Language Understanding", algorithm 1:
1/K sum over t < K of L(s + r_t), r_0 uniform, r_t+1 = P(r_t + a g / ||g||); all K passes have the same dropout masks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.objectives._noise import along, gradient, within
from weitiao.objectives.base import Addition

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class Freelb(Addition):
    """The mean loss over the steps.

    The paper trains on these alone; here they are added to the plain loss, as in FGM.
    """

    freelb_epsilon: float = option(
        1.0, "how far a text's embeddings may be moved (Euclidean norm)", "一条文本的词向量最多移动多远（二范数）",
        least=1e-6,
    )  # fmt: skip
    freelb_step_size: float = option(0.3, "how far each step moves them", "每一步移动多远", least=1e-6)
    freelb_start: float = option(0.3, "size of the random move to begin with", "随机初始扰动的大小", least=0)
    freelb_steps: int = option(3, "steps, each as costly as a step of plain training", "步数，每步约为一次普通训练的开销",
                               least=1, most=100)  # fmt: skip

    fits = ("classes", "labels", "values")
    perturbs = True

    def later(self, passes: "Passes") -> "Iterator[Tensor]":
        noise_TE = within(passes, self._start(passes), self.freelb_epsilon)
        for _ in range(self.freelb_steps):
            noise_TE = noise_TE.detach().requires_grad_()
            yield passes.loss(passes.run(noise_TE, same_dropout=True)) / self.freelb_steps
            # Its backward pass, which trains the model, has given the gradient for the next step: "free".
            step_TE = self.freelb_step_size * along(passes, gradient(noise_TE))
            noise_TE = within(passes, noise_TE.detach() + step_TE, self.freelb_epsilon)

    def _start(self, passes: "Passes") -> "Tensor":
        """Uniform in +- start / sqrt(L E), for a text of L tokens with embeddings of size E."""
        import torch

        noise_TE, packed = passes.silence(), passes.batch.packed
        sizes_T1 = (packed.lengths_B[packed.owner_T] * noise_TE.shape[1]).unsqueeze(1)
        return (2 * torch.rand_like(noise_TE) - 1) * self.freelb_start / sizes_T1.sqrt()
