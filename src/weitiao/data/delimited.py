"""CSV, TSV and lines of ``label text``: rows in batches, with a bad row named by its number in the file."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.messages import say
from weitiao.data.arrow import BATCH_ROWS, BadRows
from weitiao.data.columns import KNOWN_NAMES, clean
from weitiao.data.files import DELIMITERS, Dialect, TextFile, empty, sniff_dialect

MAX_FIELD_CHARACTERS = 10_000_000
LONG_CELL_CHARACTERS = 40  # a column's name is shorter
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_NUMBERED = re.compile(r"(?:__label__)?(\S+) +(.*)", re.DOTALL)

Batch = tuple[Sequence[int], dict[str, Sequence[str]]]


@dataclass(frozen=True)
class Delimited:
    """An open table of text cells: its columns, whether they had names, and how to get its rows."""

    names: list[str]
    headerless: bool
    batches: Callable[[BadRows], Iterator[Batch]]


def open_delimited(
    file: TextFile, delimiters: tuple[str, ...] = DELIMITERS, has_header: bool | None = None
) -> Delimited:
    """A CSV or TSV file. Its first record is row 1, header or not.

    Args:
        delimiters: those to choose among, by looking at the first rows.
        has_header: whether the first row names the columns; by default that is judged by
            ``looks_like_header``.

    Raises:
        WeitiaoError: there is no row, or two columns have the same name.
    """
    dialect = sniff_dialect(file.sample(), delimiters)
    first = next((row for _, row in _records(file, dialect) if row), None)
    if first is None:
        raise empty(file.name)
    if isinstance(first, BadRow):
        raise first.at(file.name, 1)
    header = looks_like_header(first) if has_header is None else has_header
    names = _names(first, file.name) if header else [f"column_{place}" for place in range(1, len(first) + 1)]
    return Delimited(names, not header, lambda bad: _batches(file, dialect, names, header, bad))


def looks_like_header(row: Sequence[str]) -> bool:
    """Whether a first row names columns: a cell is a name we know, or none looks like data.

    What looks like data: a number in the last cell, a long cell, or the same cell twice.
    """
    if any(clean(cell) in KNOWN_NAMES for cell in row):
        return True
    long = any(len(cell) > LONG_CELL_CHARACTERS for cell in row)
    return not (_NUMBER.fullmatch(row[-1]) or long or len(set(row)) < len(row))


def _names(row: Sequence[str], file: str) -> list[str]:
    names = [
        cell.replace("\ufeff", "").strip() or f"column_{place}" for place, cell in enumerate(row, start=1)
    ]
    check_distinct(names, file)
    return names


def check_distinct(names: Sequence[str], file: str) -> None:
    """Raises a ``WeitiaoError`` if two columns have the same name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise WeitiaoError(
            say(
                f"{file} has two columns called '{twice}'. Rename one of them",
                f"{file} 有两列都叫“{twice}”。请给其中一列改名",
            )
        )


def _batches(
    file: TextFile, dialect: Dialect, names: list[str], header: bool, bad: BadRows
) -> Iterator[Batch]:
    width, numbers, rows = len(names), [], []
    for number, row in _records(file, dialect):
        if isinstance(row, BadRow):
            bad(number, row)
        elif len(row) == width:
            if header:
                header = False
                continue
            numbers.append(number)
            rows.append(row)
            if len(rows) == BATCH_ROWS:
                yield numbers, dict(zip(names, zip(*rows, strict=True), strict=True))
                numbers, rows = [], []
        elif len(row) > 1 or (row and row[0].strip()):
            bad(number, _wrong_width(row, names))
    if rows:
        yield numbers, dict(zip(names, zip(*rows, strict=True), strict=True))


def _wrong_width(row: Sequence[str], names: Sequence[str]) -> BadRow:
    column = names[len(row)] if len(row) < len(names) else names[-1]
    return BadRow(
        column,
        say(
            f"the row has {len(row)} fields, not {len(names)}; "
            "a text that holds the delimiter must stand in quotes",
            f"该行有 {len(row)} 个字段，应为 {len(names)} 个；含分隔符的文本要加引号",
        ),
    )


def _records(file: TextFile, dialect: Dialect) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Records with their number, from 1 as in a spreadsheet (a blank line is a row without fields)."""
    with file.open("") as lines, _field_limit():
        quoting: Any = dialect.quoting
        reader = csv.reader(lines, delimiter=dialect.delimiter, quoting=quoting, strict=True)
        number = 0
        while True:
            number += 1
            line = reader.line_num + 1
            try:
                for row in reader:
                    yield number, row
                    number += 1
                    line = reader.line_num + 1
                return
            except csv.Error as error:
                if "expected after" not in str(error):  # the end of the file or the limit came first
                    raise _unclosed(file.name, number, line) from None
            reason = say("text follows a closing quote", "右引号之后还有文字")
            yield number, BadRow(say("whole row", "整行"), reason)


def _unclosed(file: str, row: int, line: int) -> WeitiaoError:
    return WeitiaoError(
        say(
            f"{file}, row {row} (line {line}): a quote is opened and never closed. "
            "Close it, or double the quotes inside a text",
            f"{file} 第 {row} 行（文件第 {line} 行）：有引号没有闭合。请补上，或把文本里的引号写两遍",
        )
    )


@contextmanager
def _field_limit() -> Iterator[None]:
    """The csv module refuses fields over 131,072 characters, which a long document exceeds."""
    old = csv.field_size_limit(MAX_FIELD_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(old)


def open_numbered(file: TextFile) -> Delimited:
    """Lines of a label, a space and a text, as SST-2 and fastText (``__label__x``) write them."""
    return Delimited(["label", "text"], False, lambda bad: _numbered(file, bad))


def _numbered(file: TextFile, bad: BadRows) -> Iterator[Batch]:
    numbers, rows = [], []
    for number, line in enumerate(file.lines(), start=1):
        match = _NUMBERED.fullmatch(line)
        if match:
            numbers.append(number)
            rows.append(match.groups())
        elif line.strip():
            bad(
                number, BadRow("text", say("there is a label but no text after it", "只有标签，后面没有文本"))
            )
        if len(rows) == BATCH_ROWS:
            yield numbers, dict(zip(("label", "text"), zip(*rows, strict=True), strict=True))
            numbers, rows = [], []
    if rows:
        yield numbers, dict(zip(("label", "text"), zip(*rows, strict=True), strict=True))


def open_lines(file: TextFile) -> Delimited:
    """One text a line, nothing else."""
    return Delimited(["text"], False, lambda bad: _lines(file))


def _lines(file: TextFile) -> Iterator[Batch]:
    numbers: list[int] = []
    texts: list[str] = []
    for number, line in enumerate(file.lines(), start=1):
        if line.strip():
            numbers.append(number)
            texts.append(line)
        if len(texts) == BATCH_ROWS:
            yield numbers, {"text": texts}
            numbers, texts = [], []
    if texts:
        yield numbers, {"text": texts}
