"""A causal language model of the Llama family over packed batches, and token by token with a key-value cache.

Parameters carry the names that ``transformers.LlamaForCausalLM`` gives them, so a folder saved here opens there and the
other way round (Touvron et al. 2023; grouped keys and values as in Ainslie et al. 2023; Qwen2 has biases beside).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import write_json
from weitiao.models import fused, fused_decoder
from weitiao.models.backbone import read_config, read_tensors
from weitiao.models.causal import RmsNorm, attention, rotate
from weitiao.models.kernels import Dropout, Linear
from weitiao.models.llama import MODEL_TYPES, cache_shape, difference, rope_theta
from weitiao.models.packed import Packed
from weitiao.models.saving import save_tensors


@dataclass(frozen=True)
class Shape:
    """A decoder's dimensions, as in its ``config.json``."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    key_value_heads: int
    head_size: int
    max_length: int
    eps: float
    theta: float
    tied: bool
    biases: bool
    std: float
    first_position: int = 0

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Shape":
        """Read the dimensions from a Hugging Face ``config.json``."""
        cache = cache_shape(config)
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=config["num_attention_heads"],
            key_value_heads=cache["heads"],
            head_size=cache["head_size"],
            max_length=config.get("max_position_embeddings", 2048),
            eps=config.get("rms_norm_eps", 1e-6),
            theta=rope_theta(config),
            tied=bool(config.get("tie_word_embeddings", False)),
            biases=config.get("model_type") == "qwen2",
            std=config.get("initializer_range", 0.02),
        )


class Cache:
    """Keys and values of the tokens read so far, for B texts that each begin at place 0 and have lengths of their own.

    Attributes:
        keys, values: one ``[B, K, C, d]`` a layer.
        lengths_B: int64, the tokens of each text.
    """

    def __init__(self, shape: Shape, batch: int, capacity: int, like: Tensor) -> None:
        size = (batch, shape.key_value_heads, capacity, shape.head_size)
        self.keys = [like.new_zeros(size) for _ in range(shape.num_hidden_layers)]
        self.values = [like.new_zeros(size) for _ in range(shape.num_hidden_layers)]
        self.lengths_B = torch.zeros(batch, dtype=torch.int64, device=like.device)
        self.capacity, self.longest, self.even = capacity, 0, True  # even: all texts are equally long

    def select(self, rows_B: Tensor) -> None:
        """Keep these texts, in this order; a text may be named twice (beam search)."""
        self.keys = [keys[rows_B] for keys in self.keys]
        self.values = [values[rows_B] for values in self.values]
        self.lengths_B = self.lengths_B[rows_B]

    def write(
        self, layer: int, k_BLKd: Tensor, v_BLKd: Tensor, positions_BL: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put new keys and values in their places; returns those of the layer as far as any text reaches."""
        end = self.longest + k_BLKd.shape[1]
        for kept, new in ((self.keys[layer], k_BLKd), (self.values[layer], v_BLKd)):
            if self.even:
                kept[:, :, self.longest : end] = new.transpose(1, 2)
            else:
                texts_B1 = torch.arange(len(new), device=new.device).unsqueeze(1)
                kept.transpose(1, 2)[texts_B1, positions_BL] = new
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, length: int, counts_B: Tensor | None) -> None:
        """Count the tokens of a step: ``length`` a text, or ``counts_B`` of them."""
        self.lengths_B = self.lengths_B + (length if counts_B is None else counts_B)
        self.even = self.even and (counts_B is None or bool((counts_B == counts_B[0]).all()))
        self.longest = int(self.lengths_B.max())


class _Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        size, d = shape.hidden_size, shape.head_size
        self.q_proj = Linear(size, shape.num_attention_heads * d, bias=shape.biases)
        self.k_proj = Linear(size, shape.key_value_heads * d, bias=shape.biases)
        self.v_proj = Linear(size, shape.key_value_heads * d, bias=shape.biases)
        self.o_proj = Linear(shape.num_attention_heads * d, size, bias=False)

    def forward(
        self, x_TD: Tensor, packed: Packed, turns: tuple[Tensor, Tensor], rows_R: Tensor | None
    ) -> Tensor:
        shape = self.shape
        if fused_decoder.usable(x_TD, turns[0], shape.head_size):
            layers = (self.q_proj, self.k_proj, self.v_proj)
            heads = shape.num_attention_heads, shape.key_value_heads
            out_TD = fused_decoder.attention(fused.joined(layers, x_TD), turns, packed, *heads)
            return self.o_proj(out_TD if rows_R is None else out_TD[rows_R])
        q, k, v = self._projected(x_TD, turns)
        if (times := self.shape.num_attention_heads // self.shape.key_value_heads) > 1:
            k, v = (x.repeat_interleave(times, 1) for x in (k, v))
        out_TD = attention(q.flatten(1), k.flatten(1), v.flatten(1), packed, self.shape.num_attention_heads)
        return self.o_proj(out_TD if rows_R is None else out_TD[rows_R])

    def step(
        self, x_BLD: Tensor, turns: tuple[Tensor, Tensor], cache: Cache, layer: int, positions_BL: Tensor
    ) -> Tensor:
        """As ``forward`` for the next L tokens of each text, over what the cache holds."""
        q_BLHd, k_BLKd, v_BLKd = self._projected(x_BLD, turns)
        keys, values = cache.write(layer, k_BLKd, v_BLKd, positions_BL)
        (batch, length, heads, d), groups = q_BLHd.shape, self.shape.key_value_heads
        # The heads that share keys stand as further queries of those keys.
        q = q_BLHd.view(batch, length, groups, heads // groups, d).permute(0, 2, 3, 1, 4).flatten(2, 3)
        mask = None
        if length > 1 or not cache.even:
            places_C = torch.arange(keys.shape[2], device=q.device)
            mask = (places_C <= positions_BL.unsqueeze(-1)).repeat(1, heads // groups, 1).unsqueeze(1)
        out = F.scaled_dot_product_attention(q, keys, values, mask)
        out = out.view(batch, groups, heads // groups, length, d).permute(0, 3, 1, 2, 4)
        return self.o_proj(out.reshape(batch, length, heads * d))

    def _projected(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both turned by their positions) and values, ``[..., heads, d]``."""
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (layer(x).unflatten(-1, (-1, self.shape.head_size)) for layer in layers)
        return rotate(q, *turns), rotate(k, *turns), v


class _FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.size = shape.intermediate_size
        self.gate_proj = Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        if fused_decoder.usable(x_TD, None, self.size):
            return self.down_proj(fused_decoder.swiglu(fused.joined((self.gate_proj, self.up_proj), x_TD)))
        return self.down_proj(F.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))


