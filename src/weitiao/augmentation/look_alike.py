"""Chinese characters become others that look alike / 形近字替换：如 未 → 末."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from weitiao.augmentation._look_alikes import look_alikes
from weitiao.augmentation.base import Augmentation, Edit


@dataclass
class LookAlike(Augmentation):
    """What handwriting and scanned pages are misread as."""

    def edits(self, text: str, random: Random) -> Iterator[Edit]:
        table = look_alikes()
        for place, char in enumerate(text):
            if char in table:
                yield Edit(place, place + 1, random.choice(table[char]))
