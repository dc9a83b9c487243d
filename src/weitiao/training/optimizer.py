"""Optimizers with parameter groups, what they hold, and the learning-rate schedules."""

import math
import re
from collections.abc import Callable

import torch
from torch import nn

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.training.muon import Muon, is_map
from weitiao.training.team import local

OPTIMIZERS = ("adamw", "muon", "adafactor", "adamw-8bit")
SMALLEST_IN_8_BITS = 4096  # numbers; bitsandbytes keeps the moments of smaller parameters in fp32


def make_optimizer(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float,
    head_learning_rate: float | None,
    kind: str = "adamw",
    fused: bool = True,
) -> torch.optim.Optimizer:
    """An optimizer over the trainable parameters: AdamW (Loshchilov & Hutter 2019), unless ``kind`` says otherwise.

    ``adafactor`` (Shazeer & Stern 2018) keeps, for a matrix, one number for each row and column and no first moment;
    its steps are not scaled by the parameters' own size, so that a learning rate means what it means for AdamW.
    ``adamw-8bit`` (Dettmers et al. 2022) keeps both moments in 8 bits, through ``bitsandbytes`` and on GPUs only.
    ``muon``: see ``training.muon``.

    No weight decay on biases, norms and embeddings. With ``layer_decay`` < 1 a layer's rate is that of the layer
    above it times ``layer_decay`` (Howard & Ruder 2018); the head has the full rate, or its own.
    """
    layers = 1 + max((depth(name) for name, _ in model.named_parameters() if depth(name) < HEAD), default=0)
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if depth(name) == HEAD:
            rate = head_learning_rate or learning_rate
        else:
            rate = learning_rate * layer_decay ** (layers - depth(name))
        decay = 0.0 if parameter.ndim < 2 or "embed" in name else weight_decay
        own = kind == "muon" and is_map(parameter, depth(name), HEAD)
        groups.setdefault((rate, decay, own), []).append(parameter)
    made = [
        ({"params": group, "lr": rate, "weight_decay": decay}, own)
        for (rate, decay, own), group in groups.items()
    ]
    parameters = [group for group, _ in made]
    if kind == "muon":
        return Muon([group for group, own in made if own], [group for group, own in made if not own])
    if kind == "adafactor":
        return torch.optim.Adafactor(parameters, lr=learning_rate, eps=(None, 1.0))
    if kind == "adamw-8bit":
        check_optimizer(kind, next(model.parameters()).device.type)
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, lr=learning_rate)
    return torch.optim.AdamW(parameters, lr=learning_rate, fused=fused)


def check_optimizer(kind: str, device: str) -> None:
    """Refuse an optimizer that cannot run here.

    Raises:
        WeitiaoError: it needs a GPU or a package that is missing.
    """
    if kind != "adamw-8bit":
        return
    from importlib.util import find_spec

    if device == "cpu" or find_spec("bitsandbytes") is None:
        raise WeitiaoError(
            say(
                "--optimizer adamw-8bit needs a GPU and the package bitsandbytes: take --optimizer adafactor, which "
                "holds less than half of what adamw does",
                "--optimizer adamw-8bit 需要 GPU 和 bitsandbytes 包：可改用 --optimizer adafactor，其占用不到 adamw 的一半",
            )
        )


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What the optimizer's state will take in this process once it has made a step."""
    parameters = [local(p) for group in optimizer.param_groups for p in group["params"]]
    if isinstance(optimizer, torch.optim.Adafactor):
        return sum(
            4 * (p.numel() // p.shape[-1] + p.numel() // p.shape[-2] if p.ndim > 1 else p.numel())
            for p in parameters
        )
    if isinstance(optimizer, Muon):
        return sum(
            (4 if "orthogonal" in group else 8) * sum(local(p).numel() for p in group["params"])
            for group in optimizer.param_groups
        )
    small = SMALLEST_IN_8_BITS if type(optimizer).__name__ == "AdamW8bit" else math.inf
    return sum((8 if p.numel() < small else 2) * p.numel() for p in parameters)


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
