"""Chinese characters become others that sound the same / 同音字替换：如 转账 → 转帐."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from weitiao.augmentation._readings import readings, sounding
from weitiao.augmentation.base import Augmentation, Edit
from weitiao.core.config import option


@dataclass
class Homophone(Augmentation):
    """The commonest slip of those who type pinyin. Common characters only, each by its usual reading."""

    same_tone: bool = option(False, "the tone must be the same, too", "声调也必须相同")

    def edits(self, text: str, random: Random) -> Iterator[Edit]:
        sounds, groups = readings(), sounding(self.same_tone)
        for place, char in enumerate(text):
            if char in sounds:
                sound = sounds[char] if self.same_tone else sounds[char][:-1]
                others = groups[sound].replace(char, "")
                if others:
                    yield Edit(place, place + 1, random.choice(others))
