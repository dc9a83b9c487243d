"""Frozen lower layers run once: their output is kept and every epoch starts from it.

Valid because a frozen layer without dropout gives the same output each time. The cache is kept in memory, in the
precision of training.
"""

from typing import Any

import torch
from torch import Tensor

from weitiao.core.device import free_memory_bytes
from weitiao.models.backbone import TextModel
from weitiao.models.encoder import Encoder
from weitiao.training.batches import Batch, Batches, in_order


class FrozenCache:
    """Hidden states after the frozen layers, for every token of a table, ``[tokens, D]``.

    Where they do not ``fit`` they are computed again for each batch: slower, but the same run, since frozen layers
    have no dropout either way.
    """

    def __init__(
        self, model: TextModel, batches: Batches, layers: int, autocast: Any, keep: bool = True
    ) -> None:
        self.model, self.layers, self.autocast = model, layers, autocast
        self.offsets = batches.encoded.ids.offsets
        size = model.backbone.shape.hidden_size
        self.states: Tensor | None = None
        with torch.no_grad():
            if not keep:
                return
            for rows in in_order(batches.encoded):
                batch = batches.batch(rows)
                with autocast():
                    hidden_TD = model.backbone.lower(batch.packed, layers)
                if self.states is None:
                    self.states = torch.empty(int(self.offsets[-1]), size, dtype=hidden_TD.dtype)
                self.states[self._places(batch)] = hidden_TD

    def _places(self, batch: Batch) -> Tensor:
        """The cache's rows for the tokens of a batch, in its order."""
        starts = torch.from_numpy(self.offsets[batch.rows])
        lengths = batch.packed.lengths_B
        inside = torch.arange(int(lengths.sum())) - torch.repeat_interleave(batch.packed.starts_B, lengths)
        return torch.repeat_interleave(starts, lengths) + inside

    def start(self, batch: Batch) -> dict[str, Any]:
        """Where the encoder starts for a batch (see ``Encoder.forward``)."""
        if self.states is None:
            with self.autocast():
                return {
                    "first_layer": self.layers,
                    "hidden_TD": self.model.backbone.lower(batch.packed, self.layers),
                }
        return {"first_layer": self.layers, "hidden_TD": self.states[self._places(batch)]}


def frozen_layers(model: TextModel) -> int:
    """How many layers, counted from the bottom, hold nothing to train; 0 where the embeddings, or what is added to
    them, are trained."""
    if not isinstance(model.backbone, Encoder) or model.head.known is not None:
        return 0
    if any(parameter.requires_grad for parameter in model.backbone.embeddings.parameters()):
        return 0
    for number, layer in enumerate(model.backbone.encoder["layer"]):
        if any(parameter.requires_grad for parameter in layer.parameters()):
            return number
    return len(model.backbone.encoder["layer"])


def fits(tokens: int, hidden_size: int, bytes_each: int) -> bool:
    """Whether the cache would take less than a quarter of the free memory."""
    return tokens * hidden_size * bytes_each < free_memory_bytes() / 4
