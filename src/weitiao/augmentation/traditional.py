"""Simplified characters become traditional ones / 简体转繁体."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from weitiao.augmentation._scripts import to_traditional
from weitiao.augmentation.base import Augmentation, Edit


@dataclass
class Traditional(Augmentation):
    """One for one: where the form depends on the word (发: 發, 髮), the more frequent one is written."""

    rate: float = 1.0  # mixed texts are rare

    def edits(self, text: str, random: Random) -> Iterator[Edit]:
        table = to_traditional()
        return (Edit(i, i + 1, table[char]) for i, char in enumerate(text) if char in table)