class _Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn, self.mlp = _Attention(shape), _FeedForward(shape)
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.eps)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.eps)

    def forward(
        self, x_TD: Tensor, packed: Packed, turns: tuple[Tensor, Tensor], rows_R: Tensor | None = None
    ) -> Tensor:
        y_TD = self.self_attn(self.input_layernorm(x_TD), packed, turns, rows_R)
        return self._fed(x_TD if rows_R is None else x_TD[rows_R], y_TD)

    def step(self, x_BLD: Tensor, turns: tuple[Tensor, Tensor], *place: Any) -> Tensor:
        return self._fed(x_BLD, self.self_attn.step(self.input_layernorm(x_BLD), turns, *place))

    def _fed(self, x: Tensor, y: Tensor) -> Tensor:
        x, normed = self.post_attention_layernorm.after(x, y)
        return x + self.mlp(normed)


class _Body(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RmsNorm(shape.hidden_size, shape.eps)

    def get_input_embeddings(self) -> nn.Embedding:
        """The layer that turns token ids into embeddings."""
        return self.embed_tokens


class Decoder(nn.Module):
    """A causal language model. ``config`` is a Hugging Face ``config.json``; new weights are drawn at random.

    With ``checkpointing``, training keeps only what goes into each layer (see ``encoder.Encoder``).

    Raises:
        WeitiaoError: the architecture is not plain Llama or Qwen2.
    """

    checkpointing: bool = False
    gives_rows = True  # takes ``rows_R``

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        _check(config)
        self.config, self.shape = config, Shape.from_config(config)
        self.model = _Body(self.shape)
        if not self.shape.tied:
            self.lm_head = nn.Linear(self.shape.hidden_size, self.shape.vocab_size, bias=False)
        self._begin()
        self._turns: tuple[Tensor, Tensor] | None = None

    def forward(
        self,
        packed: Packed,
        dropout: Dropout | None = None,
        *,
        inputs_TD: Tensor | None = None,
        rows_R: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the last norm, ``[T, D]``. Each text is read for itself, from position 0.

        Args:
            dropout: taken for the sake of other backbones: a Llama has none.
            inputs_TD: embeddings to read in place of those of ``packed.ids_T``, which then give lengths only.
            rows_R: only these tokens' states are wanted, ``[R, D]``.
        """
        x_TD = self.embed(packed.ids_T) if inputs_TD is None else inputs_TD
        device = x_TD.device.type
        if torch.is_autocast_enabled(device):
            x_TD = x_TD.to(torch.get_autocast_dtype(device))
        turns = self._angles(packed.positions_T)
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for layer in self.model.layers:
            wanted = rows_R if layer is self.model.layers[-1] else None
            if again:
                x_TD = checkpoint(layer, x_TD, packed, turns, wanted, use_reentrant=False)
            else:
                x_TD = layer(x_TD, packed, turns, wanted)
        return self.model.norm(x_TD)

    def embed(self, ids: Tensor) -> Tensor:
        """The embeddings of token ids, ``[..., D]``."""
        return self.model.embed_tokens(ids)

    @property
    def output_VD(self) -> Tensor:
        """The weights of the output layer, which may be the embeddings."""
        return self.model.embed_tokens.weight if self.shape.tied else self.lm_head.weight

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Scores of the next token, ``[N, V]``."""
        return F.linear(hidden_ND, self.output_VD)

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for ``batch`` texts of at most ``capacity`` tokens."""
        return Cache(self.shape, batch, capacity, self.model.embed_tokens.weight.detach())

    @torch.no_grad()
    def step(self, ids_BL: Tensor, cache: Cache, counts_B: Tensor | None = None) -> Tensor:
        """``read`` without gradients, as writing needs it."""
        return self.read(ids_BL, cache, counts_B)

    def read(
        self,
        ids_BL: Tensor | None,
        cache: Cache,
        counts_B: Tensor | None = None,
        *,
        inputs_BLD: Tensor | None = None,
    ) -> Tensor:
        """Read the next L tokens of each text: hidden states after the last norm, ``[B, L, D]``.

        Args:
            cache: what was read before; the new tokens are added to it.
            counts_B: how many of a text's L tokens are real, the first ones, at least 1 (default: all). The states of
                the others mean nothing.
            inputs_BLD: embeddings to read in place of ``ids_BL``.

        Raises:
            ValueError: the cache has no room for them.
        """
        x_BLD = self.embed(ids_BL) if inputs_BLD is None else inputs_BLD
        length = x_BLD.shape[1]
        if cache.longest + length > cache.capacity:
            raise ValueError(f"{cache.longest} + {length} tokens do not fit a cache of {cache.capacity}")
        positions_BL = cache.lengths_B.unsqueeze(1) + torch.arange(length, device=x_BLD.device)
        turns = self._angles(positions_BL)
        for number, layer in enumerate(self.model.layers):
            x_BLD = layer.step(x_BLD, turns, cache, number, positions_BL)
        cache.advance(length, counts_B)
        return self.model.norm(x_BLD)

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of these positions' angles, ``[..., 1, d / 2]``, in the parameters' type."""
        norm = self.model.norm.weight
        if self._turns is None or self._turns[0].device != norm.device or self._turns[0].dtype != norm.dtype:
            d = self.shape.head_size
            rates = self.shape.theta ** -(torch.arange(0, d, 2, dtype=torch.float64) / d)
            angles = torch.arange(self.shape.max_length, dtype=torch.float64).unsqueeze(1) * rates
            self._turns = (angles.cos().to(norm), angles.sin().to(norm))
        cos, sin = self._turns
        return cos[positions].unsqueeze(-2), sin[positions].unsqueeze(-2)

    def _begin(self) -> None:
        """Normal weights; what is added to the residual stream smaller, by how often (Radford et al. 2019)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                added = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = self.shape.std / (2 * self.shape.num_hidden_layers) ** 0.5 if added else self.shape.std
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``: ``AutoModelForCausalLM`` opens the folder as it is."""
        name = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[self.config["model_type"]]
        dtype = str(self.model.norm.weight.dtype).removeprefix("torch.")
        write_json(folder / "config.json", self.config | {"architectures": [name], "dtype": dtype})
        tensors = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        save_tensors(tensors, folder / "model.safetensors")


def _check(config: dict[str, Any]) -> None:
    reason = difference(config)
    if not reason and (
        config.get("mlp_bias") or (config.get("attention_bias") and config["model_type"] == "llama")
    ):
        reason = "biases"
    if reason:
        known = ", ".join(MODEL_TYPES)
        raise WeitiaoError(
            say(
                f"This decoder cannot be computed here: {reason}. Known are {known} with plain rotary positions",
                f"此处无法计算该解码器：{reason}。支持的类型：{known}（普通旋转位置编码）",
            )
        )


def open_decoder(folder: Path) -> Decoder:
    """The decoder in a folder (checked before by ``known.check_folder``), in fp32.

    Raises:
        WeitiaoError: another architecture, or a tensor is missing or of another size.
    """
    config = read_config(folder)
    with torch.device("meta"):  # nothing is drawn at random that is overwritten at once
        decoder = Decoder(config)
    tensors, wanted = read_tensors(folder), decoder.state_dict()
    if not decoder.shape.tied and "lm_head.weight" not in tensors:
        tensors["lm_head.weight"] = tensors.get("model.embed_tokens.weight", torch.empty(0))
    wrong = [name for name in wanted if name not in tensors or tensors[name].shape != wanted[name].shape]
    if wrong:
        raise WeitiaoError(
            say(
                f"{folder}: the decoder lacks {wrong[0]}, or its size is wrong",
                f"{folder}：解码器缺少 {wrong[0]} 或其尺寸不符",
            )
        )
    decoder.load_state_dict({name: tensors[name].float() for name in wanted}, assign=True)
    return decoder.requires_grad_(True)
