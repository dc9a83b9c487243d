"""A toy problem that tests train on: some texts, an encoded table, and the parts of a training run in fp32."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from weitiao.core import catalogue
from weitiao.data.encode import Encoded, Ragged
from weitiao.models.backbone import TextModel, open_backbone
from weitiao.models.heads import make_head
from weitiao.models.kernels import Dropout
from weitiao.models.saving import start_pooler
from weitiao.objectives._composed import compose
from weitiao.training.batches import Batches
from weitiao.training.hooks import Hooks
from weitiao.training.loop import Parts, make_accelerator
from weitiao.training.optimizer import make_optimizer, make_schedule

RULES = Path(__file__).parent / "toy_rules.yaml"
POOLED = {"type": "pooled", "outputs": 3, "pooling": "mean"}


def make(family: str, name: str, **options: Any) -> Any:
    """A member of a family with these settings."""
    return catalogue.member(family, name)(**options)


def table(count: int = 24, seed: int = 0, longest: int = 20) -> Encoded:
    """Random texts of 3 .. ``longest`` tokens with one of three classes each."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, longest + 1, count)
    # Only ids below 200 occur, so most rows of the embeddings are unused.
    ids = Ragged.of(np.concatenate([[2], random.integers(5, 200, n - 2), [3]]) for n in lengths)
    return Encoded(ids, targets=random.integers(0, 3, count))


def open_model(
    folder: Path, tuning: Any = None, head: dict[str, Any] = POOLED, dropout: float = 0.0
) -> TextModel:
    """The model in a folder under a new head, with a tuning method applied (default: full)."""
    torch.manual_seed(1)
    backbone, config, beside = open_backbone(folder, dropout)
    model = TextModel(backbone, make_head(head, backbone.shape.hidden_size), config)
    model.head.dropout_probability = dropout
    start_pooler(model.head, beside)
    (tuning or catalogue.member("tuning", "full")()).apply(model)
    return model


def make_parts(
    model: TextModel,
    encoded: Encoded,
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    batch_size: int = 8,
    epochs: int = 2,
    schedule: str = "constant",
    precision: str = "fp32",
    micro_tokens: int = 1536,
    remap: np.ndarray | None = None,
    hooks: Hooks | None = None,
    objective: str = "cross_entropy",
    **options: Any,
) -> Parts:
    """The parts of a run, without warm-up; ``options`` are the objective's."""
    batches = Batches(encoded, batch_size, 0, micro_tokens=micro_tokens, remap=remap)
    composed = compose(objective, {"group_column": "group", "rules": str(RULES)} | options)
    if composed.needs_facts:
        texts, groups = [f"text {i}" for i in range(len(encoded))], ["ab"[i % 2] for i in range(len(encoded))]
        encoded.facts = composed.facts(texts, groups, ["a", "b", "c"])
    composed.prepare(torch.from_numpy(np.asarray(getattr(encoded.targets, "values", encoded.targets))), 3)
    if composed.compares_examples:
        batches.micro_tokens = 0
    optimizer = make_optimizer(model, learning_rate, weight_decay, 1.0, None)
    total = batches.steps_per_epoch * epochs
    accelerator = make_accelerator("cpu", precision)
    schedule_ = make_schedule(schedule, total, 0.0)
    return Parts(
        model, batches, composed.loss_sum, optimizer, schedule_, accelerator, Dropout(0), total,
        hooks=hooks or Hooks(), losses=composed.losses,
    )  # fmt: skip
