"""A decoder that writes: its weights laid out for one token after the other, and what it has read.

What makes it faster than calling the layers: products with one input are one product, norms' weights lie in the
products after them, the halves that positions turn stand side by side so that turning is one complex product, the
cache is there beforehand, no mask is made where none is needed, and a text alone is written with NumPy, whose products
of a matrix and a vector were measured at twice the speed of torch's on two cores.

Shapes: B texts, L new tokens of each, C places of the cache, D hidden size, V pieces of the vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weitiao.models.decoder import Decoder

STRETCH = 512  # tokens of a prompt read at once; attention's memory grows with the square


@dataclass(frozen=True)
class _Layer:
    """Weights ``[out, in]``, with the norms' before ``qkv`` and ``wide`` in them."""

    qkv: Tensor
    out: Tensor
    wide: Tensor
    narrow: Tensor
    bias: Tensor | None  # of qkv

    def arrays(self) -> tuple[Any, ...]:
        """The same memory for NumPy."""
        return tuple(None if one is None else one.numpy() for one in vars(self).values())


class Decoding:
    """Gives scores as ``generation.writing.Scores``: a copy of a decoder's weights as they are now, adapters included.

    Args:
        decoder: on any device; what is adapted in it must be linear in its input (LoRA and its kin).
    """

    def __init__(self, decoder: Decoder) -> None:
        self.shape, self.norm_D = decoder.shape, decoder.model.norm.weight.detach()
        self.table_VD, self.output_VD = decoder.model.embed_tokens.weight.detach(), decoder.output_VD.detach()
        with torch.no_grad():
            self.layers = [self._laid_out(layer) for layer in decoder.model.layers]
        d = self.shape.head_size
        rates = self.shape.theta ** -(torch.arange(0, d, 2, dtype=torch.float64) / d)
        angles = torch.arange(self.shape.max_length, dtype=torch.float64).unsqueeze(1) * rates
        self.turns = torch.polar(torch.ones_like(angles), angles).to(self.norm_D.device, torch.complex64)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.lengths_B = torch.zeros(0, dtype=torch.int64)
        self.even = True  # all texts are equally long
        here = self.norm_D.device.type == "cpu" and self.norm_D.dtype == torch.float32
        self.alone = [layer.arrays() for layer in self.layers] if here else None

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.shape.vocab_size

    @torch.inference_mode()
    def read(self, prompts: Sequence[Sequence[int]], room: int) -> np.ndarray:
        """Begin with these texts. The scores of what follows each, float32 ``[B, V]``."""
        lengths = [len(prompt) for prompt in prompts]
        longest, device = max(lengths), self.norm_D.device
        size = (len(prompts), self.shape.key_value_heads, longest + room, self.shape.head_size)
        # Zeros, because what a mask hides must still be a number.
        self.keys = [torch.zeros(size, device=device) for _ in self.layers]
        self.values = [torch.zeros(size, device=device) for _ in self.layers]
        self.lengths_B = torch.zeros(len(prompts), dtype=torch.int64, device=device)
        self.even = True
        ids_BL = torch.zeros(len(prompts), longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids_BL[row, : len(prompt)] = torch.tensor(prompt)
        ids_BL, hidden = ids_BL.to(device), []
        for start in range(0, longest, STRETCH):
            hidden.append(self._run(ids_BL[:, start : start + STRETCH]))
        self.lengths_B = torch.tensor(lengths, device=device)
        self.even = len(set(lengths)) == 1
        last_BD = torch.cat(hidden, 1)[torch.arange(len(prompts)), self.lengths_B - 1]
        return self._scores(last_BD)

    @torch.inference_mode()
    def step(self, tokens_B: np.ndarray) -> np.ndarray:
        """Add one token to each text. The scores of what follows, float32 ``[B, V]``."""
        if len(tokens_B) == 1 and self.alone is not None:
            return self._step_alone(int(tokens_B[0]))
        ids_B1 = torch.as_tensor(tokens_B, device=self.norm_D.device).unsqueeze(1)
        return self._scores(self._run(ids_B1)[:, 0])

    @torch.inference_mode()
    def select(self, rows_R: np.ndarray) -> None:
        """Go on with these texts, in this order."""
        rows = torch.as_tensor(rows_R, device=self.norm_D.device)
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]
        self.lengths_B = self.lengths_B[rows]
        self.even = bool((self.lengths_B == self.lengths_B[0]).all())

    def _step_alone(self, token: int) -> np.ndarray:
        """``step`` of one text in NumPy, whose products of a matrix and a vector use all cores; torch's do not."""
        assert self.alone is not None
        shape, place = self.shape, int(self.lengths_B[0])
        heads, groups, d = shape.num_attention_heads, shape.key_value_heads, shape.head_size
        turn, turned = self.turns.numpy()[place], (heads + groups) * d
        x_D = self.table_VD.numpy()[token]
        for (qkv, out, wide, narrow, bias), keys, values in zip(
            self.alone, self.keys, self.values, strict=True
        ):
            e = qkv @ _scaled(x_D, shape.eps)
            if bias is not None:
                e += bias
            pairs = e[:turned].view(np.complex64).reshape(-1, d // 2) * turn
            qk = pairs.view(np.float32).reshape(-1, d)
            keys_KCd, values_KCd = keys.numpy()[0], values.numpy()[0]
            keys_KCd[:, place], values_KCd[:, place] = qk[heads:], e[turned:].reshape(groups, d)
            q_KGd = qk[:heads].reshape(groups, -1, d) * np.float32(d**-0.5)
            shares_KGC = q_KGd @ keys_KCd[:, : place + 1].transpose(0, 2, 1)
            shares_KGC = np.exp(shares_KGC - shares_KGC.max(-1, keepdims=True))
            context = (shares_KGC @ values_KCd[:, : place + 1]) / shares_KGC.sum(-1, keepdims=True)
            x_D = x_D + out @ context.reshape(-1)
            gate, up = np.split(wide @ _scaled(x_D, shape.eps), 2)
            with np.errstate(over="ignore"):  # exp of a large number is inf, and the gate rightly 0
                x_D = x_D + narrow @ (gate / (1 + np.exp(-gate)) * up)
        self.lengths_B = self.lengths_B + 1
        return (self.output_VD.numpy() @ (_scaled(x_D, shape.eps) * self.norm_D.numpy()))[None]

    def _scores(self, hidden_BD: Tensor) -> np.ndarray:
        hidden_BD = _normed(hidden_BD, self.shape.eps) * self.norm_D
        return F.linear(hidden_BD, self.output_VD).float().cpu().numpy()

    def _run(self, ids_BL: Tensor) -> Tensor:
        """The sums after the last layer, ``[B, L, D]``; the tokens are added to the cache."""
        x = F.embedding(ids_BL, self.table_VD)
        batch, length, size = x.shape
        first = int(self.lengths_B[0]) if self.even else -1
        if self.even:
            turns = self.turns[first : first + length].view(1, length, 1, -1)
            positions_BL = None
        else:
            positions_BL = self.lengths_B.unsqueeze(1) + torch.arange(length, device=x.device)
            turns = self.turns[positions_BL].unsqueeze(2)
        end = (first if self.even else int(self.lengths_B.max())) + length
        mask = self._mask(length, end, first, positions_BL)
        x = x.view(-1, size)
        for number, layer in enumerate(self.layers):
            qkv = F.linear(_normed(x, self.shape.eps), layer.qkv, layer.bias)
            context = self._attended(qkv.view(batch, length, -1), number, turns, end, positions_BL, mask)
            x = torch.addmm(x, context, layer.out.T)
            gate, up = F.linear(_normed(x, self.shape.eps), layer.wide).chunk(2, -1)
            x = torch.addmm(x, F.silu(gate).mul_(up), layer.narrow.T)
        self.lengths_B = self.lengths_B + length
        return x.view(batch, length, size)

    def _attended(
        self,
        qkv_BLE: Tensor,
        number: int,
        turns: Tensor,
        end: int,
        positions_BL: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Attention's outputs, all heads side by side, ``[B * L, H * d]``."""
        shape, (batch, length, _) = self.shape, qkv_BLE.shape
        heads, groups, d = shape.num_attention_heads, shape.key_value_heads, shape.head_size
        qk, v = qkv_BLE[..., : (heads + groups) * d], qkv_BLE[..., (heads + groups) * d :]
        pairs = torch.view_as_complex(qk.reshape(batch, length, heads + groups, d // 2, 2))
        turned = torch.view_as_real(pairs * turns).flatten(-2)
        q, k = turned[:, :, :heads], turned[:, :, heads:]
        for kept, new in ((self.keys[number], k), (self.values[number], v.view(batch, length, groups, d))):
            if positions_BL is None:
                kept[:, :, end - length : end] = new.transpose(1, 2)
            else:
                kept.transpose(1, 2)[torch.arange(batch, device=kept.device).unsqueeze(1), positions_BL] = new
        keys, values = self.keys[number][:, :, :end], self.values[number][:, :, :end]
        if length == 1:  # the heads that share keys stand as further queries of those keys
            q = q.view(batch, groups, heads // groups, d)
            out = F.scaled_dot_product_attention(q, keys, values, mask)
            return out.reshape(batch, heads * d)
        begins = length == end
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), keys, values, None if begins else mask, is_causal=begins, enable_gqa=True
        )
        return out.transpose(1, 2).reshape(batch * length, heads * d)

    def _mask(self, length: int, end: int, first: int, positions_BL: Tensor | None) -> Tensor | None:
        """Which places each new token sees; None where all."""
        places_C = torch.arange(end, device=self.norm_D.device)
        if positions_BL is not None:
            return (places_C <= positions_BL.unsqueeze(-1)).unsqueeze(1)
        if length == 1 or length == end:
            return None
        return places_C <= first + torch.arange(length, device=places_C.device).unsqueeze(-1)

    def _laid_out(self, layer: Any) -> _Layer:
        attention, d = layer.self_attn, self.shape.head_size
        before, between = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        order = torch.arange(d).view(2, d // 2).T.flatten()  # halves side by side: 0, d/2, 1, d/2 + 1, ...
        weights, biases = [], []
        for name in ("q_proj", "k_proj", "v_proj"):
            weight, bias = _linear(getattr(attention, name))
            if name != "v_proj":
                weight = weight.view(-1, d, weight.shape[1])[:, order].flatten(0, 1)
                bias = None if bias is None else bias.view(-1, d)[:, order].flatten()
            weights.append(weight)
            biases.append(bias)
        joined = None if biases[0] is None else torch.cat([bias for bias in biases if bias is not None])
        wide = torch.cat([_linear(layer.mlp.gate_proj)[0], _linear(layer.mlp.up_proj)[0]])
        out, narrow = (_linear(part)[0].contiguous() for part in (attention.o_proj, layer.mlp.down_proj))
        return _Layer(torch.cat(weights) * before, out, wide * between, narrow, joined)


def _normed(x_ND: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps)."""
    lengths_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
    return x_ND * lengths_N1.square_().div_(x_ND.shape[-1]).add_(eps).rsqrt_()


def _scaled(x_D: np.ndarray, eps: float) -> np.ndarray:
    """The same of one row in NumPy."""
    return x_D * np.float32(1 / math.sqrt(float(x_D @ x_D) / len(x_D) + eps))


def _linear(module: Any) -> tuple[Tensor, Tensor | None]:
    """The weight ``[out, in]`` and bias of a layer that is linear in its input, whatever adapts it."""
    if isinstance(module, nn.Linear) and not hasattr(module, "base_layer"):
        return module.weight.detach(), None if module.bias is None else module.bias.detach()
    base = module.get_base_layer()
    zero = module(base.weight.new_zeros(1, base.in_features))
    weight = module(torch.eye(base.in_features, device=base.weight.device)) - zero
    return weight.T, None if base.bias is None else zero[0]
