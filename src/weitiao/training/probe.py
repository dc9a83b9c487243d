"""Fit a head's last layer on the frozen backbone's features: logistic or ridge regression (a linear probe).

Source: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (linear probe, then fine-tune).
"""

import numpy as np
import torch

from weitiao.models.heads import Head

MOST_ROWS = 60_000


def fit(
    head: Head, features: np.ndarray, targets: np.ndarray, *, penalty: float = 0.1, seed: int = 0
) -> None:
    """Put the least-loss linear layer into ``head``.

    Args:
        features: ``[N, F]``; standardised here, the scale folded into the layer's weights afterwards.
        targets: int ``[N]`` classes, ``[N, C]`` in {0, 1}, or float ``[N]`` values.
        penalty: strength of the L2 penalty on the standardised weights, divided by N.
    """
    assert head.linear is not None
    if len(features) > MOST_ROWS:
        chosen = np.random.default_rng(seed).choice(len(features), MOST_ROWS, replace=False)
        features, targets = features[chosen], targets[chosen]
    mean, scale = features.mean(0), features.std(0) + 1e-6
    x = torch.from_numpy(((features - mean) / scale).astype(np.float32))
    if targets.ndim == 1 and targets.dtype.kind == "f":
        weight, bias = _ridge(x, torch.from_numpy(targets.astype(np.float32)), penalty)
    else:
        weight, bias = _logistic(x, torch.from_numpy(targets), head.linear.out_features, penalty)
    weight = weight / torch.from_numpy(scale.astype(np.float32))
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(bias - weight @ torch.from_numpy(mean.astype(np.float32)))


def _ridge(x: torch.Tensor, y: torch.Tensor, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Closed form: (X'X + penalty N I) w = X'(y - mean)."""
    n, f = x.shape
    weight = torch.linalg.solve(x.T @ x + penalty * n * torch.eye(f), x.T @ (y - y.mean()))
    return weight[None, :], y.mean()[None]


def _logistic(
    x: torch.Tensor, y: torch.Tensor, classes: int, penalty: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multinomial (or, for several labels at once, independent) logistic regression by L-BFGS."""
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=100, history_size=10, line_search_fn="strong_wolfe")
    several = y.ndim == 2
    target = y.float() if several else y.long()

    def closure() -> torch.Tensor:
        solver.zero_grad()
        logits = x @ weight.T + bias
        if several:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        else:
            loss = torch.nn.functional.cross_entropy(logits, target)
        loss = loss + 0.5 * penalty / len(x) * weight.pow(2).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    return weight.detach(), bias.detach()
