"""Set the weights that matter least to zero, and store only the others / 把最不重要的权重置零，只存其余部分.

A bundle keeps a bit for each weight and the values that are left; an engine unpacks them when it loads the graph. The
arithmetic stays dense: this step saves bytes, not time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from weitiao.compression._training import Plan, fit, targets_of
from weitiao.compression.base import Compression, Steps, Subject
from weitiao.core.catalogue import member
from weitiao.core.config import option
from weitiao.core.events import StepEvent

SCORE_RATE = 1e-2  # of Sanh et al. 2020, appendix A
RISE = 0.7  # of the steps, in which the sparsity rises; in the others the weights settle


@dataclass
class Sparse(Compression):
    """Unstructured pruning of the layers' matrices, each to the same share of zeros."""

    sparsity: float = option(
        0.5, "share of the layers' weights that become zero", "置零的层权重比例", least=0, most=0.99
    )
    sparse_way: str = option(
        "magnitude",
        "the smallest go, or those that training moves towards zero",
        "去掉绝对值最小的，或训练中趋向零的权重",
        choices=("magnitude", "movement"),
    )
    sparse_epochs: float = option(
        0.0,
        "training while weights go, in passes over the labelled rows (movement: at least 1)",
        "边剪枝边训练的轮数（movement 至少为 1）",
        least=0,
    )
    sparse_learning_rate: float = option(3e-5, "peak rate of that training", "该训练的最高学习率", least=0)

    def apply(self, subject: Subject) -> Steps:
        layers = [m for m in subject.encoder.encoder["layer"].modules() if isinstance(m, nn.Linear)]
        movement = self.sparse_way == "movement"
        epochs = max(self.sparse_epochs, 1.0) if movement else self.sparse_epochs
        if epochs:
            encoded = subject.labelled()
            masks = [_Mask(layer.weight, movement) for layer in layers]
            for layer, mask in zip(layers, masks, strict=True):
                parametrize.register_parametrization(layer, "weight", mask)
            try:
                yield from self._train(subject, encoded, masks, epochs)
            finally:
                for layer in layers:  # the masked weights become the weights
                    parametrize.remove_parametrizations(layer, "weight")
        for layer in layers:
            if not epochs:
                with torch.no_grad():
                    layer.weight.mul_(kept(layer.weight.abs(), self.sparsity))
        zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
        return {"zeros": zeros, "share": zeros / sum(layer.weight.numel() for layer in layers)}

    def _train(
        self, subject: Subject, encoded: Any, masks: "list[_Mask]", epochs: float
    ) -> Iterator[StepEvent]:
        objective = member("objectives", subject.task.objective(subject.answers))()
        linear = subject.model.head.linear
        objective.prepare(targets_of(encoded), linear.out_features if linear is not None else 0)
        scores = [mask.scores for mask in masks if mask.scores is not None]
        plan = Plan(epochs, self.sparse_learning_rate)
        if scores:
            plan.extra = [{"params": scores, "lr": SCORE_RATE}]
        for event in fit(subject, encoded, objective.loss_sum, plan):
            yield event
            done = min(event.step / max(event.total_steps * RISE, 1), 1.0)
            for mask in masks:  # cubic: most go early, while there is time to recover (Zhu & Gupta 2017)
                mask.sparsity = self.sparsity * (1 - (1 - done) ** 3)
        for mask in masks:
            mask.sparsity = self.sparsity


class _Mask(nn.Module):
    """A weight with its least important elements at zero. Importance: size, or scores that are learnt."""

    def __init__(self, weight: Tensor, movement: bool) -> None:
        super().__init__()
        self.sparsity = 0.0
        self.scores: Tensor | None = None
        if movement:
            # A plain tensor, not a parameter: the optimizer gives it a group of its own.
            self.scores = (weight.detach().abs() / weight.detach().std()).requires_grad_()

    def forward(self, weight: Tensor) -> Tensor:
        if self.scores is None:
            return weight * kept(weight.detach().abs(), self.sparsity)
        return weight * _Kept.apply(self.scores, self.sparsity)


class _Kept(torch.autograd.Function):
    """The mask of the highest scores; its gradient goes to the scores as it is (Sanh et al. 2020, equation 4)."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, sparsity: float) -> Tensor:
        return kept(scores, sparsity)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def kept(importance: Tensor, sparsity: float) -> Tensor:
    """1 for the elements that stay and 0 for the ``sparsity`` least important, in the shape of ``importance``."""
    gone = round(sparsity * importance.numel())
    mask = torch.ones_like(importance, requires_grad=False).flatten()
    mask[torch.argsort(importance.flatten(), stable=True)[:gone]] = 0
    return mask.view(importance.shape)
