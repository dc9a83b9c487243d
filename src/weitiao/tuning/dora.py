"""LoRA that learns weights' lengths apart from their directions / 将权重的长度与方向分开学习的 LoRA（DoRA）.

Source: Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation"; the layers are those of ``peft``. Each forward
pass computes the lengths of all adapted weights anew, so it costs more than LoRA.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from weitiao.tuning._peft import LowRank


@dataclass
class Dora(LowRank):
    """DoRA."""

    peft_options: ClassVar[dict[str, Any]] = {"use_dora": True}
