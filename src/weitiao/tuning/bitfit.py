"""Train only the biases and the head / 只训练偏置项与分类头（BitFit）.

Source: Ben Zaken et al. 2022, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models".
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.tuning._own import OwnAdapter
from weitiao.tuning.base import freeze

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel


@dataclass
class Bitfit(OwnAdapter):
    """Biases: those of linear layers and of LayerNorms."""

    learning_rate = 5e-3

    def apply(self, model: "TextModel") -> None:
        freeze(model)
        biases = [p for name, p in model.backbone.named_parameters() if name.endswith("bias")]
        if not biases:
            kind = model.config.get("model_type", "?")
            raise WeitiaoError(
                say(
                    f"A {kind} model has no biases to train: use --tuning lora or full",
                    f"{kind} 模型没有可训练的偏置项：请用 --tuning lora 或 full",
                )
            )
        for bias in biases:
            bias.requires_grad_(True)

    def merge(self, model: "TextModel") -> None:
        """Nothing to do: the biases are the backbone's own."""
