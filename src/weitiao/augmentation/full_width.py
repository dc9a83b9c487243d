"""Letters, digits and signs become full-width ones / 半角转全角：如 A1! → Ａ１！."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from weitiao.augmentation.base import Augmentation, Edit


@dataclass
class FullWidth(Augmentation):
    """Printable ASCII, as a Chinese keyboard types it in full-width mode. Spaces stay: tokenizers cut words there."""

    rate: float = 1.0  # mixed texts are rare

    def edits(self, text: str, random: Random) -> Iterator[Edit]:
        return (Edit(i, i + 1, chr(ord(char) + 0xFEE0)) for i, char in enumerate(text) if "!" <= char <= "~")
