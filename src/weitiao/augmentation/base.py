"""The contract of an augmentation: a text written otherwise, with the same label and with its spans still in place.

A member names the edits that it could make; how many of them are made, which, and where the spans come to lie is
settled here, the same for all. No edit crosses the border of a span, and none leaves a text or a span blank that was
not: so a span covers afterwards what became of the words that it covered before. No torch; the same ``random`` gives
the same text.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import NamedTuple

Span = tuple[int, int]  # first character, and the one after the last


class Edit(NamedTuple):
    """The characters from ``start`` to ``end`` (at least one) are to become ``new``."""

    start: int
    end: int
    new: str


@dataclass
class Augmentation(ABC):
    """One way to write a text otherwise. ``rate`` is the share of the possible edits that are made."""

    rate: float = 0.1  # no option of its own: the stage that uses the member has one for all

    def prepare(self) -> None:  # noqa: B027 (optional)
        """Read what the member needs, before the first text.

        Raises:
            WeitiaoError: a table is missing or cannot be read.
        """

    @abstractmethod
    def edits(self, text: str, random: Random) -> Iterable[Edit]:
        """All edits that could be made, each of which changes the text; they may overlap."""

    def apply(self, text: str, spans: Sequence[Span], random: Random) -> tuple[str, list[Span]]:
        """The text with ``rate`` of the possible edits made, at least one where one is possible, and its spans.

        A text in which nothing can be edited, and any text at rate 0, comes back as it was.

        Args:
            text: any text, an empty one too.
            spans: character offsets into it, which may overlap.
            random: where the choices come from.

        Raises:
            ValueError: a span lies outside the text.
        """
        outside = [span for span in spans if not 0 <= span[0] <= span[1] <= len(text)]
        if outside:
            raise ValueError(f"span {outside[0]} lies outside a text of {len(text)} characters")
        if self.rate <= 0:
            return text, list(spans)
        possible = [edit for edit in self.edits(text, random) if not _crosses(edit, spans)]
        chosen = _choose(possible, max(1, round(self.rate * len(possible))), random)
        kept = _without_blanks(text, [(0, len(text)), *spans], chosen)
        return _rewritten(text, spans, kept)


def _crosses(edit: Edit, spans: Sequence[Span]) -> bool:
    """Whether the edit has a border of a span inside it."""
    return any(edit.start < border < edit.end for span in spans for border in span)


def _choose(possible: list[Edit], count: int, random: Random) -> list[Edit]:
    """At most ``count`` of the edits, none over another, in the order of the text."""
    chosen: list[Edit] = []
    taken: set[int] = set()
    for edit in random.sample(possible, len(possible)):
        if len(chosen) == count:
            break
        places = range(edit.start, edit.end)
        if taken.isdisjoint(places):
            taken.update(places)
            chosen.append(edit)
    return sorted(chosen)


def _without_blanks(text: str, spans: Sequence[Span], edits: list[Edit]) -> list[Edit]:
    """The edits without those that together would leave one of the spans blank."""
    for start, end in spans:
        inside = [edit for edit in edits if start <= edit.start and edit.end <= end]
        if not inside or not text[start:end].strip():
            continue
        left = _rewritten(text[start:end], [], [Edit(e.start - start, e.end - start, e.new) for e in inside])
        if not left[0].strip():
            edits = [edit for edit in edits if edit not in inside]
    return edits


def _rewritten(text: str, spans: Sequence[Span], edits: list[Edit]) -> tuple[str, list[Span]]:
    """The text and the spans after edits that are sorted, don't overlap and cross no span's border."""
    parts: list[str] = []
    last = 0
    for edit in edits:
        parts += (text[last : edit.start], edit.new)
        last = edit.end
    ends = [edit.end for edit in edits]
    grown = [0, *accumulate(len(edit.new) - (edit.end - edit.start) for edit in edits)]

    def moved(place: int) -> int:
        return place + grown[bisect_right(ends, place)]

    return "".join((*parts, text[last:])), [(moved(start), moved(end)) for start, end in spans]
