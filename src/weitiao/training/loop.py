"""The training loop: a generator of step events. Printing, saving, evaluating and stopping are done by who consumes it.

The loss of a step is the mean over the valid targets of the whole step, however it is cut into micro-batches: each
micro-batch contributes its sum divided by the step's count.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from weitiao.core.errors import WeitiaoError
from weitiao.core.events import StepEvent
from weitiao.core.messages import say
from weitiao.models.backbone import TextModel
from weitiao.models.kernels import Dropout
from weitiao.training.batches import Batch
from weitiao.training.frozen import FrozenCache
from weitiao.training.hooks import Hooks
from weitiao.training.passes import LossSum, Passes, plain
from weitiao.training.team import Team, local, whole

# Sums of losses of a micro-batch, of which each goes backwards before the next one is computed.
Losses = Callable[[Passes], Iterator[Tensor]]


class Steps(Protocol):
    """What the loop and the estimate ask of batches."""

    encoded: Any
    batch_size: int
    steps_per_epoch: int

    def epoch(self, number: int) -> list[np.ndarray]:
        """The rows of each step."""
        ...

    def step(self, rows: np.ndarray) -> list[Batch]:
        """The micro-batches of a step."""
        ...


@dataclass
class Parts:
    """What a training run is made of."""

    model: TextModel
    batches: Steps
    loss_sum: LossSum
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    accelerator: Any
    dropout: Dropout
    total_steps: int
    max_grad_norm: float = 1.0
    frozen: FrozenCache | None = None
    seed: int = 0
    hooks: Hooks = field(default_factory=Hooks)
    losses: Losses = plain
    team: Team = field(default_factory=Team)


def make_accelerator(device: str, precision: str) -> Any:
    """The ``accelerate.Accelerator`` of a run, on ``cpu`` or another device, in ``fp32`` or ``bf16``."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # One process may train several times; accelerate refuses a second precision unless its state is cleared.
    AcceleratorState._reset_state()
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")


def train(parts: Parts, first_step: int = 0) -> Iterator[StepEvent]:
    """Train from ``first_step`` to ``parts.total_steps``, yielding an event after each optimizer step.

    Raises:
        WeitiaoError: the loss is not finite.
    """
    per_epoch = parts.batches.steps_per_epoch
    rates = [group["lr"] for group in parts.optimizer.param_groups]
    parts.hooks.begin(parts.model, parts.total_steps)
    for epoch in range(first_step // per_epoch, -(-parts.total_steps // per_epoch)):
        steps = parts.batches.epoch(epoch)
        for index in range(first_step % per_epoch if epoch == first_step // per_epoch else 0, per_epoch):
            number = epoch * per_epoch + index
            if number >= parts.total_steps:
                return
            for group, rate in zip(parts.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * parts.schedule(number)
            yield step(parts, steps[index], number)


def step(parts: Parts, rows: Any, number: int) -> StepEvent:
    """One optimizer step over the given examples."""
    start = time.perf_counter()
    # All randomness of a step follows from (seed, step): a resumed run needs no saved generator state.
    torch.manual_seed(parts.seed * 1_000_003 + number)
    parts.dropout.restart(number)
    parts.model.train()
    share = parts.team.share(parts.batches, rows)
    total = 0.0
    for batch, weight in zip(share.batches, share.weights, strict=True):
        for loss in losses_of(parts, batch):
            part = loss / max(share.count, 1)
            parts.accelerator.backward(part if weight == 1 else part * weight)
            total += float(part.detach()) * (weight > 0)
    total = parts.team.total(total)
    extra = parts.hooks.extra_loss(parts.model)
    if extra is not None:
        parts.accelerator.backward(extra)
        total += float(extra.detach())
    if total != total or total in (float("inf"), float("-inf")):
        raise WeitiaoError(
            say(
                f"The loss is {total} at step {number + 1}: try a smaller --learning-rate or --precision fp32",
                f"第 {number + 1} 步的损失为 {total}：请减小 --learning-rate 或使用 --precision fp32",
            )
        )
    norm = clip(parts)
    parts.optimizer.step()
    parts.hooks.after_step(parts.model, number + 1, parts.total_steps)
    parts.optimizer.zero_grad()
    return StepEvent(
        step=number + 1,
        total_steps=parts.total_steps,
        epoch=(number + 1) / parts.batches.steps_per_epoch,
        loss=total,
        learning_rate=parts.optimizer.param_groups[0]["lr"],
        grad_norm=float(norm),
        tokens=share.tokens,
        tokens_per_second=share.tokens / (time.perf_counter() - start),
    )


def clip(parts: Parts) -> Tensor:
    """Scale the gradients down to ``max_grad_norm`` if they exceed it. Returns their norm before.

    On a CPU fused AdamW divides by the factor in its own pass, which saves one over all gradients.
    """
    trained = [p for group in parts.optimizer.param_groups for p in group["params"]]
    grads = [p.grad for p in trained if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(grads))
    factor = (norm / parts.max_grad_norm).clamp_min(1.0)
    fused = parts.optimizer.defaults.get("fused") and parts.accelerator.device.type == "cpu"
    if fused and parts.team.size == 1:
        parts.optimizer.grad_scale = factor
    else:
        for grad in grads:
            local(grad).div_(factor)
    return norm


def losses_of(parts: Parts, batch: Batch) -> Iterator[Tensor]:
    """The sums of losses of a micro-batch: one, and more where the objective takes further passes.

    Each must go backwards before the next is asked for, which may be computed from the gradients.
    """
    batch = batch.to(parts.accelerator.device.type)
    autocast = parts.accelerator.autocast
    return parts.losses(Passes(parts.model, batch, parts.dropout, autocast, parts.loss_sum, parts.frozen))
