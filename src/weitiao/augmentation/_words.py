"""Where the words of a text are, without a dictionary: Latin words, and Chinese characters one by one."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_CHINESE = "\u3400-\u9fff\uf900-\ufaff"
_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
# What joins with the letter before it: accents, the selectors and the joiner of emoji.
_MARKS = "\u0300-\u036f\u20d0-\u20ff\ufe00-\ufe0f\u200d"
# A word beside a digit, or in an address, is part of a name or a number that means something else when it is changed.
_WORD = re.compile(
    rf"(?P<chinese>[{_CHINESE}])(?![{_MARKS}])"
    rf"|(?<![{_LATIN}{_MARKS}0-9_@/\\])(?<![A-Za-z0-9]\.)"
    rf"(?P<latin>[{_LATIN}]++(?:['’-][{_LATIN}]++)*+)(?![{_MARKS}0-9_@/\\]|\.[A-Za-z0-9])"
)


class Word(NamedTuple):
    """A Latin word or a Chinese character, from ``start`` to ``end``."""

    start: int
    end: int
    text: str
    chinese: bool


def words(text: str) -> Iterator[Word]:
    """The words in their order. Numbers, punctuation, emoji and addresses are none."""
    for found in _WORD.finditer(text):
        yield Word(found.start(), found.end(), found[0], found["chinese"] is not None)


def as_written(new: str, old: str) -> str:
    """``new`` in the case of ``old``: ``Good`` for ``Bad``, ``GOOD`` for ``BAD``."""
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new
