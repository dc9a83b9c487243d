"""A backbone with a head on it: opened from a folder of any encoder, one call from packed ids to outputs."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.models.encoder import MODEL_TYPES, Encoder, Shape
from weitiao.models.heads import Head, LanguageHead
from weitiao.models.kernels import Dropout
from weitiao.models.packed import Packed
from weitiao.models.sparse_tensors import unpack
from weitiao.models.vision import is_vision, open_vision
from weitiao.models.words import moved


class TextModel(nn.Module):
    """``backbone`` then ``head``. ``config`` is the backbone's own ``config.json``."""

    def __init__(self, backbone: nn.Module, head: Head, config: dict[str, Any]) -> None:
        super().__init__()
        self.backbone, self.head, self.config = backbone, head, config
        if isinstance(head, LanguageHead):
            head.below = (backbone,)

    def hidden(self, packed: Packed, marks_T: Tensor | None, dropout: Dropout | None, **start: Any) -> Tensor:
        """Hidden states of the tokens that the head reads, ``[R, D]``, in fp32 unless the head takes them as they are;
        ``start`` as in ``Encoder.forward``."""
        rows_R = self.head.rows(packed, marks_T)
        with self._known(packed):
            if getattr(self.backbone, "gives_rows", False):
                hidden = self.backbone(packed, dropout, rows_R=rows_R, **start)
            else:
                hidden = self.backbone(packed, dropout, **start)
                hidden = hidden if rows_R is None else hidden[rows_R]
        return hidden if self.head.keeps_type else hidden.float()

    def _known(self, packed: Packed) -> AbstractContextManager[None]:
        """Within it, what the user's tables know of words is added to their embeddings."""
        known = self.head.known
        if known is None or packed.known_P2 is None:
            return nullcontext()
        places_P, kinds_P = packed.known_P2.unbind(1)
        silence_TD = known.weight.new_zeros(len(packed.ids_T), known.embedding_dim)
        return moved(self.backbone, packed, silence_TD.index_add(0, places_P, known(kinds_P)))

    def forward(
        self, packed: Packed, marks_T: Tensor | None = None, dropout: Dropout | None = None, **start: Any
    ) -> Tensor:
        return self.outputs(self.hidden(packed, marks_T, dropout, **start), packed, dropout)

    def outputs(self, hidden_RD: Tensor, packed: Packed, dropout: Dropout | None) -> Tensor:
        """The head's outputs, computed in fp32, from what ``hidden`` gave."""
        with torch.autocast(hidden_RD.device.type, enabled=False):
            return self.head(hidden_RD, packed, dropout)

    @property
    def first_position(self) -> int:
        """The position id of a text's first token."""
        return self.backbone.shape.first_position


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's ``config.json``."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def open_backbone(
    folder: Path, dropout: float | None = None, causal: bool = False
) -> tuple[nn.Module, dict[str, Any], dict[str, Tensor]]:
    """The encoder in a folder (checked before by ``known.check_folder``).

    Args:
        dropout: replaces the model's own probabilities, if given.
        causal: it is a decoder, which is to write.

    Returns:
        the encoder in fp32, its config, and the tensors the encoder itself does not take (a pooler, a head).
    """
    config = read_config(folder)
    if causal:
        from weitiao.models.decoder import open_decoder

        return open_decoder(folder), config, {}
    if dropout is not None:
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout",
                    "embedding_dropout", "mlp_dropout"):  # fmt: skip
            if key in config:
                config[key] = dropout
    if is_vision(config):
        return open_vision(folder, config), config, {}
    if not _is_ours(config):
        from weitiao.models.hub_encoder import HubEncoder

        return HubEncoder.from_folder(folder, config), config, {}
    encoder = Encoder(Shape.from_config(config))
    tensors = read_tensors(folder)
    prefix = next(
        (p for p in ("", "bert.", "roberta.") if f"{p}embeddings.word_embeddings.weight" in tensors), None
    )
    if prefix is None:
        raise WeitiaoError(say(f"{folder} holds no encoder weights", f"{folder} 中没有编码器权重"))
    wanted = encoder.state_dict()
    missing = [name for name in wanted if prefix + name not in tensors]
    if missing:
        raise WeitiaoError(say(f"{folder} lacks the tensor {missing[0]}", f"{folder} 缺少张量 {missing[0]}"))
    encoder.load_state_dict({name: tensors.pop(prefix + name).float() for name in wanted})
    rest = {
        name.removeprefix(prefix): tensor.float()
        for name, tensor in tensors.items()
        if "position_ids" not in name
    }
    return encoder, config, rest


def _is_ours(config: dict[str, Any]) -> bool:
    """Whether the packed encoder computes exactly what the folder's architecture does."""
    return (
        config.get("model_type") in MODEL_TYPES
        and config.get("hidden_act", "gelu") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder", False)
    )


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return unpack(tensors)
