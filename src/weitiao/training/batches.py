"""From an encoded table to optimizer steps: which texts go together, and how they are packed.

A step is ``batch_size`` examples drawn at random (seeded by run and epoch, so a resumed run draws the same). Its texts
are sorted by length and cut into micro-batches of at most ``micro_tokens`` real tokens; nothing is padded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weitiao.data.encode import Encoded, Ragged
from weitiao.models.images import Images
from weitiao.models.packed import pack


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        packed: what the model reads: ``Packed`` token ids, or ``Images``.
        rows: int ``[B]``, the examples in it, in the order of ``targets``.
        order: where each example's texts stand in the packed row, ``[B, per_example]``.
        targets: in the order of ``rows``; for token targets ``[T]`` in the order of the packed row.
        count: the valid targets.
        marks_T: ``[B, k]`` indices into the packed row, or ``[R]`` where texts have different numbers of them.
        facts: what an objective must know of the examples beside their targets, by name, ``[B, ...]``.
    """

    packed: Any
    rows: np.ndarray
    order: Tensor
    targets: Tensor | None
    count: int
    marks_T: Tensor | None = None
    tokens: int = 0
    facts: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        if device == "cpu":
            return self
        moved = [None if t is None else t.to(device) for t in (self.order, self.targets, self.marks_T)]
        order, targets, marks = moved
        assert order is not None
        facts = {name: fact.to(device) for name, fact in self.facts.items()}
        return Batch(self.packed.to(device), self.rows, order, targets, self.count, marks, self.tokens, facts)


