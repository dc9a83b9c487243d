"""Words are left out, of Chinese single characters / 随机删除：英文按词，中文按字."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from weitiao.augmentation._words import words
from weitiao.augmentation.base import Augmentation, Edit

# Without these a text says the opposite, and its label would be wrong.
NEGATIONS = frozenset("不没未无非别莫勿否") | {"no", "not", "never", "none", "nothing", "without", "cannot"}


@dataclass
class Deletion(Augmentation):
    """Source: Wei & Zou 2019, "EDA". Negations, numbers and addresses stay."""

    def edits(self, text: str, random: Random) -> Iterator[Edit]:
        for word in words(text):
            plain = word.text.lower()
            if plain not in NEGATIONS and not plain.endswith(("n't", "n’t")):
                # With a Latin word goes the space after it.
                spaced = not word.chinese and text[word.end : word.end + 1] == " "
                yield Edit(word.start, word.end + spaced, "")
