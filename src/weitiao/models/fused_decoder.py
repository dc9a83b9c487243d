"""Autograd around the native kernels of a decoder's layer, as ``fused`` is for an encoder's."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from weitiao.models import native, native_decoder
from weitiao.models.packed import Packed


def usable(x_TD: Tensor, parameter: Tensor | None = None, *multiples: int) -> bool:
    """Whether the kernels take these: flat bf16 rows on a CPU, an fp32 parameter, sizes that are multiples of 32."""
    return (
        x_TD.dtype == torch.bfloat16
        and (parameter is None or parameter.dtype == torch.float32)
        and x_TD.device.type == "cpu"
        and x_TD.ndim == 2
        and all(size % 32 == 0 for size in (x_TD.shape[1], *multiples))
        and native.library() is not None
    )


class _AddRmsNorm(torch.autograd.Function):
    """x + added, and its norm."""

    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, added_TD: Tensor, weight_D: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        z_TD, y_TD, factor_T = native_decoder.rms_forward(
            x_TD.contiguous(), added_TD.contiguous(), weight_D, eps
        )
        ctx.save_for_backward(z_TD, weight_D, factor_T)
        return z_TD, y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, more_TD: Tensor, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        z_TD, weight_D, factor_T = ctx.saved_tensors
        g_z, g_weight = native_decoder.rms_backward(
            z_TD, weight_D, factor_T, grad_TD.contiguous(), more_TD.contiguous()
        )
        return g_z, g_z, g_weight, None


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        z_TD, y_TD, factor_T = native_decoder.rms_forward(x_TD.contiguous(), None, weight_D, eps)
        ctx.save_for_backward(z_TD, weight_D, factor_T)
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        z_TD, weight_D, factor_T = ctx.saved_tensors
        return *native_decoder.rms_backward(z_TD, weight_D, factor_T, grad_TD.contiguous(), None), None


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """As ``causal.RmsNorm``."""
    return _RmsNorm.apply(x_TD, weight_D, eps)


def add_rms_norm(x_TD: Tensor, added_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + added`` and its norm."""
    return _AddRmsNorm.apply(x_TD, added_TD, weight_D, eps)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos_TF: Tensor, sin_TF: Tensor, packed: Packed, heads: int, shared: int
    ) -> Tensor:
        qkv_T3D = native_decoder.heads_forward(x.contiguous(), cos_TF, sin_TF, heads, shared)
        out_TD, lse_TH = native.attention_forward(
            qkv_T3D, packed.starts_B, packed.lengths_B, heads, 0, 0.0, True
        )
        ctx.save_for_backward(qkv_T3D, cos_TF, sin_TF, out_TD, lse_TH)
        ctx.packed, ctx.settings = packed, (heads, shared)
        return out_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        qkv_T3D, cos_TF, sin_TF, out_TD, lse_TH = ctx.saved_tensors
        packed, (heads, shared) = ctx.packed, ctx.settings
        grad_T3D = native.attention_backward(
            qkv_T3D,
            packed.starts_B,
            packed.lengths_B,
            heads,
            0,
            0.0,
            out_TD,
            lse_TH,
            grad_TD.contiguous(),
            True,
        )
        return native_decoder.heads_backward(grad_T3D, cos_TF, sin_TF, heads, shared), *[None] * 5


def attention(x: Tensor, turns: tuple[Tensor, Tensor], packed: Packed, heads: int, shared: int) -> Tensor:
    """Causal attention of queries, keys and values side by side, ``[T, (H + 2 K) d]``, not turned yet: ``[T, H d]``.

    Args:
        turns: cosines and sines of the tokens' angles, ``[T, 1, d / 2]``.
        heads, shared: H, of queries; K, of keys and values.
    """
    cos_TF, sin_TF = (angle.flatten(0, -2).contiguous() for angle in turns)
    return _Attention.apply(x, cos_TF, sin_TF, packed, heads, shared)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_T2I: Tensor) -> Tensor:
        x_T2I = x_T2I.contiguous()
        ctx.save_for_backward(x_T2I)
        return native_decoder.swiglu_forward(x_T2I)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TI: Tensor) -> Tensor:
        (x_T2I,) = ctx.saved_tensors
        return native_decoder.swiglu_backward(x_T2I, grad_TI.contiguous())


def swiglu(x_T2I: Tensor) -> Tensor:
    """silu(gate) up of both side by side, ``[T, I]`` (Shazeer 2020)."""
    return _SwiGlu.apply(x_T2I)
