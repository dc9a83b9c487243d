"""AdamW with parameter groups, and the learning-rate schedules."""

import math
import re
from collections.abc import Callable

import torch
from torch import nn


def make_optimizer(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float,
    head_learning_rate: float | None,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over the trainable parameters.

    No weight decay on biases, norms and embeddings. With ``layer_decay`` < 1 a layer's rate is that of the layer
    above it times ``layer_decay`` (Howard & Ruder 2018); the head has the full rate, or its own.
    """
    layers = 1 + max((depth(name) for name, _ in model.named_parameters() if depth(name) < HEAD), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if depth(name) == HEAD:
            rate = head_learning_rate or learning_rate
        else:
            rate = learning_rate * layer_decay ** (layers - depth(name))
        decay = 0.0 if parameter.ndim < 2 or "embed" in name else weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    parameters = [
        {"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()
    ]
    return torch.optim.AdamW(parameters, lr=learning_rate, fused=True)


HEAD = 10_000


def depth(name: str) -> int:
    """0 for embeddings, i + 1 for layer i, ``HEAD`` for the head; from a parameter's name."""
    if name.startswith("head."):
        return HEAD
    found = re.search(r"\.layers?\.(\d+)\.", name)
    return int(found.group(1)) + 1 if found else 0


def make_schedule(kind: str, total_steps: int, warmup_ratio: float) -> Callable[[int], float]:
    """The learning rate's factor at each step: a linear rise over the warm-up, then the schedule down to 0.

    ``linear``: straight; ``cosine``: half a cosine (Loshchilov & Hutter 2017); ``constant``: stays.
    """
    # At least one step is left after the warm-up, whose first step has rate 0: a run of one step must learn too.
    warmup = min(math.ceil(total_steps * warmup_ratio), total_steps - 1)

    def factor(step: int) -> float:
        if step < warmup:
            return step / max(warmup, 1)
        left = 1 - (step - warmup) / max(total_steps - warmup, 1)
        return {"linear": left, "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left))), "constant": 1.0}[kind]

    return factor
