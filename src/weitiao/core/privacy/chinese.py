"""Personal data as it is written in China: ID cards, telephones, bank cards, passports, plates, names, addresses."""

import re
from collections.abc import Iterator

from weitiao.core.privacy.names import name_spans
from weitiao.core.privacy.places import address_spans
from weitiao.core.privacy.text import HAN, Span, digits, is_date, is_other, luhn, search

# The first two digits of an ID card: provinces (GB/T 2260), Hong Kong, Macao and Taiwan included.
PROVINCES = frozenset(
    map(str, [*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66), 71, 81,
              82, 83])
)  # fmt: skip
GAP = r"(?: ?[-.·] ?| {1,2})"
ID_18 = re.compile(  # in one piece (the last digit may be forgotten), as 6-8-4, or grouped in any way
    r"(?<![0-9])([1-8][0-9]{16}[0-9Xx]?|[1-8][0-9]{5}[ -][0-9]{8}[ -][0-9]{3}[0-9Xx]"
    r"|(?<![0-9][ -])[1-8](?:[ -]?[0-9]){16}[ -]?[0-9Xx])(?![0-9])"
)
ID_15 = re.compile(r"(?<![0-9A-Za-z.])(?<![0-9][ -])([1-8][0-9]{5}([ -]?)[0-9]{6}\2[0-9]{3})(?![0-9A-Za-z])")
ID_LABELLED = re.compile(
    r"(?:身份证|证件)(?:号码?|编号)?[^0-9A-Za-z\n，。]{0,6}([0-9]{14,18}[0-9Xx]?)(?![0-9])"
)
MOBILE = re.compile(
    rf"(?<![0-9])((?:[(（]?(?:\+ ?|00)?86[)）]?{GAP}?)?"
    rf"1[3-9](?:[0-9]{GAP}?[0-9]{{4}}{GAP}?[0-9]{{4}}|[0-9]{{9}}|[0-9]{GAP}[0-9]{{3}}{GAP}[0-9]{{5}}"
    rf"|[0-9]{{2}}{GAP}[0-9]{{3}}{GAP}[0-9]{{4}}|[0-9]{{3}}{GAP}[0-9]{{6}}|[0-9]{{4}}{GAP}[0-9]{{5}}"
    rf"|[0-9]{{3}}{GAP}[0-9]{{3}}{GAP}[0-9]{{3}}))(?![0-9])"
)
SPELLED = re.compile(r"(?<![零〇幺一二两三四五六七八九])([幺一][三四五六七八九][零〇幺一二两三四五六七八九]{9})"
                     r"(?![零〇幺一二两三四五六七八九])")  # fmt: skip
CITY = r"(?:10|2[0-9]|[3-9][0-9]{2})"
LANDLINE = re.compile(
    rf"(?<![0-9A-Za-z.])((?:(?:\+|00)?86{GAP}?0?{CITY}{GAP}?|\(0{CITY}\) ?|0{CITY}{GAP}?)"
    rf"[2-8][0-9]{{2,3}}[- ]?[0-9]{{4}}(?: ?(?:转|-|ext\.?) ?[0-9]{{1,5}}(?![0-9]))?)(?![0-9A-Za-z])"
)
LANDLINE_LABELLED = re.compile(
    r"(?:座机|固话|固定电话|家庭电话|办公电话|电话|传真)[^0-9A-Za-z\n，。]{0,4}([2-8][0-9]{2,3}[- ]?[0-9]{4}(?:[-转][0-9]{1,5})?)(?![0-9-])"
)
CARD = re.compile(
    r"(?<![0-9A-Za-z.])((?:[3-6]|2[2-7])(?:[0-9]{11,17}[0-9]|[0-9]{2,3}(?:([ -])[0-9]{4})"
    r"(?:\2[0-9]{4}){2}(?:\2[0-9]{1,3})?"
    r"|[0-9]{5}([ -])[0-9]{10,13}|[0-9]{3}([ -])[0-9]{6}\4[0-9]{5}))(?![0-9A-Za-z])"
)
CARD_LABELLED = re.compile(
    r"(?:银行卡|储蓄卡|信用卡|借记卡|卡号|账号|账户|帐号|帐户)[^0-9A-Za-z\n，。]{0,8}"
    r"((?:[0-9][ -]?){14,18}[0-9])(?![0-9])"
)
PASSPORT = re.compile(
    r"(?<![0-9A-Za-z-])([EGDSP][0-9]{8}|E[A-HJ-NP-Z][0-9]{7}|[PSD][0-9]{7})(?![0-9A-Za-z-])"
)
PERMIT = re.compile(
    r"(?:护照|通行证|回乡证|台胞证)[^0-9A-Za-z\n，。]{0,8}([A-Za-z]{1,2} ?[0-9]{6,10}|[0-9]{8,10})(?![0-9A-Za-z])"
)
PLATE = re.compile(
    r"((?:WJ ?)?[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使][A-HJ-NP-Za-hj-np-z] ?[-·.•]? ?"
    r"(?:[DFdf][A-HJ-NP-Za-hj-np-z0-9][0-9]{4}|[0-9]{5}[DFdf]|[A-HJ-NP-Za-hj-np-z0-9]{4}[A-HJ-NP-Za-hj-np-z0-9挂学警港澳]))"
    r"(?![0-9A-Za-z])"
)
PHONE_WORDS = frozenset(
    ("tel", "phone", "mobile", "mob", "call", "cell", "ph", "wechat", "wx", "vx", "v", "t", "m")
)
WORD_BEFORE = re.compile(r"([A-Za-z]+)[-_.]?\Z")