class Batches:
    """Makes the steps of each epoch.

    Args:
        batch_size: examples a step.
        batch_tokens: if not 0, a step is as many examples as have about this many tokens, instead of ``batch_size``.
        micro_tokens: real tokens a micro-batch; 0 keeps a step whole (for losses that compare its examples).
        remap: new token ids by old ones, ``[vocabulary]`` (see ``embeddings``).
        augment: what makes other pictures of a batch's pixels, ``[B, C, H, W]``, in training only.
    """

    def __init__(
        self,
        encoded: Encoded,
        batch_size: int,
        seed: int,
        *,
        batch_tokens: int = 0,
        micro_tokens: int = 1536,
        first_position: int = 0,
        remap: np.ndarray | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.encoded, self.batch_size, self.seed = encoded, batch_size, seed
        self.batch_tokens, self.micro_tokens = batch_tokens, micro_tokens
        self.first_position, self.remap, self.augment = first_position, remap, augment
        self.steps_per_epoch = len(self.epoch(0)) if batch_tokens else -(-len(encoded) // batch_size)

    def epoch(self, number: int) -> list[np.ndarray]:
        """The examples of each step of an epoch."""
        order = np.random.default_rng([self.seed, number]).permutation(len(self.encoded))
        if not self.batch_tokens:
            return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        filled = np.cumsum(self.encoded.lengths[order]) // self.batch_tokens
        steps = np.split(order, np.flatnonzero(np.diff(filled)) + 1)
        # Every epoch has as many steps as the first, so that the schedule's length is known beforehand.
        wanted = getattr(self, "steps_per_epoch", len(steps))
        return steps if len(steps) == wanted else np.array_split(order, wanted)

    def step(self, rows: np.ndarray) -> list[Batch]:
        """The micro-batches of one step."""
        batches = [self.batch(part) for part in cut_by_tokens(rows, self.encoded.lengths, self.micro_tokens)]
        if self.augment is None:
            return batches
        augment = self.augment
        return [
            replace(b, packed=replace(b.packed, pixels_BCHW=augment(b.packed.pixels_BCHW))) for b in batches
        ]

    def batch(self, rows: np.ndarray) -> Batch:
        """Pack some examples."""
        if self.encoded.image_shape is not None:
            return self._pictures(rows)
        data, per = self.encoded, self.encoded.per_example
        texts = (rows[:, None] * per + np.arange(per)).ravel()
        sorted_by_length = np.argsort(data.ids.lengths[texts], kind="stable")
        place = np.empty(len(texts), np.int64)
        place[sorted_by_length] = np.arange(len(texts))
        if per == 1:  # the examples themselves can be put in the packed order
            rows, texts, place = rows[sorted_by_length], texts[sorted_by_length], np.arange(len(texts))
        else:
            texts = texts[sorted_by_length]
        ids = [
            data.ids[text] if self.remap is None else self.remap[data.ids[text]] for text in texts.tolist()
        ]
        types = [data.types[text] for text in texts.tolist()] if data.types is not None else None
        packed = pack(ids, self.first_position, types)
        if data.features is not None:
            packed = replace(packed, features_BKF=self._features(rows))
        if data.known is not None:
            starts = zip(texts.tolist(), packed.starts_B.tolist(), strict=True)
            pairs = [data.known[text].reshape(-1, 2) + np.array([start, 0]) for text, start in starts]
            packed = replace(packed, known_P2=torch.from_numpy(np.concatenate(pairs).astype(np.int64)))
        # The targets of marked tokens stand text by text, all others example by example.
        targets, count = self._targets(texts if isinstance(data.marks, Ragged) else rows)
        count = count if per == 1 else min(count, len(rows))
        marks = None
        if isinstance(data.marks, Ragged):
            starts = packed.starts_B.tolist()
            places = [data.marks[text] + start for text, start in zip(texts.tolist(), starts, strict=True)]
            marks = torch.from_numpy(np.concatenate(places).astype(np.int64))
        elif data.marks is not None:
            marks = torch.from_numpy(data.marks[rows].astype(np.int64)) + packed.starts_B.unsqueeze(1)
        order = torch.from_numpy(place.reshape(-1, per))
        return Batch(packed, rows, order, targets, count, marks, len(packed.ids_T), self._facts(rows))

    def _pictures(self, rows: np.ndarray) -> Batch:
        assert self.encoded.image_shape is not None
        pixels_BHWC = self.encoded.ids.values.reshape(-1, *self.encoded.image_shape)[rows]
        pixels_BCHW = torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).float().div_(255)
        images = Images(pixels_BCHW, self._features(rows))
        targets, count = self._targets(rows)
        order = torch.arange(len(rows)).unsqueeze(1)
        tokens = int(self.encoded.lengths[rows].sum())
        return Batch(images, rows, order, targets, count, tokens=tokens, facts=self._facts(rows))

    def _facts(self, rows: np.ndarray) -> dict[str, Tensor]:
        return {name: torch.from_numpy(fact[rows]) for name, fact in self.encoded.facts.items()}

    def _features(self, rows: np.ndarray) -> Tensor | None:
        features = self.encoded.features
        return None if features is None else torch.from_numpy(features[rows])

    def _targets(self, rows: np.ndarray) -> tuple[Tensor | None, int]:
        targets = self.encoded.targets
        if targets is None:
            return None, 0
        if isinstance(targets, Ragged):
            flat = torch.from_numpy(np.concatenate([targets[row] for row in rows]).astype(np.int64))
            return flat, int((flat >= 0).sum())
        return torch.from_numpy(targets[rows]), len(rows)


def cut_by_tokens(rows: np.ndarray, lengths: np.ndarray, most: int) -> list[np.ndarray]:
    """Sort examples by length and cut them into equal parts of at most about ``most`` tokens (0: one part)."""
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    total = int(lengths[rows].sum())
    if not most or total <= most:
        return [rows]
    parts = -(-total // most)
    reached = np.cumsum(lengths[rows])
    edges = np.searchsorted(reached, total * np.arange(1, parts) / parts, side="right")
    return [part for part in np.split(rows, edges) if len(part)]


def in_order(encoded: Encoded, tokens: int = 4096) -> Iterator[np.ndarray]:
    """All examples, longest first, in groups of at most about ``tokens`` tokens: for evaluation and prediction."""
    lengths = encoded.lengths
    order = np.argsort(-lengths, kind="stable")
    filled = np.cumsum(lengths[order]) // tokens
    return iter(np.split(order, np.flatnonzero(np.diff(filled)) + 1) if len(order) else [])
