"""Learn what holds in every group: invariant risk / 学习在各分组中都成立的规律（不变风险最小化 IRM，附加项）.

Source: Arjovsky et al. 2019, "Invariant Risk Minimization", IRMv1: the sum over environments e of the squared gradient
of R_e(w f) by the scalar w at 1, with R_e the mean loss over the texts of e.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.data.columns import GROUP
from weitiao.objectives._groups import Grouped, parts_of

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class Irm(Grouped):
    """The mean over the groups in a step, times its texts. Its weight is large in the paper: ``100*irm``."""

    def term(self, passes: "Passes") -> "Tensor":
        import torch

        scale = torch.ones((), device=passes.outputs.device, requires_grad=True)
        slopes = []
        for part in parts_of(passes.batch.facts[GROUP]).values():
            risk = passes.loss_sum(passes.outputs[part] * scale, passes.targets[part]) / part.sum()
            slopes += torch.autograd.grad(risk, scale, create_graph=True)
        return len(passes.targets) * torch.stack(slopes).square().mean()
