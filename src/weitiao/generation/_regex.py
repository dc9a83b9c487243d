"""A regular expression as a deterministic automaton over the bytes of UTF-8, so that half a character can be judged.

Pattern -> tree (the standard library's parser, so the syntax is that of ``re``) -> automaton with empty moves (Thompson
1968) -> table of states by bytes (subset construction). Anchors, look-around and back-references have no automaton.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

DEAD, START = 0, 1
MOST_STATES = 5_000
TOP = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)  # no characters: UTF-8 cannot hold them
DIGITS = ((48, 57),)
SPACES = ((9, 13), (32, 32), (0x3000, 0x3000))
LETTERS = ((48, 57), (65, 90), (95, 95), (97, 122), (0xAA, 0xAA), (0xB5, 0xB5), (0xBA, 0xBA), (0xC0, 0xD6),
           (0xD8, 0xF6), (0xF8, 0x2C1), (0x370, 0x373), (0x376, 0x377), (0x37B, 0x37D), (0x386, 0x386),
           (0x388, 0x3FF), (0x400, 0x481), (0x48A, 0x52F), (0x3041, 0x3096), (0x30A1, 0x30FA), (0x3400, 0x4DBF),
           (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFA6D), (0x20000, 0x2A6DF))  # fmt: skip
CATEGORIES = {"CATEGORY_DIGIT": DIGITS, "CATEGORY_SPACE": SPACES, "CATEGORY_WORD": LETTERS}
Ranges = list[tuple[int, int]]


@cache
def automaton(pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """The table ``[states, 256]`` of next states (0: none) and which states accept ``[states]``; it begins in state 1.

    ``\\d`` is 0-9, ``\\w`` letters, digits and _, of Latin, Greek, Cyrillic, Chinese, Japanese, Korean.

    Raises:
        WeitiaoError: the pattern is none, needs more than an automaton, or needs too large a one.
    """
    try:
        tree = re._parser.parse(pattern)  # type: ignore[attr-defined]
    except (re.error, RecursionError, OverflowError) as error:
        raise _bad(pattern, str(error)) from None
    build = _Moves(pattern)
    first, last = build.sequence(tree)
    return _table(build, first, last, pattern)


class _Moves:
    """Empty moves and moves by a range of bytes, of an automaton in the making."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.empty: list[list[int]] = []
        self.by_byte: list[list[tuple[int, int, int]]] = []

    def state(self) -> int:
        if len(self.empty) > 20 * MOST_STATES:
            raise _bad(self.pattern, say("it is too large", "规模过大"))
        self.empty.append([])
        self.by_byte.append([])
        return len(self.empty) - 1

    def sequence(self, tree: Any) -> tuple[int, int]:
        first = last = self.state()
        for op, value in tree:
            begin, end = self._part(str(op), value)
            self.empty[last].append(begin)
            last = end
        return first, last

    def _part(self, op: str, value: Any) -> tuple[int, int]:
        if op == "LITERAL":
            return self._characters([(value, value)])
        if op == "NOT_LITERAL":
            return self._characters(_inverse([(value, value)]))
        if op == "ANY":
            return self._characters(_inverse([(10, 10)]))
        if op == "IN":
            return self._characters(self._set(value))
        if op == "SUBPATTERN":
            if value[1] or value[2]:
                raise _bad(self.pattern, say("flags are not supported", "不支持标志"))
            return self.sequence(value[3])
        if op == "BRANCH":
            return self._branch(value[1])
        if op in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repeat(*value)
        raise _bad(self.pattern, say(f"{op.lower()} is not supported", f"不支持 {op.lower()}"))

    def _branch(self, choices: Any) -> tuple[int, int]:
        first, last = self.state(), self.state()
        for choice in choices:
            begin, end = self.sequence(choice)
            self.empty[first].append(begin)
            self.empty[end].append(last)
        return first, last

    def _repeat(self, least: int, most: Any, tree: Any) -> tuple[int, int]:
        first = last = self.state()
        for _ in range(least):
            begin, end = self.sequence(tree)
            self.empty[last].append(begin)
            last = end
        if str(most) == "MAXREPEAT":
            begin, end = self.sequence(tree)
            self.empty[end].append(begin)
            final = self.state()
            for source, target in ((last, begin), (last, final), (end, final)):
                self.empty[source].append(target)
            return first, final
        final = self.state()
        for _ in range(most - least):
            begin, end = self.sequence(tree)
            self.empty[last] += [begin, final]
            last = end
        self.empty[last].append(final)
        return first, final

    def _characters(self, ranges: Ranges) -> tuple[int, int]:
        first, last = self.state(), self.state()
        for low, high in ranges:
            for sequence in utf8(low, high):
                at = first
                for number, (a, b) in enumerate(sequence, 1):
                    to = last if number == len(sequence) else self.state()
                    self.by_byte[at].append((a, b, to))
                    at = to
        return first, last

    def _set(self, parts: Any) -> Ranges:
        found: Ranges = []
        negated = False
        for op, value in parts:
            kind = str(op)
            if kind == "NEGATE":
                negated = True
            elif kind == "LITERAL":
                found.append((value, value))
            elif kind == "RANGE":
                found.append(value)
            else:
                name = str(value)
                ranges = list(CATEGORIES[name.replace("_NOT_", "_")])
                found += _inverse(ranges) if "_NOT_" in name else ranges
        return _inverse(found) if negated else found


