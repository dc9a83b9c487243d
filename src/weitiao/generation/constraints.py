"""What an answer may be, as a mask over the next token: one of some choices, a regular expression, a JSON schema.

The mask of a state of the automaton is computed once, for all tokens at a time, and kept.
"""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from weitiao.core.byte_letters import byte_letters
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.generation._regex import DEAD, START, automaton
from weitiao.generation._schema import pattern_of

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Vocabulary:
    """The bytes that each token adds to a text. ``first``: where it is the first of one."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.tokenizer, self.size = tokenizer, size
        self.special = {
            token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special
        }
        self._tables: dict[bool, tuple[np.ndarray, np.ndarray]] = {}

    def table(self, first: bool) -> tuple[np.ndarray, np.ndarray]:
        """Bytes uint8 ``[V, longest]`` and how many of them count, int64 ``[V]``; 0 for a token without any."""
        if first not in self._tables:
            known = [self._bytes(number, first) for number in range(self.tokenizer.get_vocab_size())]
            found = (known + [b""] * self.size)[
                : self.size
            ]  # a model may have more rows than its tokenizer has tokens
            lengths = np.array([len(one) for one in found])
            table = np.zeros((self.size, max(lengths.max(), 1)), np.uint8)
            for row, one in enumerate(found):
                table[row, : len(one)] = np.frombuffer(one, np.uint8)
            self._tables[first] = table, lengths
        return self._tables[first]

    def _bytes(self, number: int, first: bool) -> bytes:
        piece = self.tokenizer.id_to_token(number)
        if piece is None or piece in self.special:
            return b""
        if self._alphabet is not None:
            return bytes(self._alphabet[char] for char in piece if char in self._alphabet)
        if match := _BYTE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        anchor, before = self._anchor
        text = self.tokenizer.decode([number] if first else [anchor, number])
        return text.encode() if first else text.removeprefix(before).encode()

    @property
    def _alphabet(self) -> dict[str, int] | None:
        if not hasattr(self, "_letters"):
            decoder = json.loads(self.tokenizer.to_str()).get("decoder") or {}
            kinds = [decoder.get("type"), *(part.get("type") for part in decoder.get("decoders", ()))]
            self._letters = byte_letters() if "ByteLevel" in kinds else None
        return self._letters

    @property
    def _anchor(self) -> tuple[int, str]:
        """A token after which others are decoded as they are within a text, and its own text."""
        if not hasattr(self, "_before"):
            for number in range(self.tokenizer.get_vocab_size()):
                text = self.tokenizer.decode([number])
                if text.isascii() and text.isalnum():
                    self._before = number, text
                    break
        return self._before


class Pattern:
    """Texts that a regular expression matches as a whole. ``start`` begins a new one; the masks are shared."""

    def __init__(self, pattern: str, vocabulary: Vocabulary, ends: Collection[int]) -> None:
        self.table, self.accepts = automaton(pattern)
        self.vocabulary, self.ends = vocabulary, [end for end in ends if end < vocabulary.size]
        self._next: dict[tuple[int, bool], np.ndarray] = {}

    def start(self) -> "Match":
        """A text in the making."""
        return Match(self)

    def next_states(self, state: int, first: bool) -> np.ndarray:
        """The state after each token, int32 ``[V]``, ``DEAD`` where it may not come."""
        if (state, first) not in self._next:
            table_VL, lengths_V = self.vocabulary.table(first)
            states_V = np.where(lengths_V > 0, state, DEAD).astype(np.int32)
            for place in range(table_VL.shape[1]):
                live = np.flatnonzero((states_V != DEAD) & (lengths_V > place))
                if not len(live):
                    break
                states_V[live] = self.table[states_V[live], table_VL[live, place]]
            self._next[state, first] = states_V
        return self._next[state, first]


class Match:
    """How far one text has come; see ``writing.Constraint``."""

    def __init__(self, pattern: Pattern) -> None:
        self.pattern, self.state, self.first = pattern, START, True

    def allowed(self) -> np.ndarray:
        """bool ``[V]``; nothing at all where the text is complete and cannot grow."""
        allowed_V = self.pattern.next_states(self.state, self.first) != DEAD
        if allowed_V.any():
            allowed_V[self.pattern.ends] = self.complete
        return allowed_V

    def push(self, token: int) -> None:
        """The token that was chosen."""
        self.state = int(self.pattern.next_states(self.state, self.first)[token])
        self.first = False

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return bool(self.pattern.accepts[self.state])


def constraint(
    vocabulary: Vocabulary,
    ends: Collection[int],
    *,
    choices: Sequence[str] = (),
    regex: str = "",
    schema: Any = None,
) -> Pattern | None:
    """The constraint that was asked for: one kind at most; None where there is none.

    Raises:
        WeitiaoError: two kinds, an empty choice, or see ``automaton`` and ``pattern_of``.
    """
    given = [bool(choices), bool(regex), schema is not None and schema != ""]
    if sum(given) > 1:
        raise WeitiaoError(
            say("Give choices, a regex or a schema: one of them", "choices、regex、schema 只能给一个")
        )
    if not any(given):
        return None
    if given[0]:
        if not all(choices):
            raise WeitiaoError(say("A choice is empty", "选项中有空文本"))
        regex = "|".join(re.escape(choice) for choice in choices)
    elif given[2]:
        regex = pattern_of(schema)
    return Pattern(regex, vocabulary, ends)
