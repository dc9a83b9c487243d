"""Cross-entropy, with class weights and label smoothing / 交叉熵，可加类别权重与标签平滑."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.data.encode import IGNORED
from weitiao.objectives.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class CrossEntropy(Loss):
    """-sum of log softmax(outputs)[target].

    ``balanced`` weighs class c by N / (C n_c), as scikit-learn does. Label smoothing: Szegedy et al. 2016.
    """

    class_weights: str = option(
        "none", "weigh rare classes up", "提高少数类的权重", choices=("none", "balanced")
    )
    label_smoothing: float = option(
        0.0, "share of each target spread over all classes", "标签平滑系数", least=0, most=0.9
    )

    fits = ("classes",)
    weights: "Tensor | None" = None

    def prepare(self, targets: "Tensor", classes: int) -> None:
        if self.class_weights == "balanced":
            counts = targets[targets >= 0].bincount(minlength=classes).float()
            weights = counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))
            self.weights = weights

    def loss_sum(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        from torch.nn import functional as F

        weights = None if self.weights is None else self.weights.to(outputs)
        return F.cross_entropy(
            outputs,
            targets,
            weights,
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
