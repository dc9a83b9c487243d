"""A short training inside a compression step, by the engine that ``finetune`` uses."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from weitiao.compression.base import Subject
from weitiao.core.device import pick_precision
from weitiao.core.events import StepEvent
from weitiao.data.encode import Encoded
from weitiao.models.encoder import Encoder
from weitiao.models.kernels import Dropout
from weitiao.training.batches import Batches
from weitiao.training.embeddings import CompactEmbeddings, used_ids
from weitiao.training.loop import LossSum, Parts, make_accelerator, train
from weitiao.training.optimizer import make_optimizer, make_schedule

SEEDED = 7  # keeps a step's random draws apart from those of the training before it


@dataclass
class Plan:
    """How long and how fast. ``extra`` are further parameter groups for the optimizer."""

    epochs: float
    learning_rate: float
    batch_size: int = 32
    precision: str = "auto"
    dropout: bool = True
    extra: list[dict[str, Any]] = field(default_factory=list)


def fit(subject: Subject, encoded: Encoded, loss_sum: LossSum, plan: Plan) -> Iterator[StepEvent]:
    """Train every parameter of ``subject.model``, of the embeddings the rows in use; a linear schedule.

    Args:
        loss_sum: (outputs, targets of ``encoded``) -> the sum of losses over a micro-batch.
    """
    model = subject.model.requires_grad_(True)
    compact = None
    if isinstance(model.backbone, Encoder):
        compact = CompactEmbeddings(model.backbone, used_ids(encoded.ids.values))
    batches = Batches(
        encoded,
        plan.batch_size,
        subject.seed + SEEDED,
        first_position=model.first_position,
        remap=compact.remap if compact else None,
    )
    precision = pick_precision(plan.precision, "cpu")
    optimizer = make_optimizer(model, plan.learning_rate, 0.01, 1.0, None)
    for group in plan.extra:
        optimizer.add_param_group({"weight_decay": 0.0, **group})
    total = max(round(batches.steps_per_epoch * plan.epochs), 1)
    parts = Parts(
        model, batches, loss_sum, optimizer, make_schedule("linear", total, 0.1),
        make_accelerator("cpu", precision), Dropout(subject.seed + SEEDED), total, seed=subject.seed,
    )  # fmt: skip
    quiet = dropout_off(model) if not plan.dropout else lambda: None
    try:
        yield from train(parts)
    finally:
        quiet()
        if compact is not None:
            compact.restore()
        model.eval()


def dropout_off(model: nn.Module) -> Callable[[], None]:
    """Set a packed encoder's and its head's dropout to 0; the function returned puts it back."""
    from dataclasses import replace

    shapes = [(module, module.shape) for module in model.modules() if hasattr(module, "shape")]
    head, before = model.head, model.head.dropout_probability
    for module, shape in shapes:
        if hasattr(shape, "hidden_dropout_prob"):
            module.shape = replace(shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    head.dropout_probability = 0.0

    def put_back() -> None:
        for module, shape in shapes:
            module.shape = shape
        head.dropout_probability = before

    return put_back


def targets_of(encoded: Encoded) -> torch.Tensor:
    """All targets in one tensor, for objectives that look at them beforehand."""
    targets: Any = encoded.targets
    return torch.from_numpy(np.asarray(getattr(targets, "values", targets)))
