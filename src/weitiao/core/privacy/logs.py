"""Logs without personal data: a filter that masks all that a record can carry into a line."""

import logging
import threading
from typing import Any
from urllib.parse import unquote

from weitiao.core.privacy import mask, mask_value

PLAIN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "taskName"}
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
            record.msg, record.args = mask(_message(record)), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = mask(record.exc_text)
            record.exc_info = None  # a formatter of JSON would write the exception out once more
        if record.stack_info:
            record.stack_info = mask(record.stack_info)
        for name in vars(record).keys() - PLAIN:
            value = mask_value(getattr(record, name))
            setattr(
                record,
                name,
                value if isinstance(value, str | int | float | list | dict | None) else mask(str(value)),
            )
        return True


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
