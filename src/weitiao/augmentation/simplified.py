"""Traditional characters become simplified ones / 繁体转简体."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from weitiao.augmentation._scripts import to_simplified
from weitiao.augmentation.base import Augmentation, Edit


@dataclass
class Simplified(Augmentation):
    """One for one."""

    rate: float = 1.0  # mixed texts are rare

    def edits(self, text: str, random: Random) -> Iterator[Edit]:
        table = to_simplified()
        return (Edit(i, i + 1, table[char]) for i, char in enumerate(text) if char in table)