def _inverse(ranges: Ranges) -> Ranges:
    found, at = [], 0
    for low, high in sorted([*ranges, SURROGATES]):
        if low > at:
            found.append((at, low - 1))
        at = max(at, high + 1)
    return [*found, (at, TOP)] if at <= TOP else found


def utf8(low: int, high: int) -> Iterator[list[tuple[int, int]]]:
    """Sequences of byte ranges that together are the characters from ``low`` to ``high``."""
    for edge in (0x7F, 0x7FF, SURROGATES[0] - 1, SURROGATES[1], 0xFFFF):
        if low <= edge < high:
            yield from utf8(low, edge)
            yield from utf8(edge + 1, high)
            return
    if SURROGATES[0] <= low <= SURROGATES[1]:
        return
    for bits in (
        6,
        12,
        18,
    ):  # whole blocks of what follows a byte, so that the ranges of bytes are independent
        mask = (1 << bits) - 1
        if low >> bits != high >> bits:
            if low & mask:
                yield from utf8(low, low | mask)
                yield from utf8((low | mask) + 1, high)
                return
            if high & mask != mask:
                yield from utf8(low, (high & ~mask) - 1)
                yield from utf8(high & ~mask, high)
                return
    yield list(zip(chr(low).encode(), chr(high).encode(), strict=True))


def _table(build: _Moves, first: int, last: int, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """The subset construction, by classes of bytes that no move tells apart."""
    edges = sorted({0, 256} | {x for moves in build.by_byte for a, b, _ in moves for x in (a, b + 1)})

    @cache
    def closed(state: int) -> frozenset[int]:
        found, todo = {state}, [state]
        while todo:
            for target in build.empty[todo.pop()]:
                if target not in found:
                    found.add(target)
                    todo.append(target)
        return frozenset(one for one in found if build.by_byte[one] or one == last)

    numbers = {closed(first): START}
    todo, rows = [closed(first)], [np.zeros(256, np.int32)]
    for states in todo:
        row = np.zeros(256, np.int32)
        moves = [move for state in states for move in build.by_byte[state]]
        for a, b in pairwise(edges):
            reached = frozenset().union(*(closed(to) for low, high, to in moves if low <= a <= high))
            if not reached:
                continue
            if reached not in numbers:
                if len(numbers) >= MOST_STATES:
                    raise _bad(pattern, say("it needs too many states", "状态数过多"))
                numbers[reached] = len(numbers) + 1
                todo.append(reached)
            row[a:b] = numbers[reached]
        rows.append(row)
    accepts = np.array([False, *(last in states for states in numbers)])
    return np.stack(rows), accepts


def _bad(pattern: str, reason: str) -> WeitiaoError:
    shown = pattern if len(pattern) <= 60 else pattern[:57] + "..."
    return WeitiaoError(
        say(f"The pattern {shown!r} cannot be used: {reason}", f"无法使用该正则表达式 {shown!r}：{reason}")
    )
