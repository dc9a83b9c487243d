"""Freeze the backbone and fit the head on its cached features / 冻结主干，仅在缓存的特征上拟合分类头."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.tuning.base import Tuning, freeze

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel


@dataclass
class Head(Tuning):
    """A linear probe."""

    penalty: float = option(0.1, "L2 penalty of the head's regression", "分类头回归的 L2 惩罚", least=0)

    learning_rate = 1e-3
    num_epochs = 0

    def apply(self, model: "TextModel") -> None:
        freeze(model)
