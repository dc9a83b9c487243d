"""LoRA over weights that a GPU holds in 4 bits / 在 GPU 上以 4 位保存主干权重的 LoRA（QLoRA）.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", without its second quantisation; adapters
are those of ``peft``, 4-bit layers those of ``bitsandbytes``. Only training needs them: a trained run answers anywhere.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.tuning._layers import linear_layers
from weitiao.tuning._peft import LowRank

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel


@dataclass
class QLora(LowRank):
    """QLoRA."""

    needs_gpu = True
    base_in_peft = ("the base model in 4 bits (NF4, blocks of 64)", "4 位（NF4，每块 64 个）的基座模型")

    def check(self) -> None:
        from importlib.util import find_spec

        from weitiao.core.device import pick_device

        if pick_device() == "cpu" or find_spec("bitsandbytes") is None:
            names = [n for n in catalogue.members("tuning") if not catalogue.member("tuning", n).needs_gpu]
            able = ", ".join(name.replace("_", "-") for name in names)
            raise WeitiaoError(
                say(
                    f"--tuning qlora needs a GPU and the package bitsandbytes. Choose another here: {able}",
                    f"--tuning qlora 需要 GPU 和 bitsandbytes 包。此处可选：{able}",
                )
            )

    def apply(self, model: "TextModel") -> None:
        """Round the weights to what 4 bits hold, whether they are held so or not, and add the adapters."""
        from torch import nn

        from weitiao.models.four_bits import rounded

        for name in linear_layers(model):
            layer = model.backbone.get_submodule(name)
            layer.weight = nn.Parameter(rounded(layer.weight))  # not in place: other models may stand on it
        super().apply(model)

    def pack(self, model: "TextModel") -> None:
        from torch import nn

        from weitiao.models.four_bits import FourBits, swap

        adapters = {id(m) for n, m in model.backbone.named_modules() if "lora_" in n}
        kept = {id(getattr(model.backbone, "lm_head", None)), *adapters}
        swap(model.backbone, nn.Linear, lambda layer: layer if id(layer) in kept else FourBits(layer))

    def unpack(self, model: "TextModel") -> None:
        from weitiao.models.four_bits import FourBits, swap
        from weitiao.models.kernels import Linear

        swap(model.backbone, FourBits, lambda layer: layer.plain(Linear))
