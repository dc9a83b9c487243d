"""PGD: adversarial training, the worst move found in several steps / PGD：多步寻找最坏扰动的对抗训练（附加项）.

Source: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks", here in the space of word
embeddings with Euclidean norms: r <- P(r + a g / ||g||), where P projects onto ||r|| <= epsilon; then L(s + r).
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
class Pgd(Addition):
    """The loss at the perturbation found; its first step takes the first pass's gradient."""

    pgd_epsilon: float = option(
        1.0, "how far a text's embeddings may be moved (Euclidean norm)", "一条文本的词向量最多移动多远（二范数）",
        least=1e-6,
    )  # fmt: skip
    pgd_step_size: float = option(0.3, "how far each step moves them", "每一步移动多远", least=1e-6)
    pgd_steps: int = option(3, "steps, each as costly as a step of plain training", "步数，每步约为一次普通训练的开销",
                            least=1, most=100)  # fmt: skip

    fits = ("classes", "labels", "values")
    perturbs = True

    def later(self, passes: "Passes") -> "Iterator[Tensor]":
        noise_TE, slope_TE = passes.silence(), gradient(passes.noise_TD)
        for number in range(self.pgd_steps):
            if number:
                slope_TE = passes.slope(noise_TE, passes.loss)
            noise_TE = noise_TE + self.pgd_step_size * along(passes, slope_TE)
            noise_TE = within(passes, noise_TE, self.pgd_epsilon)
        yield passes.loss(passes.run(noise_TE))
