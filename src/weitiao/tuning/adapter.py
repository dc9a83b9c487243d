"""Small bottleneck networks after attention and feed-forward / 在注意力与前馈网络之后加入小型瓶颈网络（Adapter）.

Sources: Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP" (after both); Pfeiffer et al. 2021,
"AdapterFusion" (after the feed-forward network only). Each sits on the block's last dense layer, before the residual is
added. They are not linear, so they can't be merged into weights.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.tuning._layers import ATTENTION_OUTPUTS, FEED_FORWARD_OUTPUTS, linear_layers
from weitiao.tuning._own import OwnAdapter
from weitiao.tuning.base import freeze

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel


@dataclass
class Adapter(OwnAdapter):
    """Bottleneck adapters."""

    adapter_kind: str = option(
        "houlsby",
        "after attention and feed-forward (houlsby), or after feed-forward only (pfeiffer)",
        "加在注意力与前馈之后（houlsby），或仅前馈之后（pfeiffer）",
        choices=("houlsby", "pfeiffer"),
    )
    adapter_size: int = option(32, "width of the bottleneck", "瓶颈的宽度", least=1)
    adapter_activation: str = option(
        "gelu",
        "activation within the bottleneck",
        "瓶颈内的激活函数",
        choices=("gelu", "relu", "silu", "tanh"),
    )

    learning_rate = 3e-3

    def apply(self, model: "TextModel") -> None:
        from weitiao.models.bottleneck import Bottleneck

        freeze(model)
        names = linear_layers(model, FEED_FORWARD_OUTPUTS)
        if self.adapter_kind == "houlsby":
            names += linear_layers(model, ATTENTION_OUTPUTS)
        for name in names:
            parent, _, last = name.rpartition(".")
            layer = model.backbone.get_submodule(name)
            wrapped = Bottleneck(layer, self.adapter_size, self.adapter_activation)
            setattr(model.backbone.get_submodule(parent), last, wrapped)
