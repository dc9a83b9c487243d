"""Fit a head's last layer on the frozen backbone's features: logistic or ridge regression (a linear probe).

Source: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (linear probe, then fine-tune).
"""

from collections.abc import Iterator
from dataclasses import dataclass

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
    linear = solve(features, targets, head.linear.out_features, penalty=penalty, seed=seed)
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(linear.weight_CF))
        head.linear.bias.copy_(torch.from_numpy(linear.bias_C))


@dataclass(frozen=True)
class Linear:
    """A fitted layer: ``features @ weight_CF.T + bias_C``."""

    weight_CF: np.ndarray
    bias_C: np.ndarray

    def probabilities(self, features_NF: np.ndarray) -> np.ndarray:
        """Of each class, float64 ``[N, C]``, for a layer fitted to classes."""
        logits_NC = features_NF.astype(np.float64) @ self.weight_CF.T + self.bias_C
        e_NC = np.exp(logits_NC - logits_NC.max(1, keepdims=True))
        return e_NC / e_NC.sum(1, keepdims=True)


def solve(
    features: np.ndarray, targets: np.ndarray, outputs: int, *, penalty: float = 0.1, seed: int = 0
) -> Linear:
    """The least-loss linear layer; arguments as of ``fit``."""
    if len(features) > MOST_ROWS:
        chosen = np.random.default_rng(seed).choice(len(features), MOST_ROWS, replace=False)
        features, targets = features[chosen], targets[chosen]
    mean, scale = features.mean(0), features.std(0) + 1e-6
    x = torch.from_numpy(((features - mean) / scale).astype(np.float32))
    if targets.ndim == 1 and targets.dtype.kind == "f":
        weight, bias = _ridge(x, torch.from_numpy(targets.astype(np.float32)), penalty)
    else:
        weight, bias = _logistic(x, torch.from_numpy(targets), outputs, penalty)
    weight = weight / torch.from_numpy(scale.astype(np.float32))
    return Linear(weight.numpy(), (bias - weight @ torch.from_numpy(mean.astype(np.float32))).numpy())


def held_out_probabilities(
    features_NF: np.ndarray,
    labels_N: np.ndarray,
    classes: int,
    *,
    folds: int = 5,
    penalty: float = 0.1,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Each row's probabilities from a layer that never saw its label (cross-validation), after each fold.

    The folds hold about the same share of each class. Yields the same float64 ``[N, C]``, NaN where not yet known.
    """
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(labels_N))
    fold_N = np.empty(len(labels_N), np.int64)
    fold_N[shuffled[np.argsort(labels_N[shuffled], kind="stable")]] = np.arange(len(labels_N)) % folds
    found_NC = np.full((len(labels_N), classes), np.nan)
    for fold in range(folds):
        held = fold_N == fold
        linear = solve(features_NF[~held], labels_N[~held], classes, penalty=penalty, seed=seed)
        found_NC[held] = linear.probabilities(features_NF[held])
        yield found_NC


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
