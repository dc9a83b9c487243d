"""Cuts through a split: by length, by language, by digits, and by any further column that was given."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from weitiao.evaluation.base import Predictions

CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
LATIN_WORD = re.compile(r"[A-Za-z]+")
MOSTLY = 0.9  # a Chinese text with one English name in it is still Chinese
MOST_VALUES = 50  # a column with more values than this is an identifier or a number, not a slice


def language_of(text: str) -> str:
    """``zh``, ``en``, ``mixed``, or ``other`` for a text with neither Chinese characters nor Latin words."""
    chinese, latin = len(CHINESE.findall(text)), len(LATIN_WORD.findall(text))
    if not chinese + latin:
        return "other"
    share = chinese / (chinese + latin)
    return "zh" if share >= MOSTLY else "en" if share <= 1 - MOSTLY else "mixed"


def languages_of(texts: Sequence[str]) -> list[str]:
    """The language of each text."""
    return [language_of(text) for text in texts]


def smallest_slice(rows: int) -> int:
    """How many of ``rows`` a slice must hold for its score to mean anything: 20, or 2 % if that is more."""
    return max(20, -(-rows // 50))


def text_slices(predictions: "Predictions") -> list[tuple[str, str, np.ndarray]]:
    """Every slice known without the answers: (what it is cut by, its value, bool [N])."""
    found = []
    columns: dict[str, Sequence[object]] = dict(predictions.extra.get("slices", {}))
    if "pictures" not in predictions.extra:
        found = _length_slices(predictions.texts)
        digits = ["yes" if any(mark.isdigit() for mark in text) else "no" for text in predictions.texts]
        columns = {"language": languages_of(predictions.texts), "digits": digits, **columns}
    for by, values in columns.items():
        named = np.array([str(value) for value in values])
        distinct = np.unique(named)
        if len(distinct) <= MOST_VALUES:
            found += [(by, str(value), named == value) for value in distinct]
    return found


def _length_slices(texts: Sequence[str]) -> list[tuple[str, str, np.ndarray]]:
    """Quarters of the texts by their length in characters; fewer where many texts are equally long."""
    lengths = np.array([len(text) for text in texts])
    edges = np.unique(np.quantile(lengths, [0.25, 0.5, 0.75], method="lower"))
    quarter = np.searchsorted(edges, lengths, side="left")
    found = []
    for index in np.unique(quarter):
        inside = quarter == index
        low, high = lengths[inside].min(), lengths[inside].max()
        found.append(("length", f"{low}-{high}" if low < high else f"{low}", inside))
    return found
