"""Personal data as it is written in English texts, and what is written alike everywhere: e-mail, IBAN, secrets."""

import re
from collections.abc import Iterator

from weitiao.core.privacy.names import ENGLISH_LABEL
from weitiao.core.privacy.places import ENGLISH as ADDRESS
from weitiao.core.privacy.text import Span, is_other, mod_97, search

EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])([A-Za-z0-9_%+][A-Za-z0-9._%+-]*+ ?(?:@|\[at\]|\(at\)) ?"
    r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,})"
)
SECRET = re.compile(
    r"(?<![A-Za-z0-9_])(wt_[a-z2-7]{8}_[A-Za-z0-9_-]{20,}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"
    r"|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16})"
)
IBAN = re.compile(
    r"(?<![0-9A-Za-z])([A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?)(?![0-9A-Za-z])"
)
IBAN_LABELLED = re.compile(
    r"\bIBAN\b[^0-9A-Za-z\n]{0,4}([A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?)\b"
)
SSN = re.compile(r"(?<![0-9A-Za-z-])((?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4})(?![0-9A-Za-z-])")
SSN_LABELLED = re.compile(
    r"(?i:\bssn\b|social security)[^0-9\n]{0,14}([0-9]{3}[ -]?[0-9]{2}[ -]?[0-9]{4})(?![0-9])"
)
# Numbers that are free to call (and 400, China's) belong to companies.
PHONE = re.compile(
    r"(?<![0-9A-Za-z.-])((?:\+?1[-. ])?(?!\(?(?:400|8(?:00|33|44|55|66|77|88)))"
    r"(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-. ])[2-9][0-9]{2}[-. ][0-9]{4}"
    r"(?: ?(?:x|ext\.?) ?[0-9]{1,5})?)(?![0-9-])"
)
ABROAD = re.compile(r"(?<![0-9A-Za-z])(\+(?!86)[1-9][0-9]{0,2}(?:[-. ]?\(?[0-9]{1,4}\)?){2,6})(?![0-9])")
BRITISH = re.compile(r"(?<![0-9A-Za-z.-])(07[0-9]{3} ?[0-9]{3} ?[0-9]{3})(?![0-9])")
PHONE_LABELLED = re.compile(
    r"(?i:\b(?:phone|tel|telephone|mobile|cell|call|fax|whatsapp)\b(?: (?:no|number|me|us|at|is|on))*)"
    r"[^0-9A-Za-z\n]{0,4}([(]?[0-9](?:[-. ()]{0,2}[0-9]){8,12})(?![0-9])"
)
PASSPORT_LABELLED = re.compile(
    r"(?i:\bpassport\b(?: (?:no|number|num|is))*)[^0-9A-Za-z\n]{0,4}([A-Z]{0,2}[0-9]{6,9})(?![0-9A-Za-z])"
)


def spans(text: str) -> Iterator[Span]:
    """What is found in a folded text. Spans may overlap."""

    def personal(match: re.Match[str]) -> bool:
        return not is_other(text, match.start(1), match.end(1))

    if "@" in text or "at" in text:
        yield from search("email", EMAIL, text)
    yield from search("secret", SECRET, text)
    yield from search("name", ENGLISH_LABEL, text)
    if not any(mark.isdigit() for mark in text):
        return
    yield from search("iban", IBAN, text, lambda m: mod_97(m[1].replace(" ", "")) and personal(m))
    yield from search("iban", IBAN_LABELLED, text)
    yield from search("ssn", SSN, text, personal)
    yield from search("ssn", SSN_LABELLED, text)
    yield from search("phone", PHONE, text, personal)
    yield from search(
        "phone", ABROAD, text, lambda m: 8 <= sum(mark.isdigit() for mark in m[1]) <= 15 and personal(m)
    )
    yield from search("phone", BRITISH, text, personal)
    yield from search(
        "phone", PHONE_LABELLED, text, lambda m: not re.fullmatch(r"1[3-9][0-9]{9}|0[0-9]{10,11}", m[1])
    )
    yield from search("passport", PASSPORT_LABELLED, text)
    yield from search("address", ADDRESS, text)
