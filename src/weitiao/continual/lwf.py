"""Answer as the old model on the new texts / 在新文本上保持旧模型的回答（LwF，无遗忘学习）.

Source: Li and Hoiem 2016, "Learning without Forgetting": the distillation loss of Hinton et al. 2015 between the old
model's outputs and the present ones of the old classes, T^2 KL(softmax(old / T) || softmax(new / T)).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.continual.base import Continual, Known
from weitiao.core.config import option

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class Lwf(Continual):
    """Learning without forgetting. Needs no old text."""

    lwf_weight: float = option(1.0, "weight of the old answers", "旧回答的权重", least=0)
    lwf_temperature: float = option(2.0, "softens both answers", "软化两个回答的温度", least=0.1)

    fits = ("classes",)

    def begin(self, known: Known) -> None:
        from weitiao.training.outputs import outputs_of

        self.outputs = outputs_of(known.old, known.train)

    def term(self, passes: "Passes") -> "Tensor":
        import numpy as np
        import torch
        from torch.nn import functional as F

        rows = [np.atleast_2d(self.outputs[row]) for row in passes.batch.rows.tolist()]
        old_NC = torch.from_numpy(np.concatenate(rows)).to(passes.outputs.device)[passes.valid]
        new_NC = passes.outputs[passes.valid][:, : old_NC.shape[1]]
        t = self.lwf_temperature
        apart = F.kl_div(F.log_softmax(new_NC / t, -1), F.softmax(old_NC / t, -1), reduction="sum")
        return self.lwf_weight * t**2 * apart
