"""A neighbouring key is hit, in Latin words and in the pinyin of Chinese / 误按相邻键：英文单词，或汉字的拼音."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random

from weitiao.augmentation._readings import readings, sounding
from weitiao.augmentation._words import as_written, words
from weitiao.augmentation.base import Augmentation, Edit

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # each half a key or so to the right of the one above


@dataclass
class Typo(Augmentation):
    """A letter becomes its neighbour on the keyboard; a Chinese character one whose pinyin that slip would give."""

    def edits(self, text: str, random: Random) -> Iterator[Edit]:
        for word in words(text):
            if word.chinese:
                others = slips(word.text)
                if others:
                    yield Edit(word.start, word.end, random.choice(others))
                continue
            for place, letter in enumerate(word.text, word.start):
                near = neighbours().get(letter.lower())
                if near:
                    yield Edit(place, place + 1, as_written(random.choice(near), letter))


@cache
def neighbours() -> dict[str, str]:
    """Letter -> the letters on the keys around it (QWERTY)."""
    found: dict[str, str] = {}
    for number, row in enumerate(ROWS):
        for place, key in enumerate(row):
            near = row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
            if number > 0:
                near += ROWS[number - 1][place : place + 2]
            if number + 1 < len(ROWS):
                near += ROWS[number + 1][max(place - 1, 0) : place + 1]
            found[key] = near
    return found


@cache
def slips(char: str) -> str:
    """The characters whose pinyin is this one's with one key mistaken for its neighbour."""
    groups, sound = sounding(False), readings().get(char, "")[:-1]
    typed = (
        sound[:place] + near + sound[place + 1 :]
        for place, key in enumerate(sound)
        for near in neighbours()[key]
    )
    return "".join(groups[other] for other in typed if other in groups)
