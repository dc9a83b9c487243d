"""A corpus: text files of any size, read document by document, each document once, a part of them held out.

A folder's ``.txt`` (also ``.md``) and ``.jsonl`` files, gzip or not, are read in the order of their names. In a text
file blank lines part documents; where none comes, a document ends with the line in which it reaches ``LONG``
characters.
In a JSONL file each line is one.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from weitiao.core.errors import WeitiaoError, nearest
from weitiao.core.messages import say
from weitiao.data.files import TextFile, check_file, check_text, readable, suffix

PLAIN, LINES = (".txt", ".md"), (".jsonl",)
TEXT_FIELDS = ("text", "content", "正文")
LONG = 4000
SECTION = (
    32_000  # characters of neighbouring documents that are held out together: they may say the same thing
)


@dataclass
class Corpus:
    """What ``open_corpus`` found usable. ``skipped`` says of the others why; ``counts`` is filled while reading."""

    name: str
    files: list[TextFile]
    skipped: list[str]
    fields: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)

    def documents(self) -> Iterator[str]:
        """Each different document once. Two are the same where only white space sets them apart.

        Raises:
            WeitiaoError: a JSONL file has no field that holds the text.
        """
        seen: set[bytes] = set()
        self.counts.update(dict.fromkeys(("documents", "duplicates", "bad_lines", "bytes"), 0))
        for file in self.files:
            parts = self._records(file) if suffix(file.path) in LINES else _paragraphs(file)
            for text in parts:
                key = hashlib.blake2b(
                    " ".join(text.split()).encode("utf-8", "replace"), digest_size=12
                ).digest()
                if key in seen:
                    self.counts["duplicates"] += 1
                    continue
                seen.add(key)
                self.counts["documents"] += 1
                self.counts["bytes"] += len(text.encode("utf-8"))
                yield text

    def parts(self, held_out: float, seed: int) -> Iterator[tuple[str, bool]]:
        """Each document, and whether it is held out. Whole sections are; the second section always is one of them."""
        filled, section = 0, 0
        random = np.random.default_rng([seed, 7])
        held = False
        for text in self.documents():
            yield text, held
            filled += len(text)
            if filled >= SECTION:
                filled, section = 0, section + 1
                held = bool(random.random() < held_out) or (section == 1 and held_out > 0)

    def digest(self) -> str:
        """SHA-256 over all usable files, to know the corpus again."""
        whole = hashlib.sha256()
        for file in self.files:
            with open(file.path, "rb") as content:
                whole.update(hashlib.file_digest(content, "sha256").digest())
        return whole.hexdigest()

    def _records(self, file: TextFile) -> Iterator[str]:
        for line in file.lines():
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                self.counts["bad_lines"] += 1
                continue
            fields = self.fields or _text_fields(record, file.name)
            if text := "\n".join(str(record[key]).strip() for key in fields if record.get(key)):
                yield _clean(text)


def open_corpus(data: str, fields: Sequence[str] = ()) -> Corpus:
    """The files of a corpus: a folder, with its folders, or one file.

    Args:
        fields: of JSONL records, those that hold the text, joined by line ends (default: "text" or "content").

    Raises:
        WeitiaoError: there is no such place, or nothing in it can be used.
    """
    path = Path(data).expanduser()
    if not path.is_dir():
        check_file(path, data)
    known = (*PLAIN, *LINES)
    places = sorted(path.rglob("*")) if path.is_dir() else [path]
    files, skipped = [], []
    for place in places:
        name = str(place.relative_to(path)) if path.is_dir() else place.name
        if place.is_dir() or any(part.startswith(".") for part in Path(name).parts):
            continue
        try:
            if suffix(place) not in known:
                raise WeitiaoError(
                    say(f"{name}: not one of {', '.join(known)}", f"{name}：不是 {'、'.join(known)}")
                )
            check_file(place, name)
            with readable(name):
                files.append(check_text(place, name))
        except WeitiaoError as error:
            skipped.append(str(error))
    if not files:
        why = f": {skipped[0]}" if skipped else ""
        raise WeitiaoError(
            say(
                f"{data} holds no text that can be used{why}. Give {', '.join(known)} in UTF-8 or GB18030",
                f"{data} 中没有可用的文本{why}。请提供 UTF-8 或 GB18030 编码的 {'、'.join(known)} 文件",
            )
        )
    return Corpus(path.name, files, skipped, tuple(fields))


def _paragraphs(file: TextFile) -> Iterator[str]:
    lines: list[str] = []
    length = 0
    for line in file.lines():
        if line := _clean(line):
            lines.append(line)
            length += len(line)
        if lines and (not line or length >= LONG):
            yield "\n".join(lines)
            lines, length = [], 0
    if lines:
        yield "\n".join(lines)


def _clean(text: str) -> str:
    """Without control characters and halves of surrogate pairs, which no tokenizer keeps."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufeff]", "", text).strip()


def _text_fields(record: dict[str, object], name: str) -> tuple[str, ...]:
    found = next((key for key in TEXT_FIELDS if isinstance(record.get(key), str)), None)
    if found:
        return (found,)
    texts = [key for key, value in record.items() if isinstance(value, str)]
    close = nearest("text", texts)
    hint = say(f" Perhaps '{close}'.", f"也许是“{close}”。") if close else ""
    raise WeitiaoError(
        say(
            f"{name} has no field 'text'; its fields are {', '.join(record)}.{hint} Name those that hold the text: "
            f"--fields {','.join(texts) or 'a,b'}",
            f"{name} 没有 text 字段；其字段有 {', '.join(record)}。{hint}请指明文本所在字段：--fields {','.join(texts) or 'a,b'}",
        )
    )
