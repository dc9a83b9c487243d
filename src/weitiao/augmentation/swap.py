"""Neighbouring words change places, of Chinese single characters / 随机交换：英文按词，中文按字."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from weitiao.augmentation._words import words
from weitiao.augmentation.base import Augmentation, Edit


@dataclass
class Swap(Augmentation):
    """Two words with nothing or one space between them. Source: Wei & Zou 2019, "EDA", for words apart."""

    def edits(self, text: str, random: Random) -> Iterator[Edit]:
        for left, right in pairwise(words(text)):
            between = text[left.end : right.start]
            if between in ("", " ") and left.text != right.text:
                yield Edit(left.start, right.end, right.text + between + left.text)
