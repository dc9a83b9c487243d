"""Try the methods by cross-validation on the few labels, take the best / 在少量标注上交叉验证各方法，选用最好的."""

from dataclasses import dataclass
from typing import Any

from weitiao.core.config import option
from weitiao.few_shot.base import FewShot


@dataclass
class Auto(FewShot):
    """Each method is tried on the same folds; when the time is up, what is known by then decides."""

    shot_budget: float = option(
        120.0,
        "seconds that the trials of --few-shot auto may take",
        "--few-shot auto 试验各方法的时限（秒）",
        least=0,
    )
    shot_folds: int = option(4, "folds of the cross-validation", "交叉验证的折数", least=2, most=20)

    chooses = True

    def settings(self) -> dict[str, Any]:
        return {}
