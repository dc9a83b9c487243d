"""The BERT family's encoder over packed batches: BERT, RoBERTa, XLM-R, and what shares their layout.

Parameters carry the names that ``transformers.BertModel`` gives them, so a folder saved here opens there and the other
way round. The mathematics is that of Devlin et al. 2019 (post-norm layers, GELU in its erf form).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weitiao.models.kernels import Dropout, attention, dropout_add
from weitiao.models.packed import Packed

# Architectures that share these parameter names and this mathematics.
MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert")


@dataclass(frozen=True)
class Shape:
    """An encoder's dimensions, as in its ``config.json``."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    first_position: int = 0

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Shape":
        """Read the dimensions from a Hugging Face ``config.json``."""
        known = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        # RoBERTa and its kin count positions from the padding id + 1.
        if config.get("model_type") != "bert":
            known["first_position"] = config.get("pad_token_id", 1) + 1
        return cls(**known)

    @property
    def max_length(self) -> int:
        """The longest text, in tokens, that has positions."""
        return self.max_position_embeddings - self.first_position


class Embeddings(nn.Module):
    """Word + position + type, then LayerNorm and dropout."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.word_embeddings = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.position_embeddings = nn.Embedding(shape.max_position_embeddings, shape.hidden_size)
        self.token_type_embeddings = nn.Embedding(shape.type_vocab_size, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, packed: Packed, dropout: Dropout | None) -> Tensor:
        x_TD = self.word_embeddings(packed.ids_T) + self.position_embeddings(packed.positions_T)
        x_TD = self.LayerNorm(x_TD + self.token_type_embeddings.weight[0])
        p = self.shape.hidden_dropout_prob
        return x_TD if dropout is None or p == 0 else x_TD * dropout.mask(x_TD, p)


class Attention(nn.Module):
    """Self-attention with its output projection, residual and LayerNorm, under BERT's nested names."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        size = shape.hidden_size
        self.self = nn.ModuleDict({name: nn.Linear(size, size) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict(
            {"dense": nn.Linear(size, size), "LayerNorm": nn.LayerNorm(size, eps=shape.layer_norm_eps)}
        )

    def forward(self, x_TD: Tensor, packed: Packed, dropout: Dropout | None) -> Tensor:
        q, k, v = (self.self[name](x_TD) for name in ("query", "key", "value"))
        heads, p = self.shape.num_attention_heads, self.shape.attention_probs_dropout_prob
        context_TD = attention(q, k, v, packed, heads, dropout, p)
        y_TD = self.output["dense"](context_TD)
        return _norm(self.output["LayerNorm"], dropout_add(y_TD, x_TD, dropout, self.shape.hidden_dropout_prob))


class Layer(nn.Module):
    """Attention, then the feed-forward network."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.attention = Attention(shape)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(shape.hidden_size, shape.intermediate_size)})
        self.output = nn.ModuleDict(
            {
                "dense": nn.Linear(shape.intermediate_size, shape.hidden_size),
                "LayerNorm": nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps),
            }
        )

    def forward(self, x_TD: Tensor, packed: Packed, dropout: Dropout | None) -> Tensor:
        x_TD = self.attention(x_TD, packed, dropout)
        y_TD = self.output["dense"](F.gelu(self.intermediate["dense"](x_TD)))
        return _norm(self.output["LayerNorm"], dropout_add(y_TD, x_TD, dropout, self.shape.hidden_dropout_prob))


def _norm(module: nn.Module, x_TD: Tensor) -> Tensor:
    """LayerNorm with fp32 statistics and weights, in the activations' dtype."""
    with torch.autocast(x_TD.device.type, enabled=False):
        return module(x_TD)


class Encoder(nn.Module):
    """Packed token ids to hidden states: ``forward(packed) -> [T, D]``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = Embeddings(shape)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))})

    def forward(self, packed: Packed, dropout: Dropout | None = None) -> Tensor:
        x_TD = self.embeddings(packed, dropout)
        if torch.is_autocast_enabled(x_TD.device.type):
            x_TD = x_TD.to(torch.get_autocast_dtype(x_TD.device.type))
        for layer in self.encoder["layer"]:
            x_TD = layer(x_TD, packed, dropout)
        return x_TD
