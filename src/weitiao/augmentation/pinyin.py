"""Chinese characters become their pinyin / 汉字换成拼音：如 微信 → wei信."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from weitiao.augmentation._readings import readings
from weitiao.augmentation.base import Augmentation, Edit


@dataclass
class Pinyin(Augmentation):
    """How a filter is dodged, or a character written that was forgotten. Each by its usual reading, without tones."""

    def edits(self, text: str, random: Random) -> Iterator[Edit]:
        sounds = readings()
        for place, char in enumerate(text):
            if char in sounds:
                yield Edit(place, place + 1, sounds[char][:-1])
