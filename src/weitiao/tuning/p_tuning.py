"""Prompt tuning through a small LSTM or network / 通过小型 LSTM 或 MLP 生成虚拟 token 的提示微调（P-tuning）.

Source: Liu et al. 2021, "GPT Understands, Too". The network only serves training: saved are the tokens
it gives.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.tuning._virtual import Virtual

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.models.backbone import TextModel

NAME = "prompt.embeddings"


@dataclass
class PTuning(Virtual):
    """P-tuning."""

    prompt_encoder: str = option(
        "lstm", "what makes the tokens", "生成虚拟 token 的网络", choices=("lstm", "mlp")
    )
    prompt_encoder_size: int = option(128, "its width", "该网络的宽度", least=1)

    learning_rate = 5e-3

    def apply(self, model: "TextModel") -> None:
        from weitiao.models.virtual_tokens import EncodedPrompt, VirtualTokens, random_words

        encoder = self.frozen_encoder(model)
        words = random_words(encoder, self.virtual_tokens)
        prompt = EncodedPrompt(words, self.prompt_encoder, self.prompt_encoder_size)
        model.backbone = VirtualTokens(encoder, self.virtual_tokens, prompt)

    def tensors(self, model: "TextModel") -> "dict[str, Tensor]":
        """The tokens alone."""
        return {NAME: model.backbone.prompt().detach()}

    def put(self, model: "TextModel", tensors: "dict[str, Tensor]") -> None:
        """Take the tokens in place of the network."""
        from weitiao.models.virtual_tokens import Prompt

        model.backbone.prompt = Prompt(tensors[NAME])
