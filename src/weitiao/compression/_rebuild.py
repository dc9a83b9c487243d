"""An encoder of other dimensions from the tensors of one that is there."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from weitiao.models.backbone import TextModel
from weitiao.models.encoder import Encoder, Shape


def rebuild(model: TextModel, tensors: Mapping[str, Tensor], **dimensions: Any) -> None:
    """Put an encoder of these tensors into ``model``, trainable, and its dimensions into ``model.config``.

    Args:
        tensors: every parameter of the new encoder, by name.
        dimensions: the entries of ``config.json`` that change.
    """
    config = {**model.config, **dimensions}
    encoder = Encoder(Shape.from_config(config))
    encoder.load_state_dict(dict(tensors))
    encoder.checkpointing = model.backbone.checkpointing
    model.backbone, model.config = encoder.train(model.training), config


def layer_names(number: int) -> str:
    """What the names of a layer's parameters begin with."""
    return f"encoder.layer.{number}."
