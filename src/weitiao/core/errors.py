"""Errors that a user can act on: what failed, the value, and the way out, in one line."""

import difflib
from collections.abc import Iterable

from weitiao.core.messages import say


class WeitiaoError(Exception):
    """A failure the user can mend. The command line prints it as one line and exits with code 2."""


class BadRow(WeitiaoError):
    """One row of a table cannot be used. ``column`` is the user's name for the column, ``reason`` says why."""

    def __init__(self, column: str, reason: str, file: str = "", row: int = 0) -> None:
        self.column, self.reason, self.file, self.row = column, reason, file, row
        place = (
            say(f"{file}, row {row}, column '{column}'", f"{file} 第 {row} 行，列“{column}”")
            if file
            else f"'{column}'"
        )
        super().__init__(
            f"{place}: {reason}"
            + (
                say(". Mend the row, or pass --skip-bad-rows", "。请修改该行，或加上 --skip-bad-rows")
                if file
                else ""
            )
        )

    def at(self, file: str, row: int) -> "BadRow":
        """The same error with its place filled in."""
        return BadRow(self.column, self.reason, file, row)


class Interrupted(WeitiaoError):
    """The user pressed Ctrl-C and the run was saved; the message says how to resume."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name closest to a mistyped one, or an empty string where none is close."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:
        close = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.5)
    return close[0] if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> WeitiaoError:
    """An error for a name that is not in a list of names: gives the near miss and all the choices."""
    known = sorted(known)
    close = nearest(name, known)
    hint = say(f" Did you mean '{close}'?", f"是不是“{close}”？") if close else ""
    return WeitiaoError(
        say(f"Unknown {kind} '{name}'.{hint} Known: ", f"没有名为“{name}”的 {kind}。{hint}可用的有：")
        + ", ".join(known)
    )
