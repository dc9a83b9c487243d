"""A model's outputs over a table, in the table's order: for evaluation, prediction and linear probes."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from weitiao.data.encode import Encoded, Ragged
from weitiao.models.backbone import TextModel
from weitiao.models.heads import TokenHead
from weitiao.training.batches import Batch, Batches, in_order
from weitiao.training.team import device_of


def outputs_of(model: TextModel, encoded: Encoded, **how: Any) -> list[Any]:
    """The head's outputs of each example: ``[C]``; token heads ``[tokens, C]``; embeddings ``[per_example, D]``.

    Args:
        how: ``autocast`` (a context factory), ``remap`` (see ``Batches``).
    """
    found: list[Any] = [None] * len(encoded)
    for batch, out in _run(model, encoded, lambda b: model(b.packed, b.marks_T), **how):
        for row, values in _split(batch, out, isinstance(model.head, TokenHead)):
            found[row] = values
    return found


def features_of(model: TextModel, encoded: Encoded, **how: Any) -> list[Any]:
    """What the head's last layer sees, laid out as in ``outputs_of``."""
    found: list[Any] = [None] * len(encoded)

    def run(batch: Batch) -> torch.Tensor:
        return model.head.features(model.hidden(batch.packed, batch.marks_T, None), batch.packed)

    for batch, out in _run(model, encoded, run, **how):
        for row, values in _split(batch, out, isinstance(model.head, TokenHead)):
            found[row] = values
    return found


def features_and_targets(model: TextModel, encoded: Encoded, **how: Any) -> tuple[np.ndarray, np.ndarray]:
    """What a probe is fitted on: features ``[N, F]`` and targets ``[N]`` or ``[N, C]``, without unscored tokens."""
    found, targets = features_of(model, encoded, **how), encoded.targets
    assert targets is not None
    if not isinstance(targets, Ragged):
        return np.stack(found), targets
    scored = targets.values >= 0
    return np.concatenate(found)[scored], targets.values[scored]


def _run(
    model: TextModel,
    encoded: Encoded,
    run: Callable[[Batch], torch.Tensor],
    autocast: Callable[[], Any] = contextlib.nullcontext,
    remap: np.ndarray | None = None,
) -> Iterator[tuple[Batch, np.ndarray]]:
    was_training = model.training
    model.eval()
    device = device_of(model)
    batches = Batches(encoded, 32, 0, first_position=model.first_position, remap=remap)
    try:
        for rows in in_order(encoded):
            batch = batches.batch(rows).to(device)
            with torch.inference_mode(), autocast():
                out = run(batch)
            if batch.order.shape[1] > 1:
                out = out[batch.order]
            yield batch, out.float().cpu().numpy()
    finally:
        model.train(was_training)


def _split(batch: Batch, out: np.ndarray, by_token: bool) -> Iterator[tuple[int, np.ndarray]]:
    """The part of a batch's output that belongs to each example."""
    if not by_token:
        yield from zip(batch.rows.tolist(), out, strict=True)
        return
    starts = batch.packed.starts_B.tolist()
    for row, start, length in zip(batch.rows.tolist(), starts, batch.packed.lengths_B.tolist(), strict=True):
        yield row, out[start : start + length]
