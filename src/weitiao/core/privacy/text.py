"""What all detectors share: spans, folding of a text's disguises, check digits, and the words around a number."""

import datetime
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

HAN = re.compile(r"[\u3400-\u9fff]")
INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")


class Span(NamedTuple):
    """Characters ``start .. end - 1`` of a text are personal data of a kind."""

    kind: str
    start: int
    end: int


def _table() -> dict[int, str]:
    """One character for one: full-width forms, the digits of other scripts, the many spaces and dashes."""
    table = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    table |= dict.fromkeys([0x3000, 0xA0, 0x202F, *range(0x2000, 0x200B)], " ")
    table |= dict.fromkeys([*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63], "-")
    for zero in (0x660, 0x6F0, 0x966, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6):
        table |= {zero + digit: str(digit) for digit in range(10)}
    table |= {0x2460 + digit: str(digit + 1) for digit in range(9)} | {0x24EA: "0"}
    return table


FOLDED = _table()


def fold(text: str) -> tuple[str, list[int] | None]:
    """A text in plain characters, and the place of each in the original (None: the same places)."""
    if text.isascii():
        return text, None
    folded = text.translate(FOLDED)
    if not INVISIBLE.search(folded):
        return folded, None
    places = [place for place, mark in enumerate(folded) if not INVISIBLE.match(mark)]
    return "".join(folded[place] for place in places), places


Accept = Callable[[re.Match[str]], bool]


def search(kind: str, pattern: re.Pattern[str], text: str, accept: Accept | None = None) -> Iterator[Span]:
    """Spans of a pattern's group 1 that ``accept`` takes. A refused match hides none that begins inside it."""
    place = 0
    while match := pattern.search(text, place):
        if accept is None or accept(match):
            yield Span(kind, match.start(1), match.end(1))
            place = max(match.end(1), match.start() + 1)
        else:
            place = match.start() + 1


def digits(text: str) -> str:
    """The digits, and the X that may end an ID card's number."""
    return "".join(mark for mark in text.upper() if mark.isdigit() or mark == "X")


def luhn(number: str) -> bool:
    """Whether a card's last digit fits the others (ISO/IEC 7812)."""
    total = 0
    for place, mark in enumerate(reversed(number)):
        value = int(mark) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def mod_97(number: str) -> bool:
    """Whether an IBAN's check digits fit (ISO 13616)."""
    turned = number[4:] + number[:4]
    return int("".join(str(int(mark, 36)) for mark in turned)) % 97 == 1


def is_date(year: int, month: int, day: int) -> bool:
    """Whether somebody alive may have been born on that day."""
    try:
        return datetime.date(1880, 1, 1) <= datetime.date(year, month, day) <= datetime.date.today()
    except ValueError:
        return False


# A label right before a number decides what it is: the last one counts ("快递单号和电话：...").
LABEL = re.compile(
    r"(?P<other>(?:订单|运单|快递|物流|包裹|交易|流水|商品|产品|货品|发票|合同|保单|工单|批次|设备|序列|条形?|追溯|防伪|"
    r"凭证|案件|票据|采购|出库|入库|参考|备案|许可证?|款|货|型|单|批|编|条|取件|验证|校验|会员|学|工|座位)编?[号码]|时间戳|"
    r"运单|SKU|(?i:\b(?:order|invoice|tracking|sku|part|item|model|serial|ref(?:erence)?|ticket|case|product|batch|lot|"
    r"isbn|upc|ean|barcode|version|build|transaction|txn|confirmation|po|timestamp|parcel)"
    r"(?:[ _-]?(?:no|number|num|id|code))?\b))"
    r"|(?P<personal>电话|手机|联系|致电|拨打|来电|热线|座机|固话|传真|微信|身份证|证件|护照|卡号|账号|账户|帐号|帐户|银行卡|"
    r"(?i:\b(?:phone|tel|telephone|mobile|cell|call|fax|contact|whatsapp|card|account|acct|passport|ssn)\b))"
)
STOPS = re.compile(r"[，。；！？,;!?\n]")
MONEY_BEFORE = re.compile(r"(?:[¥￥$€£]|(?i:rmb|usd|cny|eur)) ?[0-9,]*\Z")
MONEY_AFTER = re.compile(
    r"(?:\.[0-9]{1,2})? ?(?:元|万|亿|块钱|美元|港元|欧元|日元|英镑|%|吨|公里|字节|毫秒|(?:bytes|ms|KB|MB)\b)"
)


def is_other(text: str, start: int, end: int) -> bool:
    """Whether the words around a number say that it is no person's: an order's, a product's, an amount."""
    if MONEY_BEFORE.search(text, max(0, start - 8), start) or MONEY_AFTER.match(text, end):
        return True
    before = text[max(0, start - 20) : start]
    stops = [match.end() for match in STOPS.finditer(before)]
    labels = list(LABEL.finditer(before, stops[-1] if stops else 0))
    if not labels or any(mark.isdigit() for mark in before[labels[-1].end() :]):
        return False  # no label, or one that another number follows: it was about that one
    return labels[-1].lastgroup == "other"
