"""Autograd around the native kernels: whole pieces of a layer, used in bf16 on a CPU that has them.

Beside the passes over memory that they save, they keep less: a dropout mask is drawn again in the backward pass,
and the attention weights are computed again from their rows' sums.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from weitiao.models import native
from weitiao.models.kernels import Dropout, Linear
from weitiao.models.packed import Packed


def usable(x_TD: Tensor, heads: int) -> bool:
    """Whether the kernels take activations like these: bf16 on a CPU, heads of a multiple of 32 values."""
    return (
        x_TD.dtype == torch.bfloat16
        and x_TD.device.type == "cpu"
        and x_TD.shape[1] % (32 * heads) == 0
        and native.library() is not None
    )


class _JoinedLinear(torch.autograd.Function):
    """Several linear layers of one input as one product: their outputs side by side."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, count: int, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[:count], parameters[count:]
        weight = torch.cat(weights).to(x_TI.dtype)
        ctx.save_for_backward(x_TI, weight)
        ctx.rows = [len(weight) for weight in weights]
        return F.linear(x_TI, weight, torch.cat(biases).to(x_TI.dtype) if biases else None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, weight = ctx.saved_tensors
        wants, count = ctx.needs_input_grad, len(ctx.rows)
        wants_weights, wants_biases = wants[2 : 2 + count], wants[2 + count :]
        g_x = grad_TO @ weight if wants[0] else None
        g_weights: Sequence[Tensor | None] = [None] * count
        g_biases: Sequence[Tensor | None] = [None] * len(wants_biases)
        if any(wants_weights):
            g_weights = (grad_TO.t() @ x_TI).float().split(ctx.rows)
        if any(wants_biases):
            g_biases = native.column_sums(grad_TO).split(ctx.rows)
        return g_x, None, *g_weights, *g_biases


def joined(layers: Sequence[nn.Module], x_TI: Tensor) -> Tensor:
    """The outputs of linear layers side by side, ``[T, sum of O]``: one product where none is wrapped, as by LoRA.

    Either all have biases or none has.
    """
    if all(type(layer) is Linear for layer in layers):
        weights, biases = ([getattr(layer, name) for layer in layers] for name in ("weight", "bias"))
        return _JoinedLinear.apply(x_TI, len(layers), *weights, *(b for b in biases if b is not None))
    return torch.cat([layer(x_TI) for layer in layers], 1)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_T3D: Tensor, packed: Packed, heads: int, key: int, p: float) -> Tensor:
        out_TD, lse_TH = native.attention_forward(qkv_T3D, packed.starts_B, packed.lengths_B, heads, key, p)
        ctx.save_for_backward(qkv_T3D, out_TD, lse_TH)
        ctx.packed, ctx.settings = packed, (heads, key, p)
        return out_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        qkv_T3D, out_TD, lse_TH = ctx.saved_tensors
        starts_B, lengths_B, (heads, key, p) = ctx.packed.starts_B, ctx.packed.lengths_B, ctx.settings
        grad = native.attention_backward(
            qkv_T3D, starts_B, lengths_B, heads, key, p, out_TD, lse_TH, grad_TD.contiguous()
        )
        return grad, None, None, None, None


def attention(qkv_T3D: Tensor, packed: Packed, heads: int, dropout: Dropout | None, p: float) -> Tensor:
    """As ``kernels.attention``, for queries, keys and values side by side."""
    key, p = (0, 0.0) if dropout is None or p == 0 else (dropout.key(), p)
    return _Attention.apply(qkv_T3D, packed, heads, key, p)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        residual_TD: Tensor,
        weight_D: Tensor,
        bias_D: Tensor,
        eps: float,
        key: int,
        p: float,
    ) -> Tensor:
        x_TD, residual_TD = x_TD.contiguous(), residual_TD.contiguous()
        y_TD, mean_T, rstd_T = native.norm_forward(x_TD, residual_TD, weight_D, bias_D, eps, key, p)
        ctx.save_for_backward(x_TD, residual_TD, weight_D, mean_T, rstd_T)
        ctx.settings = (key, p)
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, residual_TD, weight_D, mean_T, rstd_T = ctx.saved_tensors
        key, p = ctx.settings
        grads = native.norm_backward(
            x_TD, residual_TD, weight_D, mean_T, rstd_T, key, p, grad_TD.contiguous()
        )
        return *grads, None, None, None


def add_norm(
    norm: nn.LayerNorm, x_TD: Tensor, residual_TD: Tensor, dropout: Dropout | None, p: float
) -> Tensor:
    """LayerNorm(residual + dropout(x))."""
    key, p = (0, 0.0) if dropout is None or p == 0 else (dropout.key(), p)
    return _AddNorm.apply(x_TD, residual_TD, norm.weight, norm.bias, norm.eps, key, p)
