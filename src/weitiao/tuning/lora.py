"""Low-rank adapters on the backbone's linear layers / 在主干的线性层上加低秩适配器（LoRA）.

Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models"; the layers are those of ``peft``.
"""

from dataclasses import dataclass

from weitiao.tuning._peft import LowRank


@dataclass
class Lora(LowRank):
    """LoRA."""
