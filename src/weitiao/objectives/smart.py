"""SMART: a small move of the text must not move the answer / SMART：输入微小扰动时输出应保持平滑（附加项）.

Source: Jiang et al. 2020, "SMART: Robust and Efficient Fine-Tuning for Pre-trained Natural Language Models", equation 2
(the smoothness part): max over ||r||_inf <= epsilon of KL(f(s) || f(s + r)) + KL(f(s + r) || f(s)).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.objectives._divergence import symmetric_kl
from weitiao.objectives._noise import largest
from weitiao.objectives.base import Addition

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class Smart(Addition):
    """The divergence at the perturbation found from a random start. It needs no labels.

    All passes have the same dropout masks, so that the perturbation alone moves the answer.
    """

    smart_epsilon: float = option(
        0.01, "how far any number of an embedding may be moved", "词向量的每一维最多移动多远", least=1e-9
    )
    smart_start: float = option(
        0.001, "standard deviation of the random move to begin with", "随机初始扰动的标准差", least=1e-12
    )
    smart_step_size: float = option(0.01, "how far each step moves it", "每一步移动多远", least=1e-9)
    smart_steps: int = option(1, "steps of the search", "搜索的步数", least=1, most=100)

    fits = ("classes", "labels")
    perturbs = True

    def term(self, passes: "Passes") -> "Tensor":
        import torch

        noise_TE = torch.randn_like(passes.silence()) * self.smart_start
        still = passes.outputs.detach()
        for _ in range(self.smart_steps):
            slope_TE = passes.slope(
                noise_TE, lambda moved: symmetric_kl(passes, moved, still), same_dropout=True
            )
            step_TE = self.smart_step_size * slope_TE / largest(passes, slope_TE)
            noise_TE = (noise_TE + step_TE).clamp(-self.smart_epsilon, self.smart_epsilon)
        return symmetric_kl(passes, passes.run(noise_TE, same_dropout=True), passes.outputs)
