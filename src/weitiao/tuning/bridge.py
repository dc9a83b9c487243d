"""Pictures become embeddings that a frozen language model reads; the projector learns / 图文桥接：只训练投影层，语言模型冻结.

For the task image-to-text. See ``models.bridge``.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.tuning._own import OwnAdapter
from weitiao.tuning.base import freeze

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel


@dataclass
class BridgeTuning(OwnAdapter):
    """A projector from a vision encoder's features to a language model's embeddings."""

    bridge_tokens: int = option(2, "embeddings a picture becomes", "每张图片转成几个词向量", least=1, most=64)
    bridge_size: int = option(256, "hidden size of the projector", "投影层的隐藏维度", least=8)

    learning_rate = 2e-3
    num_epochs = 2

    def apply(self, model: "TextModel") -> None:
        from weitiao.models.bridge import Bridge
        from weitiao.models.decoder import Decoder

        features = getattr(model.head, "picture_features", 0)
        if not isinstance(model.backbone, Decoder) or not features:
            raise WeitiaoError(
                say(
                    "--tuning bridge is for --task image-to-text with a language model, such as SmolLM2-135M-Instruct",
                    "--tuning bridge 用于 --task image-to-text，且需语言模型，如 SmolLM2-135M-Instruct",
                )
            )
        freeze(model)
        model.backbone = Bridge(model.backbone, features, self.bridge_size, self.bridge_tokens)
