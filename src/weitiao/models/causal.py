"""The pieces of a decoder that an encoder has not: attention to what came before, rotary positions, RMSNorm.

Each has a backward pass of its own, which keeps less and passes over memory less often than autograd's would.

Shapes: T tokens in the batch, H heads, K heads of keys and values, d = D / H.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weitiao.models import fused_decoder
from weitiao.models.kernels import apart, together
from weitiao.models.packed import Packed

BLOCK = 128  # queries whose attention is computed at once: what lies after a block is never looked at


class _CausalAttention(torch.autograd.Function):
    """softmax(q k' / sqrt(d)) v over a text's earlier tokens and the token itself, in blocks of queries.

    Padding needs no mask: it stands after a text's tokens, where no query of theirs looks.
    """

    # Products are not written into slices: for those, torch computes them matrix by matrix.
    @staticmethod
    def forward(ctx: Any, q_TD: Tensor, k_TD: Tensor, v_TD: Tensor, packed: Packed, heads: int) -> Tensor:
        out_TD, saved = torch.empty_like(q_TD), []
        for group in packed.groups:
            q, k, v = (apart(x, group, heads) for x in (q_TD, k_TD, v_TD))
            out, shares = torch.empty_like(q), []
            for a, b in _blocks(group.length):
                scores = torch.bmm(q[:, a:b], k[:, :b].transpose(1, 2))
                scores = (scores if scores.dtype == torch.float64 else scores.float()).mul_(
                    q.shape[-1] ** -0.5
                )
                scores[:, :, a:b] += _later(b - a, scores)
                shares.append(torch.softmax(scores, -1))
                out[:, a:b] = torch.bmm(shares[-1].to(v.dtype), v[:, :b])
            together(out, group, heads, out_TD)
            saved += [q, k, v, *shares]
        ctx.save_for_backward(*saved)
        ctx.groups, ctx.heads = packed.groups, heads
        return out_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        heads, saved = ctx.heads, iter(ctx.saved_tensors)
        grads = [torch.empty_like(grad_TD) for _ in range(3)]
        for group in ctx.groups:
            q, k, v = next(saved), next(saved), next(saved)
            grad = apart(grad_TD, group, heads, zero_padding=True)
            g_q, g_k, g_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
            for a, b in _blocks(group.length):
                shares = next(saved)
                g_v[:, :b] += torch.bmm(shares.to(v.dtype).transpose(1, 2), grad[:, a:b])
                slopes = torch.bmm(grad[:, a:b], v[:, :b].transpose(1, 2)).to(shares.dtype)
                # The softmax's own gradient, p * (g - sum(g * p)), in fp32 like its forward pass.
                slopes = torch._softmax_backward_data(slopes, shares, -1, shares.dtype)
                slopes = slopes.mul_(q.shape[-1] ** -0.5).to(q.dtype)
                g_q[:, a:b] = torch.bmm(slopes, k[:, :b])
                g_k[:, :b] += torch.bmm(slopes.transpose(1, 2), q[:, a:b])
            for whole, part in zip(grads, (g_q, g_k, g_v), strict=True):
                together(part, group, heads, whole)
        return (*grads, None, None)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(a, min(a + BLOCK, length)) for a in range(0, length, BLOCK)]


def _later(count: int, like: Tensor) -> Tensor:
    """-inf above the diagonal, ``[count, count]``."""
    return torch.full((count, count), -torch.inf, device=like.device, dtype=like.dtype).triu_(1)


def attention(q_TD: Tensor, k_TD: Tensor, v_TD: Tensor, packed: Packed, heads: int) -> Tensor:
    """Multi-head causal self-attention within each text of a packed batch.

    Args:
        q_TD, k_TD, v_TD: queries, keys and values, ``[T, D]``, each for all heads.

    Returns:
        ``[T, D]``. Source: Vaswani et al. 2017, "Attention Is All You Need", equation 1 and section 3.2.3.
    """
    return _CausalAttention.apply(q_TD, k_TD, v_TD, packed, heads)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, cos.dtype))
    half = out.shape[-1] // 2
    torch.mul(a, cos, out=out[..., :half]).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=out[..., half:]).addcmul_(a, sin)
    return out.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each head's halves by its token's angles (Su et al. 2021, "RoFormer"; halves as in ``transformers``).

    Args:
        x: ``[..., heads, d]``.
        cos, sin: of the angles, ``[..., 1, d / 2]``.
    """
    return _Rotation.apply(x, cos, sin)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        wide_TD = x_TD if x_TD.dtype == weight_D.dtype else x_TD.to(weight_D.dtype)
        length_T1 = torch.linalg.vector_norm(wide_TD, dim=-1, keepdim=True)
        factor_T1 = length_T1.square_().div_(x_TD.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_TD, weight_D, factor_T1)
        return (wide_TD * factor_T1).mul_(weight_D).to(x_TD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_D, factor_T1 = ctx.saved_tensors
        hat_TD = x_TD.to(weight_D.dtype) * factor_T1
        grad = grad_TD.to(weight_D.dtype)
        along_TD = grad * hat_TD
        g_weight = along_TD.sum(tuple(range(along_TD.ndim - 1))) if ctx.needs_input_grad[1] else None
        mean_T1 = (along_TD @ weight_D).div_(x_TD.shape[-1]).unsqueeze(-1)
        g_x = torch.mul(grad, weight_D, out=along_TD).sub_(hat_TD.mul_(mean_T1)).mul_(factor_T1)
        return g_x.to(x_TD.dtype), g_weight, None


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, with fp32 statistics (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x_TD: Tensor) -> Tensor:
        if fused_decoder.usable(x_TD, self.weight):
            return fused_decoder.rms_norm(x_TD, self.weight, self.eps)
        return _RmsNorm.apply(x_TD, self.weight, self.eps)

    def after(self, x_TD: Tensor, added_TD: Tensor) -> tuple[Tensor, Tensor]:
        """``x + added``, and its norm."""
        if fused_decoder.usable(x_TD, self.weight) and added_TD.dtype == x_TD.dtype:
            return fused_decoder.add_rms_norm(x_TD, added_TD, self.weight, self.eps)
        x_TD = x_TD + added_TD
        return x_TD, self(x_TD)
