"""Fit a head on the frozen model's features: nothing is trained, seconds / 仅在冻结模型的特征上拟合分类头，几秒完成."""

from dataclasses import dataclass
from typing import Any

from weitiao.few_shot.base import FewShot


@dataclass
class Probe(FewShot):
    """``--tuning head``: logistic regression."""

    def settings(self) -> dict[str, Any]:
        return {"tuning": "head"}
