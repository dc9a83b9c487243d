"""Hold the weights that the old tasks need / 固定对旧任务重要的权重（EWC，弹性权重巩固）.

Source: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", equation 3:
lambda / 2 sum_i F_i (w_i - w*_i)^2, with the diagonal of the Fisher information of rows of the earlier tasks. It is
scaled to a mean of 1, so that lambda means the same for models of different size and sureness.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.continual.base import Continual, Known
from weitiao.core.config import option

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.models.backbone import TextModel
    from weitiao.training.passes import Passes


@dataclass
class Ewc(Continual):
    """Elastic weight consolidation. Its penalty counts once a step."""

    ewc_lambda: float = option(10.0, "how firmly old weights are held", "固定旧权重的力度 λ", least=0)
    ewc_rows: int = option(
        200, "old rows that the importance of weights is taken from", "用多少旧数据估计权重的重要性", least=1
    )

    def begin(self, known: Known) -> None:
        trained = {name for name, p in known.model.named_parameters() if p.requires_grad}
        self.fisher = fisher_diagonal(known, trained, self.ewc_rows)
        self.anchors = {n: p.detach().clone() for n, p in known.old.named_parameters() if n in self.fisher}

    def term(self, passes: "Passes") -> "Tensor":
        total = self.penalty(passes.model)
        return total * passes.valid.sum()  # the loop divides by the step's valid targets

    def penalty(self, model: "TextModel") -> "Tensor":
        """The equation, for the weights as they are."""
        parts = []
        for name, parameter in model.named_parameters():
            if name in self.fisher:
                anchor = self.anchors[name]
                now = parameter[: len(anchor)]  # a head's new rows lie below the old ones
                parts.append((self.fisher[name] * (now - anchor) ** 2).sum())
        return self.ewc_lambda / 2 * sum(parts[1:], parts[0])


def fisher_diagonal(known: Known, names: set[str], rows: int) -> "dict[str, Tensor]":
    """Mean of the squared gradient of a row's loss at its own label, over earlier tasks' rows; scaled to mean 1."""
    import numpy as np
    import torch

    from weitiao.training.batches import Batches

    model, before = known.old, known.before
    chosen = np.random.default_rng(known.seed).permutation(len(before))[:rows]
    wanted = {n: p.requires_grad_(True) for n, p in model.named_parameters() if n in names}
    found = {name: torch.zeros_like(p) for name, p in wanted.items()}
    batches = Batches(before, 1, 0, first_position=model.first_position)
    try:
        for row in chosen:
            batch = batches.batch(np.array([row]))
            outputs = model(batch.packed, batch.marks_T)
            outputs = outputs[batch.order] if batch.order.shape[1] > 1 else outputs
            loss = known.loss_sum(outputs, batch.targets)  # type: ignore[arg-type]
            slopes = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            for name, slope in zip(wanted, slopes, strict=True):
                if slope is not None:
                    found[name] += slope**2 / len(chosen)
    finally:
        model.requires_grad_(False)
    total, count = sum(float(f.sum()) for f in found.values()), sum(f.numel() for f in found.values())
    return {name: f * (count / max(total, 1e-30)) for name, f in found.items()}
