"""Muon for the layers' matrices, AdamW for all else, as one optimizer."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ROUNDS = 5
# The quintic a x + b x^3 + c x^5 that brings singular values near 1 in few rounds (Jordan et al. 2024).
A, B, C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """A matrix steps along its momentum made orthogonal: all directions equally far, not the few large ones.

    Jordan et al. 2024 (Nesterov momentum, Newton-Schulz iteration); steps are as long as AdamW's (0.2 sqrt(max(rows,
    columns)) times the rate, Liu et al. 2025, "Muon is scalable for LLM training"), so that a rate means the same for
    both. Embeddings, heads, norms and biases are AdamW's: orthogonal steps suit maps between states, not tables.
    torch's own Muon computes in bf16, which is slow on a CPU without products in bf16: here that is fp32.

    Args:
        matrices, others: parameter groups with ``lr`` and ``weight_decay``.
    """

    def __init__(self, matrices: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
        super().__init__([{**group, "orthogonal": True} for group in matrices], {})
        self.rest = torch.optim.AdamW(others, fused=True) if others else None
        if self.rest is not None:
            # AdamW's groups are here too, and one state: what sets a rate or saves a moment sees one optimizer.
            self.param_groups += self.rest.param_groups
            self.rest.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of both."""
        if self.rest is not None:
            self.rest.step()
        for group in self.param_groups:
            for parameter in group["params"] if "orthogonal" in group else []:
                if parameter.grad is not None:
                    self._turn(parameter, group["lr"], group["weight_decay"])

    def _turn(self, parameter: nn.Parameter, rate: float, decay: float) -> None:
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(grad)
        state["momentum"].lerp_(grad, 1 - MOMENTUM)
        update = orthogonal(grad.lerp(state["momentum"], MOMENTUM))
        parameter.mul_(1 - rate * decay)
        parameter.add_(update, alpha=-rate * 0.2 * max(parameter.shape) ** 0.5)


def orthogonal(matrix_RC: Tensor) -> Tensor:
    """U V^T of a matrix U S V^T, roughly: singular values of about 0.7 to 1.2. Same shape; bf16 where that is fast."""
    x_RC = matrix_RC.bfloat16() if matrix_RC.device.type != "cpu" or _fast_bf16() else matrix_RC
    tall = x_RC.shape[0] > x_RC.shape[1]
    x = x_RC.T if tall else x_RC
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.T if tall else x


@cache
def _fast_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def is_map(parameter: nn.Parameter, depth: int, head: int) -> bool:
    """Whether a parameter is a matrix inside a layer (depth 0: the embeddings; ``head``: the head)."""
    return parameter.ndim == 2 and 0 < depth < head
