"""What a teacher says about texts, computed once and kept: outputs, hidden states, and the last layer's q, k, v."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weitiao.core.events import Event, ProgressEvent
from weitiao.core.messages import say
from weitiao.data.encode import Encoded
from weitiao.models.backbone import TextModel
from weitiao.models.encoder import Encoder
from weitiao.models.heads import TokenHead
from weitiao.training.batches import Batches, in_order


class Watch:
    """Keeps the hidden states that leave some layers of an encoder, and its last layer's queries, keys and values.

    Args:
        layers: numbers of layers; -1 is what leaves the embeddings.
    """

    def __init__(self, encoder: Encoder, layers: list[int]) -> None:
        self.encoder, self.layers = encoder, layers
        self.states: dict[int, Tensor] = {}
        modules = [encoder.embeddings, *encoder.encoder["layer"]]
        before_last = len(modules) - 3
        self.below = before_last  # whose states go into the last layer
        wanted = {*layers, before_last}
        self.packed: Any = None
        self.hooks = [encoder.register_forward_pre_hook(self._keep_batch)]
        self.hooks += [
            module.register_forward_hook(self._keeper(number))
            for number, module in enumerate(modules, start=-1)
            if number in wanted
        ]

    def _keep_batch(self, module: nn.Module, inputs: Any) -> None:
        self.packed = inputs[0]

    def _keeper(self, number: int) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.states[number] = output

        return keep

    def hidden(self) -> list[Tensor]:
        """The states after each of ``layers``, ``[T, D]``."""
        return [self.states[number] for number in self.layers]

    def relations(self) -> list[Tensor]:
        """Queries, keys and values of the last layer, ``[T, A]`` each."""
        last = self.encoder.encoder["layer"][-1].attention.self
        x_TD = self.states[self.below].float()
        return [last[name](x_TD) for name in ("query", "key", "value")]

    def close(self) -> None:
        """Stop watching."""
        for hook in self.hooks:
            hook.remove()
        self.states.clear()


@dataclass
class Signals:
    """A teacher's signals for a table of N texts, in the table's order.

    ``outputs`` holds for each text ``[C]``, ``[tokens, C]`` or ``[2, D]``. ``states`` is ``[tokens, F]``:
    the wanted hidden states and then q, k, v, side by side, their sizes in ``sizes``. They lie in a file, in half
    precision, since a corpus's hidden states are large.
    """

    outputs: list[np.ndarray]
    states: np.ndarray | None
    offsets: np.ndarray
    sizes: list[int]
    by_token: bool

    def output(self, rows: np.ndarray) -> Tensor:
        """The outputs of texts, one after the other, as the model itself gives them."""
        found = [self.outputs[row] for row in rows]
        return torch.from_numpy(np.concatenate(found) if self.by_token else np.stack(found))

    def state(self, rows: np.ndarray) -> list[Tensor]:
        """The states of texts' tokens in packed order, ``[T, size]`` for each of ``sizes``."""
        assert self.states is not None
        parts = [self.states[self.offsets[row] : self.offsets[row + 1]] for row in rows]
        return list(torch.from_numpy(np.concatenate(parts).astype(np.float32)).split(self.sizes, 1))


def listen(
    teacher: TextModel, encoded: Encoded, layers: list[int], relations: bool, autocast: Any
) -> Iterator[Event | Signals]:
    """Run the teacher over every text; the last item is what it said."""
    watch = Watch(teacher.backbone, layers) if layers or relations else None
    batches = Batches(encoded, 32, 0, first_position=teacher.first_position)
    outputs: list[Any] = [None] * len(encoded)
    states, sizes = None, []
    groups = list(in_order(encoded))
    try:
        for number, rows in enumerate(groups):
            yield ProgressEvent(say("asking the teacher", "计算教师模型的输出"), number, len(groups))
            batch = batches.batch(rows)
            with torch.inference_mode(), autocast():
                found = teacher(batch.packed, batch.marks_T).float()
                parts = [*watch.hidden(), *(watch.relations() if relations else [])] if watch else []
            found = found[batch.order] if batch.order.shape[1] > 1 else found
            _put(outputs, batch, found.numpy(), isinstance(teacher.head, TokenHead))
            if parts:
                flat_TF = torch.cat([part.float() for part in parts], 1).half().numpy()
                if states is None:
                    sizes, states = (
                        [part.shape[1] for part in parts],
                        _file(len(encoded.ids.values), flat_TF.shape[1]),
                    )
                states[places(encoded.ids.offsets, batch.rows)] = flat_TF
    finally:
        if watch:
            watch.close()
    yield ProgressEvent(say("asking the teacher", "计算教师模型的输出"), len(groups), len(groups))
    yield Signals(outputs, states, encoded.ids.offsets, sizes, isinstance(teacher.head, TokenHead))


def _file(tokens: int, size: int) -> np.ndarray:
    """An array on the disk that goes when it is no longer used."""
    with tempfile.NamedTemporaryFile(prefix="weitiao-", delete=False) as file:
        path = Path(file.name)
    states = np.memmap(path, np.float16, "w+", shape=(tokens, size))
    path.unlink()  # the mapping keeps it alive; after a crash nothing is left
    return states


def _put(outputs: list[Any], batch: Any, values: np.ndarray, by_token: bool) -> None:
    if not by_token:
        for row, value in zip(batch.rows.tolist(), values, strict=True):
            outputs[row] = value
        return
    ends = np.cumsum(batch.packed.lengths_B.numpy())
    for row, value in zip(batch.rows.tolist(), np.split(values, ends[:-1]), strict=True):
        outputs[row] = value


def places(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where the tokens of some rows stand in a flat array."""
    return np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in rows])
