"""How likely a language model finds given texts: sums of log probabilities of their marked tokens."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weitiao.data.encode import Encoded
from weitiao.models.backbone import TextModel
from weitiao.training.batches import Batch, Batches, in_order

TOKENS = 1024  # that go through the model at once: each marked one has as many scores as there are pieces


def text_sums(outputs_RV: Tensor, batch: Batch) -> Tensor:
    """The log probability of each text's targets, summed, fp32 ``[B, per_example]``, in the order of the examples."""
    assert batch.targets is not None and batch.marks_T is not None
    logs_R = -F.cross_entropy(outputs_RV.float(), batch.targets, reduction="none")
    texts_R = batch.packed.owner_T[batch.marks_T]
    sums_B = logs_R.new_zeros(len(batch.packed.lengths_B)).index_add(0, texts_R, logs_R)
    return sums_B[batch.order]


def log_likelihoods(
    model: TextModel, encoded: Encoded, autocast: Callable[[], Any] | None = None
) -> np.ndarray:
    """The log probability of each text's targets, summed, float64 ``[N * per_example]``."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device.type
    batches = Batches(encoded, 8, 0, first_position=model.first_position)
    found = np.zeros((len(encoded), encoded.per_example))
    for rows in in_order(encoded, TOKENS):
        batch = batches.batch(rows).to(device)
        with torch.inference_mode(), (autocast or contextlib.nullcontext)():
            found[batch.rows] = text_sums(model(batch.packed, batch.marks_T), batch).cpu().numpy()
    model.train(was_training)
    return found.ravel()
