"""Packed batches: the tokens of several texts in one flat row, without padding.

Linear layers, normalisation and dropout see only real tokens. Attention alone needs texts apart: texts of
similar length form a group ``[B, L]``, so what little padding there is costs only the cheap part of a layer.

Shapes: T tokens in the batch, B texts, L the longest text of a group, H heads, D hidden size, d = D / H.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """A run of neighbouring texts whose attention is computed together.

    ``first`` and ``last`` bound its tokens in the flat row. Where the texts differ in length, ``padded_BL``
    (flat) gives for each cell of the rectangle the token in it (padding repeats token 0), ``real_t`` the
    cells that hold tokens, and ``bias_B1L`` is 0 for tokens and -inf for padding; where all lengths are equal
    they are None and no copy is made.
    """

    first: int
    last: int
    batch: int
    length: int
    padded_BL: Tensor | None = None
    real_t: Tensor | None = None
    bias_B1L: Tensor | None = None

    def to(self, device: torch.device | str) -> "Group":
        """The same group on another device."""
        padded, real, bias = (_move(t, device) for t in (self.padded_BL, self.real_t, self.bias_B1L))
        return Group(self.first, self.last, self.batch, self.length, padded, real, bias)


@dataclass(frozen=True)
class Packed:
    """One micro-batch of texts, sorted by length.

    ``ids_T`` and ``positions_T`` are int64 ``[T]``, and so is ``types_T``, each token's segment (0 for the
    first text of a pair, 1 for the second); None where all are 0. ``features_BKF`` are those of K pictures that come
    with each text (see ``bridge``). ``known_P2`` are pairs of a token and what the user's tables know of its word, as
    the number of an embedding; None where they are not looked up.
    """

    ids_T: Tensor
    positions_T: Tensor
    lengths_B: Tensor
    groups: tuple[Group, ...]
    types_T: Tensor | None = None
    features_BKF: Tensor | None = None
    known_P2: Tensor | None = None

    @cached_property
    def starts_B(self) -> Tensor:
        """The index of each text's first token, ``[B]``."""
        return torch.cumsum(self.lengths_B, 0) - self.lengths_B

    @cached_property
    def owner_T(self) -> Tensor:
        """The text each token belongs to, ``[T]``."""
        texts = torch.arange(len(self.lengths_B), device=self.ids_T.device)
        return torch.repeat_interleave(texts, self.lengths_B)

    def to(self, device: torch.device | str) -> "Packed":
        """The same batch on another device."""
        if self.ids_T.device == torch.device(device):
            return self

        groups = tuple(group.to(device) for group in self.groups)
        ids, positions, lengths = (t.to(device) for t in (self.ids_T, self.positions_T, self.lengths_B))
        rest = (_move(t, device) for t in (self.types_T, self.features_BKF, self.known_P2))
        return Packed(ids, positions, lengths, groups, *rest)


def _move(tensor: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)


def pack(ids: list[np.ndarray], first_position: int = 0, types: list[np.ndarray] | None = None) -> Packed:
    """Pack token ids of texts, which should be sorted by length: in another order groups hold more padding.

    Args:
        ids: one int array a text, none empty.
        first_position: the position id of a text's first token (0 for BERT, padding id + 1 for RoBERTa).
        types: one int array a text, its tokens' segments; None where all are 0.
    """
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    flat = _flat(ids)
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(len(flat)) - np.repeat(starts, lengths) + first_position
    groups = _groups(lengths)
    types_T = None if types is None else torch.from_numpy(_flat(types))
    ids_T, positions_T, lengths_B = map(torch.from_numpy, (flat, positions, lengths))
    return Packed(ids_T, positions_T, lengths_B, groups, types_T)


def widen(packed: Packed, count: int) -> tuple[Packed, Tensor, Tensor]:
    """The batch with ``count`` more tokens before each text, of id, position and segment 0.

    Returns:
        the wider batch, the places in it of the texts' own tokens ``[T]``, and of the new ones ``[B * count]``.
    """
    texts = torch.arange(len(packed.lengths_B), device=packed.ids_T.device)
    own_T = torch.arange(len(packed.ids_T), device=packed.ids_T.device) + count * (packed.owner_T + 1)
    starts_B = packed.starts_B + count * texts
    new_N = (starts_B.unsqueeze(1) + torch.arange(count, device=texts.device)).flatten()

    def spread(values_T: Tensor | None) -> Tensor | None:
        return (
            None
            if values_T is None
            else values_T.new_zeros(len(own_T) + len(new_N)).index_copy(0, own_T, values_T)
        )

    lengths_B = packed.lengths_B + count
    device = packed.ids_T.device
    ids_T, positions_T = spread(packed.ids_T), spread(packed.positions_T)
    assert ids_T is not None and positions_T is not None
    groups = _groups(lengths_B.cpu().numpy())
    wide = Packed(ids_T, positions_T, lengths_B, tuple(g.to(device) for g in groups), spread(packed.types_T))
    return wide, own_T, new_N


def _groups(lengths: np.ndarray) -> tuple[Group, ...]:
    starts = np.cumsum(lengths) - lengths
    return tuple(_group(starts, lengths, a, b) for a, b in _bounds(lengths))


def _flat(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(rows).astype(np.int64, copy=False)


def _bounds(lengths: np.ndarray, waste: float = 0.3, smallest: int = 8) -> list[tuple[int, int]]:
    """Cut sorted lengths into runs. A run ends when padding would exceed ``waste`` of it, but not below
    ``smallest`` texts: a call costs more than a little padding does."""
    bounds, start = [], 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths):
            bounds.append((start, end))
        elif end - start >= smallest:
            area = (end + 1 - start) * max(lengths[start], lengths[end])
            if 1 - lengths[start : end + 1].sum() / area > waste:
                bounds.append((start, end))
                start = end
    return bounds


def _group(starts: np.ndarray, lengths: np.ndarray, a: int, b: int) -> Group:
    first, last = int(starts[a]), int(starts[b - 1] + lengths[b - 1])
    size, longest = b - a, int(lengths[a:b].max())
    if (lengths[a:b] == longest).all():
        return Group(first, last, size, longest)
    column = np.arange(longest)
    real = column[None, :] < lengths[a:b, None]
    token = np.where(real, starts[a:b, None] - first + column[None, :], 0)
    bias = np.where(real, 0.0, -np.inf).astype(np.float32)[:, None, :]
    return Group(
        first,
        last,
        size,
        longest,
        torch.from_numpy(token.ravel()),
        torch.from_numpy(np.flatnonzero(real.ravel())),
        torch.from_numpy(bias),
    )
