"""Learn in directions that the old tasks left free / 在旧任务未用的方向上学习（正交 LoRA）.

Source: Wang et al. 2023, "Orthogonal Subspace Learning for Language Model Continual Learning" (O-LoRA): a new LoRA for
each task, whose A is kept orthogonal to the earlier tasks' by lambda |A_old A_new^T|^2. The earlier LoRAs lie in the
weights already; what they span, and what full fine-tuning spans about, is read off the change of each weight since the
pretrained model: its first right singular vectors.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.continual.base import Continual, Known
from weitiao.core.config import option

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes

ADDED = ".lora_A.default.weight"


@dataclass
class OrthogonalLora(Continual):
    """A LoRA on top of the old weights, merged into them afterwards. Needs no old text."""

    orthogonal_weight: float = option(0.5, "weight of the orthogonality", "正交项的权重", least=0)
    orthogonal_rank: int = option(
        8, "directions kept free of change for each task", "为每个旧任务保留的方向数", least=1
    )

    tuning = "lora"

    def begin(self, known: Known) -> None:
        import torch

        self.taken: dict[str, Tensor] = {}
        now = known.model.backbone.state_dict()
        for name in now:
            if not name.endswith(ADDED):
                continue
            layer = name.removesuffix(ADDED)
            change = now[f"{layer}.base_layer.weight"] - known.base[f"{layer}.weight"]
            rank = min(self.orthogonal_rank * known.tasks, *change.shape)
            if change.abs().max() > 0:
                torch.manual_seed(known.seed)
                _, _, directions = torch.svd_lowrank(change, q=rank)
                self.taken[name] = directions

    def term(self, passes: "Passes") -> "Tensor | None":
        if not self.taken:
            return None
        parts = [
            (parameter @ self.taken[name]).pow(2).sum()
            for name, parameter in passes.model.backbone.named_parameters()
            if name in self.taken
        ]
        total = sum(parts[1:], parts[0])
        return self.orthogonal_weight * total * passes.valid.sum()
