"""Train every parameter, or those of the top layers / 训练全部参数，或只训练最上面几层."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.tuning.base import Tuning, freeze

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel


@dataclass
class Full(Tuning):
    """Full fine-tuning."""

    top_layers: int = option(
        0,
        "train only this many layers from the top (0: all, with the embeddings)",
        "只训练最上面的若干层（0：全部，含词向量）",
        least=0,
    )

    learning_rate = 5e-5

    def apply(self, model: "TextModel") -> None:
        if not self.top_layers:
            for parameter in model.parameters():
                parameter.requires_grad_(True)
            return
        from weitiao.training.optimizer import depth

        freeze(model)
        layers = model.backbone.shape.num_hidden_layers
        for name, parameter in model.backbone.named_parameters():
            if depth("backbone." + name) > layers - self.top_layers:
                parameter.requires_grad_(True)
