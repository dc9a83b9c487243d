"""The BERT family's encoder over packed batches: BERT, RoBERTa, XLM-R, and what shares their layout.

Parameters carry the names that ``transformers.BertModel`` gives them, so a folder saved here opens there and
the other way round. The mathematics is that of Devlin et al. 2019 (post-norm layers, GELU in its erf form).
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from weitiao.models import fused
from weitiao.models.kernels import Dropout, Linear, attention, dropout_add
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
    attention_head_size: int = 0  # 0: hidden size / heads; else what is left where heads were pruned

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

    @property
    def attention_size(self) -> int:
        """The size of queries, keys and values, all heads side by side."""
        return self.num_attention_heads * self.attention_head_size or self.hidden_size


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
        types = self.token_type_embeddings
        x_TD = x_TD + (types.weight[0] if packed.types_T is None else types(packed.types_T))
        x_TD = self.LayerNorm(x_TD)
        p = self.shape.hidden_dropout_prob
        return x_TD if dropout is None or p == 0 else x_TD * dropout.mask(x_TD, p)


class Attention(nn.Module):
    """Self-attention with its output projection, residual and LayerNorm, under BERT's nested names."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        size, inner = shape.hidden_size, shape.attention_size
        self.self = nn.ModuleDict({name: Linear(size, inner) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict(
            {"dense": Linear(inner, size), "LayerNorm": nn.LayerNorm(size, eps=shape.layer_norm_eps)}
        )

    def forward(self, x_TD: Tensor, packed: Packed, dropout: Dropout | None, rows_R: Tensor | None) -> Tensor:
        layers = [self.self[name] for name in ("query", "key", "value")]
        heads, p = self.shape.num_attention_heads, self.shape.attention_probs_dropout_prob
        if fused.usable(x_TD, heads) and self.shape.attention_size == x_TD.shape[1]:
            context_TD = fused.attention(fused.joined(layers, x_TD), packed, heads, dropout, p)
        else:
            q, k, v = (layer(x_TD) for layer in layers)
            context_TD = attention(q, k, v, packed, heads, dropout, p)
        if rows_R is not None:
            context_TD, x_TD = context_TD[rows_R], x_TD[rows_R]
        return _add_norm(self.output, context_TD, x_TD, dropout, self.shape)


class Layer(nn.Module):
    """Attention, then the feed-forward network; ``rows_R`` are the tokens to give out, if not all of them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.attention = Attention(shape)
        self.intermediate = nn.ModuleDict({"dense": Linear(shape.hidden_size, shape.intermediate_size)})
        self.output = nn.ModuleDict(
            {
                "dense": Linear(shape.intermediate_size, shape.hidden_size),
                "LayerNorm": nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps),
            }
        )

    def forward(
        self, x_TD: Tensor, packed: Packed, dropout: Dropout | None, rows_R: Tensor | None = None
    ) -> Tensor:
        x_TD = self.attention(x_TD, packed, dropout, rows_R)
        y_TD = F.gelu(self.intermediate["dense"](x_TD))
        return _add_norm(self.output, y_TD, x_TD, dropout, self.shape)


def _add_norm(
    output: nn.ModuleDict, x_TI: Tensor, residual_TD: Tensor, dropout: Dropout | None, shape: Shape
) -> Tensor:
    """LayerNorm(residual + dropout(dense(x))), with fp32 statistics and weights, in the activations' dtype."""
    x_TD, norm, p = output["dense"](x_TI), output["LayerNorm"], shape.hidden_dropout_prob
    if fused.usable(x_TD, 1):
        return fused.add_norm(norm, x_TD, residual_TD, dropout, p)
    x_TD = dropout_add(x_TD, residual_TD, dropout, p)
    with torch.autocast(x_TD.device.type, enabled=False):
        if x_TD.device.type == "cpu":
            return norm(x_TD)
        # Only the CPU's kernel takes activations and weights of different types.
        return norm(x_TD.to(norm.weight.dtype)).to(x_TD.dtype)


class Encoder(nn.Module):
    """Packed token ids to hidden states: ``forward(packed) -> [T, D]``.

    With ``checkpointing``, training keeps only what goes into each layer and computes the rest again in the
    backward pass: less memory, a third more time, the same gradients.
    """

    checkpointing: bool = False
    gives_rows = True  # takes ``rows_R``

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = Embeddings(shape)
        layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(
        self,
        packed: Packed,
        dropout: Dropout | None = None,
        *,
        rows_R: Tensor | None = None,
        first_layer: int = 0,
        hidden_TD: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the last layer, ``[T, D]``.

        Args:
            dropout: draws the masks; None when not training.
            rows_R: only these tokens' states are wanted, ``[R, D]``: the last layer then skips most of its work.
            first_layer: start at this layer instead of at the embeddings.
            hidden_TD: what to start with there, as ``lower(packed, first_layer)`` gave it.

        Raises:
            ValueError: a ``first_layer`` without ``hidden_TD``.
        """
        if hidden_TD is None:
            if first_layer:
                raise ValueError(f"first_layer={first_layer} needs the hidden states to start from")
            hidden_TD = self.embeddings(packed, dropout)
        x_TD = _activations(hidden_TD)
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        layers = self.encoder["layer"][first_layer:]
        for layer in layers:
            wanted = rows_R if layer is layers[-1] else None
            if again:
                x_TD = checkpoint(_Repeatable(layer, packed, dropout, wanted), x_TD, use_reentrant=False)
            else:
                x_TD = layer(x_TD, packed, dropout, wanted)
        return x_TD if len(layers) or rows_R is None else x_TD[rows_R]

    @torch.no_grad()
    def lower(self, packed: Packed, layers: int) -> Tensor:
        """Hidden states after the embeddings and the first ``layers`` layers, ``[T, D]``, without dropout."""
        x_TD = _activations(self.embeddings(packed, None))
        for layer in islice(self.encoder["layer"], layers):
            x_TD = layer(x_TD, packed, None)
        return x_TD


class _Repeatable:
    """A layer that draws the same dropout masks when it is run again."""

    def __init__(
        self, layer: nn.Module, packed: Packed, dropout: Dropout | None, rows_R: Tensor | None
    ) -> None:
        self.layer, self.packed, self.dropout, self.rows_R = layer, packed, dropout, rows_R
        self.state: Any = None

    def __call__(self, x_TD: Tensor) -> Tensor:
        if self.dropout is None:
            return self.layer(x_TD, self.packed, None, self.rows_R)
        if self.state is None:
            self.state = self.dropout.bits.state
            return self.layer(x_TD, self.packed, self.dropout, self.rows_R)
        with self.dropout.replay(self.state):
            return self.layer(x_TD, self.packed, self.dropout, self.rows_R)


def _activations(x_TD: Tensor) -> Tensor:
    """In the type that autocast computes in, where it is on."""
    device = x_TD.device.type
    return x_TD.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x_TD