def spans(text: str) -> Iterator[Span]:
    """What is found in a folded text. Spans may overlap."""
    if any(mark.isdigit() for mark in text):
        yield from _numbers(text)
    if HAN.search(text):
        yield from search("mobile", SPELLED, text)
        yield from name_spans(text)
        yield from address_spans(text)


def _numbers(text: str) -> Iterator[Span]:
    yield from search("id_card", ID_18, text, lambda m: _is_id_18(digits(m[1])))
    yield from search("id_card", ID_15, text, lambda m: _is_id_15(digits(m[1])) and not _other(text, m))
    yield from search("id_card", ID_LABELLED, text)
    yield from search("mobile", MOBILE, text, lambda m: _is_mobile(text, m))
    yield from search("landline", LANDLINE, text, lambda m: not _other(text, m))
    yield from search("landline", LANDLINE_LABELLED, text)
    yield from search("bank_card", CARD, text, lambda m: _is_card(digits(m[1])) and not _other(text, m))
    yield from search("bank_card", CARD_LABELLED, text)
    yield from search("passport", PASSPORT, text, lambda m: not _other(text, m))
    yield from search("passport", PERMIT, text)
    yield from search("plate", PLATE, text, lambda m: sum(mark.isdigit() for mark in m[1]) >= 2)


def _other(text: str, match: re.Match[str]) -> bool:
    return is_other(text, match.start(1), match.end(1))


def _is_id_18(number: str) -> bool:
    """Province and date of birth are right; the check digit may be wrong (a slip, or a disguise)."""
    if number[:2] not in PROVINCES or not number[:17].isdigit():
        return False
    return is_date(int(number[6:10]), int(number[10:12]), int(number[12:14]))


def _is_id_15(number: str) -> bool:
    """The form before 1999: the year has two digits, and there is no check digit."""
    return number[:2] in PROVINCES and is_date(1900 + int(number[6:8]), int(number[8:10]), int(number[10:12]))


def _is_card(number: str) -> bool:
    """A known issuer's prefix with a length of its cards, and the check digit is right."""
    length = len(number)
    if number.startswith(("62", "60", "81")):
        fits = 16 <= length <= 19
    elif number[0] in "45" or "2221" <= number[:4] <= "2720":
        fits = length == 16 or (number[0] in "45" and length == 19)
    elif number.startswith(("34", "37")):
        fits = length == 15
    else:
        fits = number.startswith(("35", "30", "36", "38", "64", "65", "69")) and length in (14, 16, 19)
    return fits and luhn(number)


def _is_mobile(text: str, match: re.Match[str]) -> bool:
    """No piece of a longer code, of a decimal number or of a hash, and no label of an order before it."""
    start, end = match.span(1)
    before, after = text[max(0, start - 12) : start], text[end : end + 1]
    if before and before[-1] in "-_." and before[-2:-1].isdigit():
        return False
    word = WORD_BEFORE.search(before)
    if word and word[1].lower() not in PHONE_WORDS:
        return False
    rest = re.match(r"[A-Za-z0-9]*", text[end : end + 40])
    if after.isascii() and after.isalpha() and rest and any(mark.isdigit() for mark in rest[0]):
        return False
    return match[1].startswith(("+", "(+")) or not _other(text, match)
