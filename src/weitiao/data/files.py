"""Text files as they come: gzip or not, UTF-8 (with a BOM or not) or GB18030; and how one is laid out."""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from weitiao.core.errors import WeitiaoError, nearest
from weitiao.core.messages import say
from weitiao.data.conll import looks_like_conll

BLOCK_BYTES = 1 << 20
SAMPLE_CHARACTERS = 1 << 18
DELIMITERS = (",", ";", "\t", "|")
_NUMBERED = re.compile(r"(-?\d+|__label__\S+) +\S")


@dataclass(frozen=True)
class TextFile:
    """A text file whose bytes were read once from end to end and are sound."""

    path: Path
    name: str
    encoding: str

    def open(self, newline: str = "\n") -> IO[str]:
        """Open for reading. ``newline="\\n"`` ends lines there only; ``""`` is what the csv module wants."""
        return io.TextIOWrapper(_binary(self.path), encoding=self.encoding, newline=newline)

    def lines(self) -> Iterator[str]:
        """The lines, without their ends. Only a newline ends a line: texts may hold other separators."""
        with self.open() as file:
            for line in file:
                yield line.rstrip("\r\n")

    def sample(self) -> str:
        """The beginning, up to the last whole line of it."""
        with self.open("") as file:
            text = file.read(SAMPLE_CHARACTERS)
        return text if len(text) < SAMPLE_CHARACTERS or "\n" not in text else text[: text.rindex("\n") + 1]


def _binary(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb"))


def suffix(path: Path) -> str:
    """The suffix that tells the format, in lower case, without a ``.gz`` after it."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def stem(path: Path) -> str:
    """The file's name without ``.gz`` and without the suffix that tells the format."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).stem


def check_file(path: Path, name: str) -> None:
    """Raises a ``WeitiaoError`` if there is no such file, it is a folder or it has no bytes."""
    if path.is_dir():
        raise WeitiaoError(
            say(
                f"{name} is a folder, not a table. Give one of its files",
                f"{name} 是文件夹，不是数据表。请给出其中的某个文件",
            )
        )
    if not path.exists():
        close = nearest(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        hint = say(f". Did you mean '{close}'?", f"。是不是“{close}”？") if close else ""
        raise WeitiaoError(say(f"No such file: {name}", f"找不到文件：{name}") + hint)
    if path.stat().st_size == 0:
        raise empty(name)


def empty(name: str) -> WeitiaoError:
    """The error for a file with nothing in it."""
    return WeitiaoError(
        say(f"{name} is empty. It needs at least one row", f"{name} 是空的，至少要有一行数据")
    )


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn a broken gzip stream or a file that can't be opened into one clear error."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise WeitiaoError(
            say(f"{name} is not a whole gzip file: {error}", f"{name} 不是完整的 gzip 文件：{error}")
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise WeitiaoError(say(f"Cannot read {name}: {reason}", f"无法读取 {name}：{reason}")) from None


def check_text(path: Path, name: str) -> TextFile:
    """Read a file from end to end and settle its encoding: all of it UTF-8, or else all of it GB18030.

    Raises:
        WeitiaoError: it is neither, holds a NUL byte, or has only white space. Offsets count bytes from 0,
            after gunzip.
    """
    wrong = {}
    for encoding in ("utf-8", "gb18030"):
        place = _first_undecodable(path, name, encoding)
        if place is None:
            return TextFile(path, name, "utf-8-sig" if encoding == "utf-8" else encoding)
        wrong[encoding] = place
    byte, offset, line = max(wrong.values(), key=lambda place: place[1])  # the likelier encoding got further
    raise WeitiaoError(
        say(
            f"{name} is neither UTF-8 nor GB18030: byte 0x{byte:02x} at offset {offset:,} (line {line:,}). "
            "Save it as UTF-8",
            f"{name} 既不是 UTF-8 也不是 GB18030：偏移 {offset:,}（第 {line:,} 行）处的字节是 0x{byte:02x}。"
            "请另存为 UTF-8",
        )
    )


def _first_undecodable(path: Path, name: str, encoding: str) -> tuple[int, int, int] | None:
    """Byte, offset and line of the first place that isn't of the encoding, or None where all is."""
    decoder = codecs.getincrementaldecoder(encoding)()
    read, line, blank = 0, 1, True
    with _binary(path) as file:
        while True:
            block = file.read(BLOCK_BYTES)
            if (nul := block.find(b"\0")) >= 0:
                raise _holds_nul(name, read + nul, line + block.count(b"\n", 0, nul))
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                # The error counts from bytes kept back from the block before: place it from the end.
                at = read + len(block) - len(error.object) + error.start
                return error.object[error.start], at, line + block.count(b"\n", 0, max(at - read, 0))
            blank = blank and not text.strip("\ufeff \r\n\t")
            if not block:
                break
            read, line = read + len(block), line + block.count(b"\n")
    if blank:
        raise empty(name)
    return None


def _holds_nul(name: str, offset: int, line: int) -> WeitiaoError:
    return WeitiaoError(
        say(
            f"{name} holds a NUL byte at offset {offset:,} (line {line:,}): it is UTF-16 or no text. "
            "Save it as UTF-8",
            f"{name} 在偏移 {offset:,}（第 {line:,} 行）处有 NUL 字节：它是 UTF-16 或不是文本。"
            "请另存为 UTF-8",
        )
    )


# --- how a text file is laid out


def text_layout(sample: str) -> str:
    """The layout of a ``.txt`` file: ``conll``, ``tabs``, ``numbered`` (``1 some text``) or ``lines``."""
    lines = [line for line in sample.split("\n") if line.strip()]
    if looks_like_conll(lines):
        return "conll"
    tabs = {line.count("\t") for line in lines}
    if len(tabs) == 1 and tabs != {0}:
        return "tabs"
    labels = [match.group(1) for line in lines if (match := _NUMBERED.match(line))]
    # Few labels for many lines: a list of numbered lines (1 ..., 2 ..., 3 ...) is not a table.
    if len(labels) == len(lines) and len(set(labels)) <= max(2, len(lines) // 5):
        return "numbered"
    return "lines"


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written. ``quoting`` is one of the csv module's constants."""

    delimiter: str
    quoting: int = csv.QUOTE_MINIMAL


def sniff_dialect(sample: str, delimiters: tuple[str, ...] = DELIMITERS) -> Dialect:
    """The delimiter under which most rows have as many fields as the first; between equals, the earlier."""
    shares = []
    for delimiter in delimiters:
        widths = Counter(len(row) for row in _parse(sample, delimiter) if row)
        first = next((len(row) for row in _parse(sample, delimiter) if row), 0)
        shares.append(widths[first] / widths.total() if first > 1 else 0.0)
    best = delimiters[shares.index(max(shares))]
    return Dialect(best, csv.QUOTE_NONE if best == "\t" and _quotes_are_text(sample) else csv.QUOTE_MINIMAL)


def _parse(sample: str, delimiter: str, rows: int = 100) -> list[list[str]]:
    """The first rows, as far as they can be read."""
    found: list[list[str]] = []
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            found.append(row)
            if len(found) == rows:
                break
    except csv.Error:
        pass
    return found


def _quotes_are_text(sample: str) -> bool:
    """Whether quotes in a tab-separated file are text: a field opens with one that it never closes."""
    lines = [line.rstrip("\r").split("\t") for line in sample.split("\n") if line.strip()]
    opened = any(field.startswith('"') and field.count('"') % 2 for fields in lines for field in fields)
    return opened and len({len(fields) for fields in lines}) == 1
