"""What the methods with virtual tokens before each text share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.tuning._own import OwnAdapter
from weitiao.tuning.base import freeze

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel
    from weitiao.models.encoder import Encoder


@dataclass
class Virtual(OwnAdapter):
    """Virtual tokens; nothing of the model itself changes, so they can't be merged."""

    virtual_tokens: int = option(
        16, "learned tokens before each text", "每段文本前可学习的虚拟 token 数", least=1, most=512
    )

    num_epochs = 10

    def frozen_encoder(self, model: "TextModel") -> "Encoder":
        """The frozen encoder, to be wrapped.

        Raises:
            WeitiaoError: it is none of the packed ones, or has no room for so many tokens.
        """
        from weitiao.models.encoder import Encoder

        freeze(model)
        encoder = model.backbone
        name = type(self).__module__.rsplit(".", 1)[-1]
        if not isinstance(encoder, Encoder):
            kind = model.config.get("model_type", "?")
            raise WeitiaoError(
                say(
                    f"--tuning {name} needs BERT, RoBERTa, XLM-R or CamemBERT, not {kind}: use --tuning lora",
                    f"--tuning {name} 仅支持 BERT、RoBERTa、XLM-R 与 CamemBERT，不支持 {kind}：请用 --tuning lora",
                )
            )
        longest = encoder.shape.max_length
        if self.virtual_tokens > longest - 8:
            raise WeitiaoError(
                say(
                    f"virtual_tokens is {self.virtual_tokens}; the model reads {longest} tokens, of which a text "
                    "needs at least 8",
                    f"virtual_tokens 为 {self.virtual_tokens}，而模型最多读 {longest} 个 token，其中至少 8 个要留给文本",
                )
            )
        return encoder
