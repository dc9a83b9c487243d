"""Learned keys and values before each text, in every layer / 在每一层的文本之前加入可学习的键与值（prefix tuning）.

Sources: Li & Liang 2021, "Prefix-Tuning"; the keys and values are learned as they are, without a network that makes
them, as in Liu et al. 2022, "P-Tuning v2". They begin as those of a text of random words.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.tuning._virtual import Virtual

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel


@dataclass
class Prefix(Virtual):
    """Prefix tuning."""

    learning_rate = 1e-2

    def apply(self, model: "TextModel") -> None:
        from weitiao.models.virtual_tokens import VirtualTokens, add_prefixes

        encoder = self.frozen_encoder(model)
        model.backbone = VirtualTokens(encoder, self.virtual_tokens)
        add_prefixes(model.backbone)
