"""CoNLL files and BIO tags: tokens joined to a text, tags turned to character spans, and back.

One token a line with its tag last, a blank line between sentences, tab or space between fields. Tags are BIO,
BIOES, BILOU or BMES; as in conlleval, an I that continues nothing begins an entity.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from weitiao.core.errors import BadRow
from weitiao.core.messages import say
from weitiao.data.clue import Span

_TAG = re.compile(r"O|[BIMELSU]-.+")
# Han, kana and hangul, their punctuation, and full-width forms: written without spaces between words.
_NO_SPACES = re.compile(r"[⺀-⿟　-ヿ㄀-㆏ㇰ-㏿㐀-鿿가-힣豈-﫿︰-﹏＀-￯\U00020000-\U0003ffff]")


def join_tokens(tokens: Sequence[str], glued: bool = False) -> tuple[str, list[int]]:
    """The text of a sentence and the offset of each token in it.

    Chinese tokens touch, Latin ones are set apart by a space. In a sentence with Chinese, two single Latin
    characters in a row touch as well: such a sentence was cut into characters, not words.

    Args:
        glued: the file is known to be cut into characters, so nothing is set apart.
    """
    wide = [bool(_NO_SPACES.search(token)) for token in tokens]
    chinese = any(wide)
    text, starts = "", []
    for place, token in enumerate(tokens):
        if place and not glued:
            before = tokens[place - 1]
            touch = (
                bool(_NO_SPACES.match(before[-1:]) or _NO_SPACES.match(token[:1]))
                or (chinese and len(before) == 1 and len(token) == 1)
                or _extends(token)
            )
            text += "" if touch else " "
        starts.append(len(text))
        text += token
    return text, starts


def _extends(token: str) -> bool:
    """Whether a token begins with a mark that belongs to the character before it (a skin tone, a joiner)."""
    return bool(token) and (
        unicodedata.category(token[0]) in ("Mn", "Me", "Sk", "Cf") and ord(token[0]) > 0x7F
    )


def spans_from_tags(
    tokens: Sequence[str], tags: Sequence[str], glued: bool = False
) -> tuple[str, list[Span]]:
    """Tokens and their tags as ``(text, spans)``.

    Raises:
        BadRow: there are more tokens than tags or fewer, or a tag is of no known scheme.
    """
    if len(tokens) != len(tags):
        raise BadRow(
            "tags",
            say(f"{len(tokens)} tokens but {len(tags)} tags", f"{len(tokens)} 个词却有 {len(tags)} 个标记"),
        )
    text, starts = join_tokens(tokens, glued)
    spans: list[Span] = []
    label = ""  # of the entity that is still open
    for token, start, tag in zip(tokens, starts, tags, strict=True):
        if not _TAG.fullmatch(tag):
            raise BadRow("tags", say(f"'{tag}' is not a BIO or BIOES tag", f"“{tag}”不是 BIO 或 BIOES 标记"))
        position, kind = tag[0], tag[2:]
        if position == "O":
            label = ""
            continue
        if position in "BSU" or kind != label:
            spans.append({"start": start, "end": start, "label": kind})
        spans[-1]["end"] = start + len(token)
        label = "" if position in "ELSU" else kind
    return text, spans


def tags_from_spans(tokens: Sequence[str], starts: Sequence[int], spans: Iterable[Span]) -> list[str]:
    """BIO tags of tokens that begin at ``starts``; a token is in a span that covers its first character."""
    tags = ["O"] * len(tokens)
    for span in spans:
        inside = [place for place, start in enumerate(starts) if span["start"] <= start < span["end"]]
        for nth, place in enumerate(inside):
            tags[place] = ("I-" if nth else "B-") + span["label"]
    return tags


def looks_like_conll(lines: Sequence[str]) -> bool:
    """Whether the first lines of a file are tokens with tags."""
    fields = [_fields(line) for line in lines if not _skipped(line)]
    return bool(fields) and all(len(parts) > 1 and _TAG.fullmatch(parts[-1]) for parts in fields)


def has_segment_digits(lines: Iterable[str]) -> bool:
    """Whether every token of a file is longer than one character and ends in a digit.

    So Weibo NER (golden-horse) writes the place of a character in its word: 微0 博1.
    """
    token = ""
    for line in lines:
        if not _skipped(line):
            token = _fields(line)[0]
            if len(token) < 2 or token[-1] not in "0123456789":
                return False
    return bool(token)


def sentences(lines: Iterable[str], digits: bool) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Sentences with the number of the line they begin on (from 1), or the error that makes one unusable.

    Args:
        lines: without their line ends.
        digits: strip a segment digit from each token (see ``has_segment_digits``).

    Yields:
        ``(line, {"text", "spans", "tokens", "tags"})`` or ``(line, BadRow)``.
    """
    tokens: list[str] = []
    tags: list[str] = []
    first, error = 0, None
    number = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if tokens or error:
                yield _sentence(first, tokens, tags, digits, error)
            tokens, tags, first, error = [], [], 0, None
        elif not _comment(line):
            first = first or number
            parts = _fields(line)
            token = parts[0][:-1] if digits else parts[0]
            error = error or _line_error(token, parts, number)
            tokens.append(token)
            tags.append(parts[-1])
    if tokens or error:
        yield _sentence(first, tokens, tags, digits, error)


def _sentence(
    first: int, tokens: list[str], tags: list[str], digits: bool, error: tuple[int, BadRow] | None
) -> tuple[int, dict[str, Any] | BadRow]:
    if error:
        return error
    text, spans = spans_from_tags(tokens, tags, glued=digits)
    return first, {"text": text, "spans": spans, "tokens": tokens, "tags": tags}


def _line_error(token: str, parts: list[str], number: int) -> tuple[int, BadRow] | None:
    if len(parts) < 2:
        return number, BadRow("tags", say(f"'{parts[0]}' has no tag after it", f"“{parts[0]}”后面没有标记"))
    if not token:
        return number, BadRow("tokens", say("there is no token before the tag", "标记前面没有词"))
    if not _TAG.fullmatch(parts[-1]):
        return number, BadRow(
            "tags", say(f"'{parts[-1]}' is not a BIO or BIOES tag", f"“{parts[-1]}”不是 BIO 或 BIOES 标记")
        )
    return None


def _fields(line: str) -> list[str]:
    """Token first, tag last. Split at tabs where there is one: then a token may itself be a space."""
    if "\t" in line:
        return line.rstrip("\t").split("\t")
    return [part for part in line.split(" ") if part]


def _comment(line: str) -> bool:
    return line.startswith("#") and not _TAG.fullmatch(_fields(line)[-1])


def _skipped(line: str) -> bool:
    return not line.strip() or line.startswith("-DOCSTART-") or _comment(line)
