"""Personal data in Chinese and English texts: found, and masked before a text is kept, logged or answered.

``find`` names what it is and where; ``mask`` puts a tag with the length in its place (``<手机号:11>``). A text's own
language decides the tag's. Rules only, no model: some microseconds a text, the same answer every time.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator
from typing import Any

from weitiao.core.privacy import chinese, english
from weitiao.core.privacy.text import HAN, Span, fold

__all__ = ["TAGS", "Masking", "Span", "find", "mask", "mask_value"]

TAGS = {
    "secret": ("SECRET", "密钥"),
    "email": ("EMAIL", "邮箱"),
    "id_card": ("ID_CARD", "身份证号"),
    "iban": ("IBAN", "国际银行账号"),
    "bank_card": ("BANK_CARD", "银行卡号"),
    "mobile": ("MOBILE", "手机号"),
    "landline": ("LANDLINE", "座机号"),
    "ssn": ("SSN", "社会安全号"),
    "phone": ("PHONE", "电话"),
    "passport": ("PASSPORT", "护照号"),
    "plate": ("PLATE", "车牌号"),
    "name": ("NAME", "姓名"),
    "address": ("ADDRESS", "地址"),
}
TAG = re.compile(rf"<(?:{'|'.join(tag for tags in TAGS.values() for tag in tags)})(?::[0-9]{{1,5}})?>")
Finder = Callable[[str], list[Span]]


def find(text: str) -> list[Span]:
    """The personal data in a text, in order, without overlaps.

    Full-width digits, other scripts' digits and invisible characters between digits do not hide a number. Where two
    kinds claim the same characters, the kind that stands first in ``TAGS`` has them.
    """
    folded, places = fold(text)
    if "<" in folded:  # tags of an earlier masking are no labels and no data
        folded = TAG.sub(lambda tag: "\n" * len(tag[0]), folded)
    found = [*chinese.spans(folded), *english.spans(folded)]
    if not found:
        return []
    spans = _settled(found)
    if places is None:
        return spans
    return [Span(span.kind, places[span.start], places[span.end - 1] + 1) for span in spans]


def mask(text: str, *, lengths: bool = True) -> str:
    """The text with a tag in place of each find. Masking a masked text changes nothing."""
    return masked(text, find(text), lengths)


def masked(text: str, spans: list[Span], lengths: bool = True) -> str:
    """The text with tags in place of these spans, which are in order and do not overlap."""
    if not spans:
        return text
    language = 1 if HAN.search(text) else 0
    parts, end = [], 0
    for span in spans:
        tag = TAGS.get(span.kind, (span.kind.upper(), span.kind.upper()))[language]
        parts += [text[end : span.start], f"<{tag}:{span.end - span.start}>" if lengths else f"<{tag}>"]
        end = span.end
    return "".join([*parts, text[end:]])


def mask_value(value: Any) -> Any:
    """The same for every text in a JSON-like value, keys and long whole numbers included."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {mask_value(key): mask_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [mask_value(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10**10:
        hidden = mask(str(value))
        return value if hidden == str(value) else hidden
    return value


class Masking:
    """Masking with further finders beside Weitiao's own, such as Presidio's.

    Args:
        presidio: ``auto`` uses it where ``presidio-analyzer`` is installed, ``on`` needs it, ``off`` does without.

    Raises:
        WeitiaoError: ``on``, and it is not installed.
    """

    def __init__(self, presidio: str = "off", finders: tuple[Finder, ...] = ()) -> None:
        self.finders = finders
        there = importlib.util.find_spec("presidio_analyzer") is not None
        if presidio == "on" or (presidio == "auto" and there):
            from weitiao.core.privacy.presidio import Presidio

            self.finders = (*finders, Presidio().find)

    def find(self, text: str) -> list[Span]:
        """What any finder finds; Weitiao's own kinds go before others where they overlap."""
        return _settled([*find(text), *(span for finder in self.finders for span in finder(text))])

    def mask(self, text: str) -> str:
        """The text with tags in place of the finds."""
        return masked(text, self.find(text))


def _settled(spans: list[Span]) -> list[Span]:
    """Spans without overlaps: a later kind keeps what an earlier one leaves of it, if that is 2 characters or more."""
    order = {kind: place for place, kind in enumerate(TAGS)}
    joined: list[Span] = []
    for span in sorted(spans, key=lambda one: (order.get(one.kind, 99), one.kind, one.start)):
        before = joined[-1] if joined else None
        if before and before.kind == span.kind and span.start < before.end:
            joined[-1] = Span(span.kind, before.start, max(before.end, span.end))
        else:
            joined.append(span)
    kept: list[Span] = []
    for span in joined:
        kept += list(_left(span, kept))
    return sorted(kept, key=lambda span: span.start)


def _left(span: Span, taken: list[Span]) -> Iterator[Span]:
    start = span.start
    for other in sorted(taken, key=lambda one: one.start):
        if other.end <= start or other.start >= span.end:
            continue
        if other.start - start >= 2:
            yield Span(span.kind, start, other.start)
        start = max(start, other.end)
    if span.end - start >= 2 or (start == span.start and span.end > start):
        yield Span(span.kind, start, span.end)
