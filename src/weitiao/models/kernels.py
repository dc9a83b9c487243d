"""Attention and dropout for packed batches, with their own backward passes.

Measured on a CPU (see LAB_LOG.md): the backward pass of ``scaled_dot_product_attention`` takes five to ten
times its forward pass there, softmax in bf16 ten times the one in fp32, and drawing a dropout mask as long as
a matrix product. So attention is written out in matrix products with the softmax in fp32, and dropout masks
come from a fast counter generator, 16 bits an element.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from weitiao.models import native
from weitiao.models.packed import Group, Packed


class Dropout:
    """Draws dropout masks. Seeded by (seed, step): a resumed run draws the same masks without saved state."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.restart(0)

    def restart(self, step: int) -> None:
        """Begin the stream of masks of one optimizer step."""
        self.bits = np.random.SFC64(np.random.SeedSequence([self.seed, step]))

    @contextmanager
    def replay(self, state: Any) -> Iterator[None]:
        """Draw again the masks that followed ``state``; afterwards the stream goes on where it was."""
        now = self.bits.state
        self.bits.state = state
        try:
            yield
        finally:
            self.bits.state = now

    def key(self) -> int:
        """64 random bits: what a native kernel draws a mask from."""
        return int(self.bits.random_raw())

    def mask(self, like: Tensor, probability: float) -> Tensor:
        """Of ``like``'s shape and dtype: 0 with the given probability, 1 / (1 - probability) elsewhere.

        In 16-bit types the factor is rounded first and the probability follows it, in steps of 2 ** -15, so
        that the mean stays 1 to a part in 2 ** 15.
        """
        if like.device.type != "cpu":
            return F.dropout(torch.ones_like(like), probability, training=True)
        factor = torch.tensor(1 / (1 - probability), dtype=like.dtype)
        dropped = round((1 - 1 / float(factor)) * 32768)
        count = like.numel()
        raw = self.bits.random_raw((count + 3) // 4).view(np.int16)[:count]
        # 15 random bits; the arithmetic shift turns "below the threshold" into a sign, all ones or all zeros.
        kept = torch.from_numpy(raw).bitwise_and_(0x7FFF).neg_().add_(dropped - 1).bitwise_right_shift_(15)
        if like.dtype == torch.bfloat16:
            return kept.bitwise_and_(factor.view(torch.int16)).view(torch.bfloat16).view(like.shape)
        return kept.to(like.dtype).mul_(-factor).view(like.shape)


class _Linear(torch.autograd.Function):
    """x W' + b in the dtype of x, with fp32 parameters. The weight's gradient comes out in the weight's own layout:
    autograd's comes out transposed, and turning it while casting it to fp32 costs more than the product."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        weight = weight_OI.to(x_TI.dtype)
        ctx.save_for_backward(x_TI, weight)
        return F.linear(x_TI, weight, None if bias_O is None else bias_O.to(x_TI.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad
        return (
            grad_TO @ weight if wants[0] else None,
            (grad_TO.t() @ x_TI).float() if wants[1] else None,
            _column_sums(grad_TO) if wants[2] else None,
        )


def _column_sums(x_TO: Tensor) -> Tensor:
    """The sum over the rows in fp32."""
    if x_TO.dtype == torch.bfloat16 and x_TO.shape[1] % 16 == 0 and native.library() is not None:
        return native.column_sums(x_TO.contiguous())
    return x_TO.sum(0, dtype=torch.float32)


class Linear(torch.nn.Linear):
    """``nn.Linear``, faster under bf16 autocast on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            return _Linear.apply(input.to(torch.get_autocast_dtype("cpu")), self.weight, self.bias)
        return super().forward(input)


class _Attention(torch.autograd.Function):
    """softmax(q k' / sqrt(d)) v, text by text, for flat q, k, v of shape [T, D]."""

    @staticmethod
    def forward(
        ctx: Any,
        q_TD: Tensor,
        k_TD: Tensor,
        v_TD: Tensor,
        packed: Packed,
        heads: int,
        dropout: Dropout | None,
        p: float,
    ) -> Tensor:
        out_TD = torch.empty_like(q_TD)
        saved: list[Tensor | None] = []
        for group in packed.groups:
            q, k, v = (apart(x, group, heads) for x in (q_TD, k_TD, v_TD))
            probs = _wide(torch.bmm(q, k.transpose(1, 2))).mul_(q.shape[-1] ** -0.5)
            if group.bias_B1L is not None:
                probs.view(group.batch, heads, group.length, -1).add_(group.bias_B1L.unsqueeze(1))
            probs = torch.softmax(probs, -1)
            dropped = probs.to(v.dtype)
            mask = None
            if dropout is not None:
                mask = dropout.mask(dropped, p)
                dropped = dropped * mask
            together(torch.bmm(dropped, v), group, heads, out_TD)
            saved += [q, k, v, probs, mask]
        ctx.save_for_backward(*saved)
        ctx.groups, ctx.heads = packed.groups, heads
        return out_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        heads, saved = ctx.heads, ctx.saved_tensors
        grads = [torch.empty_like(grad_TD) for _ in range(3)]
        for number, group in enumerate(ctx.groups):
            q, k, v, probs, mask = saved[5 * number : 5 * number + 5]
            grad = apart(grad_TD, group, heads, zero_padding=True)
            dropped = probs.to(v.dtype)
            grad_probs = torch.bmm(grad, v.transpose(1, 2))
            if mask is not None:
                # Not in place: in fp32 ``dropped`` is ``probs`` itself, which the softmax's gradient needs.
                dropped = dropped * mask
                grad_probs.mul_(mask)
            grad_v = torch.bmm(dropped.transpose(1, 2), grad)
            # The softmax's own gradient, p * (g - sum(g * p)), in fp32 like its forward pass.
            scores = torch._softmax_backward_data(_wide(grad_probs), probs, -1, probs.dtype)
            scores = scores.mul_(q.shape[-1] ** -0.5).to(q.dtype)
            together(torch.bmm(scores, k), group, heads, grads[0])
            together(torch.bmm(scores.transpose(1, 2), q), group, heads, grads[1])
            together(grad_v, group, heads, grads[2])
        return (*grads, None, None, None, None)


def _wide(x: Tensor) -> Tensor:
    """fp32, or float64 where ``x`` is that."""
    return x if x.dtype == torch.float64 else x.float()


def apart(x_TD: Tensor, group: Group, heads: int, zero_padding: bool = False) -> Tensor:
    """A group's rows of a flat tensor as ``[B * H, L, d]``."""
    rows = x_TD[group.first : group.last]
    if group.padded_BL is not None:
        if zero_padding:
            assert group.real_t is not None
            cells = rows.new_zeros(group.batch * group.length, rows.shape[1])
            rows = cells.index_copy_(0, group.real_t, rows)
        else:
            rows = rows.index_select(0, group.padded_BL)
    split = rows.view(group.batch, group.length, heads, -1).transpose(1, 2)
    return split.reshape(group.batch * heads, group.length, -1)


def together(x: Tensor, group: Group, heads: int, out_TD: Tensor) -> None:
    """Write ``[B * H, L, d]`` back to a group's rows of a flat tensor."""
    joined = x.view(group.batch, heads, group.length, -1).transpose(1, 2)
    target = out_TD[group.first : group.last]
    if group.real_t is None:
        target.view(joined.shape).copy_(joined)
    else:
        torch.index_select(joined.reshape(-1, target.shape[1]), 0, group.real_t, out=target)


def attention(
    q_TD: Tensor, k_TD: Tensor, v_TD: Tensor, packed: Packed, heads: int, dropout: Dropout | None, p: float
) -> Tensor:
    """Multi-head self-attention within each text of a packed batch.

    Args:
        q_TD, k_TD, v_TD: queries, keys and values, ``[T, D]``.
        dropout: draws masks for the attention weights; None when not training.

    Returns:
        ``[T, D]``. Source: Vaswani et al. 2017, "Attention Is All You Need", equation 1.
    """
    return _Attention.apply(q_TD, k_TD, v_TD, packed, heads, dropout if p > 0 else None, p)


def dropout_add(x: Tensor, residual: Tensor, dropout: Dropout | None, p: float) -> Tensor:
    """``residual + dropout(x)`` in one pass."""
    if dropout is None or p == 0:
        return x + residual
    return torch.addcmul(residual, x, dropout.mask(x, p))
