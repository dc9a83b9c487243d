"""Learned tokens before each text; the model stays as it is / 在文本前加入可学习的虚拟 token，主干不变（prompt tuning）.

Source: Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning". They enter at the embeddings and
begin as words drawn at random.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.tuning._virtual import Virtual

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel


@dataclass
class PromptTuning(Virtual):
    """Prompt tuning."""

    learning_rate = 1e-2

    def apply(self, model: "TextModel") -> None:
        from weitiao.models.virtual_tokens import Prompt, VirtualTokens, random_words

        encoder = self.frozen_encoder(model)
        prompt = Prompt(random_words(encoder, self.virtual_tokens))
        model.backbone = VirtualTokens(encoder, self.virtual_tokens, prompt)
