"""The calls of the kernels in C for a decoder's layer; see ``native``.

Shapes: T tokens, D hidden, H heads of queries, K of keys and values, d values a head, I feed-forward, R rows, V pieces.
"""

import torch
from torch import Tensor

from weitiao.models.native import library, pointers


def rms_forward(
    x_TD: Tensor, added_TD: Tensor | None, weight_D: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """RMSNorm of z = x + added (None: of x): ``(z [T, D] bf16, its norm [T, D] bf16, 1 / root mean square [T])``."""
    z_TD = x_TD if added_TD is None else torch.empty_like(x_TD)
    y_TD, factor_T = torch.empty_like(x_TD), torch.empty(len(x_TD))
    library().rms_forward(*pointers(x_TD, added_TD, weight_D, eps, *x_TD.shape, z_TD, y_TD, factor_T))
    return z_TD, y_TD, factor_T


def rms_backward(
    z_TD: Tensor, weight_D: Tensor, factor_T: Tensor, grad_TD: Tensor, more_TD: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients of z, to which ``more`` is added, and of the weight."""
    parts = torch.get_num_threads()
    g_z, g_weight = torch.empty_like(z_TD), torch.empty(parts, z_TD.shape[1])
    library().rms_backward(
        *pointers(z_TD, weight_D, factor_T, *z_TD.shape, grad_TD, more_TD, g_z, parts, g_weight)
    )
    return g_z, g_weight.sum(0)


def heads_forward(x: Tensor, cos: Tensor, sin: Tensor, heads: int, shared: int) -> Tensor:
    """Queries, keys, values ``[T, (H + 2 K) d]`` as each head reads them, ``[T, 3 H d]``; cos, sin ``[T, d / 2]``."""
    d = x.shape[1] // (heads + 2 * shared)
    out = x.new_empty(len(x), 3 * heads * d)
    library().heads_forward(*pointers(x, cos, sin, len(x), heads, shared, d, out))
    return out


def heads_backward(grad: Tensor, cos: Tensor, sin: Tensor, heads: int, shared: int) -> Tensor:
    """The gradient of ``heads_forward``'s argument."""
    d = grad.shape[1] // (3 * heads)
    out = grad.new_empty(len(grad), (heads + 2 * shared) * d)
    library().heads_backward(*pointers(grad, cos, sin, len(grad), heads, shared, d, out))
    return out


def swiglu_forward(x_T2I: Tensor) -> Tensor:
    """silu(gate) up, ``[T, I]``, of both side by side."""
    tokens, size = x_T2I.shape[0], x_T2I.shape[1] // 2
    out_TI = x_T2I.new_empty(tokens, size)
    library().swiglu_forward(*pointers(x_T2I, tokens, size, out_TI))
    return out_TI


def swiglu_backward(x_T2I: Tensor, grad_TI: Tensor) -> Tensor:
    """The gradient of gate and up side by side."""
    out = torch.empty_like(x_T2I)
    library().swiglu_backward(*pointers(x_T2I, grad_TI, *grad_TI.shape, out))
    return out


def softmax_gradient(logits_RV: Tensor, targets_R: Tensor) -> Tensor:
    """-log softmax(logits)[target], ``[R]`` fp32. The bf16 logits become this loss' gradient."""
    losses_R = torch.empty(len(logits_RV))
    library().softmax_gradient(*pointers(logits_RV, targets_R, *logits_RV.shape, losses_R))
    return losses_R
