"""From a corpus in blocks to optimizer steps: as ``Batches`` for a table, what is predicted drawn anew each time."""

from typing import Any, Protocol

import numpy as np
import torch

from weitiao.data.token_stream import Blocks
from weitiao.models.packed import pack
from weitiao.training.batches import Batch

PAIR = -2  # the target of a pair is this, less its answer; see ``models.language_head``


class Maker(Protocol):
    """What makes examples of blocks: ``pretraining._composed.Composed``."""

    @property
    def decoder(self) -> bool:
        """Whether they are for causal models."""

    def examples(self, blocks: list[np.ndarray], random: np.random.Generator) -> list[Any]:
        """What the model reads and predicts (``pretraining.base.Example``)."""


class CorpusBatches:
    """Makes the steps of each epoch, with the interface that the loop and the estimate use of ``Batches``.

    Args:
        composed: what makes examples of blocks.
        batch_tokens: about so many tokens a step.
        micro_tokens: about so many go through the model at once.
        remap: new token ids by old ones (see ``embeddings``).
    """

    def __init__(
        self,
        blocks: Blocks,
        composed: Maker,
        seed: int,
        *,
        batch_tokens: int,
        micro_tokens: int,
        first_position: int = 0,
        remap: np.ndarray | None = None,
    ) -> None:
        self.encoded, self.composed, self.seed = blocks, composed, seed
        self.batch_size = max(batch_tokens // blocks.size, 1)
        self.micro = max(micro_tokens // blocks.size, 1)
        self.first_position, self.remap = first_position, remap
        self.steps_per_epoch = -(-len(blocks) // self.batch_size)

    def epoch(self, number: int) -> list[np.ndarray]:
        """The blocks of each step of an epoch."""
        order = np.random.default_rng([self.seed, number]).permutation(len(self.encoded))
        return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]

    def step(self, rows: np.ndarray) -> list[Batch]:
        """The micro-batches of one step. What is drawn follows from torch's generator, which the loop seeds by step."""
        return self.drawn(rows, np.random.default_rng(int(torch.randint(2**62, ()))))

    def drawn(self, rows: np.ndarray, random: np.random.Generator) -> list[Batch]:
        """The micro-batches of some blocks, with what ``random`` draws."""
        examples = self.composed.examples([self.encoded[row] for row in rows.tolist()], random)
        order = np.argsort([len(example.ids) for example in examples], kind="stable")
        parts = [order[i : i + self.micro] for i in range(0, len(order), self.micro)]
        return [self._batch(rows[part], [examples[i] for i in part]) for part in parts]

    def _batch(self, rows: np.ndarray, examples: list[Any]) -> Batch:
        ids, targets = [example.ids for example in examples], [example.targets for example in examples]
        if self.remap is not None:
            ids, targets = [self.remap[part] for part in ids], [self.remap[part] for part in targets]
        types = None if examples[0].types is None else [_types(example) for example in examples]
        packed = pack(ids, self.first_position, types)
        starts = packed.starts_B.numpy()
        marks = np.concatenate(
            [example.marks + start for example, start in zip(examples, starts, strict=True)]
        )
        flat = np.concatenate(targets)
        count = len(flat)
        if examples[0].pair >= 0:
            flat = np.concatenate([flat, [PAIR - max(example.pair, 0) for example in examples]])
            count = count or len(examples)
        order = torch.arange(len(rows)).unsqueeze(1)
        marks_T, targets_R = torch.from_numpy(marks), torch.from_numpy(flat.astype(np.int64))
        return Batch(packed, rows, order, targets_R, count, marks_T, len(packed.ids_T))


def _types(example: Any) -> np.ndarray:
    types = example.types
    return np.zeros(len(example.ids), np.int64) if types is None else types
