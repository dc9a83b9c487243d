"""Full-width letters, digits and signs become plain ones / 全角转半角：如 Ａ１！ → A1!."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from weitiao.augmentation.base import Augmentation, Edit

SPACE = "\u3000"


@dataclass
class HalfWidth(Augmentation):
    """What has a counterpart in ASCII, Chinese commas too; 。 and 、 have none."""

    rate: float = 1.0  # mixed texts are rare

    def edits(self, text: str, random: Random) -> Iterator[Edit]:
        for place, char in enumerate(text):
            if "\uff01" <= char <= "\uff5e":
                yield Edit(place, place + 1, chr(ord(char) - 0xFEE0))
            elif char == SPACE:
                yield Edit(place, place + 1, " ")
