"""R-Drop: two dropout masks must give the same answer / R-Drop：两次 dropout 的输出应一致（附加项）.

Source: Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks", equations 3 and 4:
-log P1(y) - log P2(y) + alpha / 2 (KL(P1 || P2) + KL(P2 || P1)).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.objectives._divergence import symmetric_kl
from weitiao.objectives.base import Addition

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class RDrop(Addition):
    """A second pass's loss, and the symmetric KL divergence between the two. Twice the cost of a step."""

    r_drop_alpha: float = option(
        1.0, "weight of the divergence between the two passes", "两次输出之间 KL 散度的权重 α", least=0
    )

    fits = ("classes", "labels")
    needs_dropout = True

    def term(self, passes: "Passes") -> "Tensor":
        second = passes.run()
        apart = symmetric_kl(passes, passes.outputs, second)
        return passes.loss(second) + self.r_drop_alpha / 2 * apart
