"""Encoded texts in padded batches of like length, each within a budget of tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from weitiao.data.encode import Encoded, Ragged

# Padded tokens of a batch: large enough for the matrix products, small enough that activations stay in the cache.
TOKENS = 2048


@dataclass(frozen=True)
class Batch:
    """Texts of like length. ``rows`` are their places in ``encoded.ids``; ``inputs`` the graph's arrays."""

    rows: np.ndarray
    lengths: np.ndarray
    inputs: dict[str, np.ndarray]


def batches(encoded: Encoded, wanted: list[str], padding: int, tokens: int = TOKENS) -> Iterator[Batch]:
    """Batches from the longest text to the shortest; every row of ``encoded.ids`` is in one.

    Args:
        wanted: the graph's inputs, of ``input_ids``, ``attention_mask``, ``token_type_ids``, ``marks``.
        padding: the id that fills up shorter texts; the mask hides it.
    """
    lengths = encoded.ids.lengths
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        rows = order[start : start + max(tokens // longest, 1)]
        start += len(rows)
        yield Batch(rows, lengths[rows], _inputs(encoded, rows, longest, wanted, padding))


def _inputs(
    encoded: Encoded, rows: np.ndarray, longest: int, wanted: list[str], padding: int
) -> dict[str, np.ndarray]:
    found = {}
    if "input_ids" in wanted:
        found["input_ids"] = rectangle(encoded.ids, rows, longest, padding)
    if "attention_mask" in wanted:
        real = np.arange(longest) < encoded.ids.lengths[rows, None]
        found["attention_mask"] = real.astype(np.int64)
    if "token_type_ids" in wanted:
        zeros = np.zeros((len(rows), longest), np.int64)
        found["token_type_ids"] = (
            zeros if encoded.types is None else rectangle(encoded.types, rows, longest, 0)
        )
    if "marks" in wanted:
        assert isinstance(encoded.marks, np.ndarray)
        found["marks"] = encoded.marks[rows].astype(np.int64)
    return found


def rectangle(ragged: Ragged, rows: np.ndarray, longest: int, padding: int) -> np.ndarray:
    """Some rows as int64 ``[B, longest]``, filled up with ``padding``."""
    filled = np.full((len(rows), longest), padding, np.int64)
    for place, row in enumerate(rows):
        values = ragged[row]
        filled[place, : len(values)] = values
    return filled
