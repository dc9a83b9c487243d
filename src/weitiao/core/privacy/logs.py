"""Logs without personal data: a filter that masks all that a record can carry into a line."""

import logging
import re
import threading
from typing import Any
from urllib.parse import unquote, unquote_plus

from weitiao.core.privacy import mask, mask_value

PLAIN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "taskName"}
ENCODED = re.compile(r"(?<![^\s\"'])[^\s\"']*%[0-9A-Fa-f]{2}[^\s\"']*")
ESCAPED = re.compile(
    r"(?<![\w.@+-])(?:[\w.@+-]|\\u[0-9A-Fa-f]{4})*\\u[0-9A-Fa-f]{4}(?:[\w .@+-]|\\u[0-9A-Fa-f]{4})*"
)
ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})")
_FORMATTER = logging.Formatter()
_GUARD = threading.Lock()


class MaskFilter(logging.Filter):
    """Masks the message with its arguments, the traceback, the stack and whatever ``extra`` added."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True: a record is changed, never dropped."""
        if record.name == "uvicorn.access" and isinstance(record.args, tuple):
            record.args = tuple(_address(part) for part in record.args)  # its formatter takes them one by one
        else:
            # First joined, then masked: a number may be put together from a message and its arguments.
            record.msg, record.args = mask_line(_message(record)), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = mask_line(record.exc_text)
            record.exc_info = None  # a formatter of JSON would write the exception out once more
        if record.stack_info:
            record.stack_info = mask_line(record.stack_info)
        for name in vars(record).keys() - PLAIN:
            value = mask_value(getattr(record, name))
            setattr(
                record,
                name,
                value if isinstance(value, str | int | float | list | dict | None) else mask(str(value)),
            )
        return True


def mask_line(line: str) -> str:
    """A line masked, also where an address or JSON writes personal data in its own encoding."""
    if "%" in line:
        line = ENCODED.sub(lambda word: _masked(word[0], unquote(word[0]), unquote_plus(word[0])), line)
    if "\\u" in line:
        line = ESCAPED.sub(
            lambda word: _masked(word[0], ESCAPE.sub(lambda mark: chr(int(mark[1], 16)), word[0])), line
        )
    return mask(line)


def _masked(word: str, *plain: str) -> str:
    """What masking makes of the first plain form that holds personal data; else the word as it is."""
    return next((hidden for one in plain if (hidden := mask(one)) != one), word)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # arguments that do not fit the message
        return f"{record.msg} {record.args}"


def _address(part: Any) -> Any:
    """A path without its query, which holds what a client sent, in an encoding that hides numbers."""
    return mask(unquote(part.partition("?")[0])) if isinstance(part, str) and part.startswith("/") else part


def guard_logs() -> MaskFilter:
    """Put the filter on every handler there is, and mask the records of handlers that come later.

    A filter on a logger would not see what its children log; one on the handlers does. A second call adds nothing.
    """
    loggers = [
        logging.getLogger(),
        *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)),
    ]
    guard = MaskFilter()
    with _GUARD:
        for handler in {handler for logger in loggers for handler in logger.handlers}:
            if not any(isinstance(one, MaskFilter) for one in handler.filters):
                handler.addFilter(guard)
        factory = logging.getLogRecordFactory()
        if not getattr(factory, "masks", False):

            def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
                record = factory(*args, **kwargs)
                guard.filter(record)
                return record

            make.masks = True  # type: ignore[attr-defined]
            logging.setLogRecordFactory(make)
    return guard
