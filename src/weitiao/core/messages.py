"""Messages in the reader's language: English and Chinese stand side by side where they are used.

``WEITIAO_LANG`` (``en`` or ``zh``) decides; without it the locale does. Keeping both languages at the call site
means that a message can't be changed in one and forgotten in the other.
"""

import os
import unicodedata


def language() -> str:
    """The language of messages and reports: ``en`` or ``zh``."""
    wish = os.environ.get("WEITIAO_LANG", "").lower()
    if not wish:
        wish = (
            os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
        ).lower()
    return "zh" if wish.startswith("zh") else "en"


def say(en: str, zh: str) -> str:
    """The one of two equivalent messages that the reader understands."""
    return zh if language() == "zh" else en


def width(text: str) -> int:
    """How many terminal columns a text takes: a Chinese character takes two."""
    drawn = [mark for mark in text if unicodedata.category(mark) not in ("Mn", "Me", "Cf")]
    return sum(1 + (unicodedata.east_asian_width(mark) in "WF") for mark in drawn)
