"""What a user's tables know of the words in a text: a lexicon's categories, and triples of a knowledge graph.

A lexicon's line is a word, and after a tab or comma its category; a line of triples is head, relation, tail. Both are
read from a file, or are given as the text of one (more than one line): so a trained model carries them with it.

The model reads it as text, in a note before the text, or as embeddings: each category and each fact is a kind of
knowledge, numbered by ``kinds``, whose learned embedding is added to those of the words it is known of.
"""

import re
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.given import given_text
from weitiao.core.messages import say

LATIN = re.compile(r"[A-Za-z0-9]")
NUMBER = re.compile(r"[\d.,]+")


class Knowledge:
    """Looks up the words of a text. In Latin script a word is found whole and in any case."""

    def __init__(self, categories: dict[str, str], relations: dict[str, list[str]]) -> None:
        self.categories, self.relations = categories, relations
        words = {word for word in (*categories, *relations) if word}
        self.by_start: dict[str, list[str]] = {}  # longest first: 上海银行 before 上海
        for word in sorted(words, key=len, reverse=True):
            self.by_start.setdefault(word[0], []).append(word)

    def mentions(self, text: str) -> Iterator[str]:
        """The known words in the text, from left to right, none inside another, each once."""
        yield from dict.fromkeys(word for word, _ in self._found(text.casefold()))

    def _found(self, lower: str) -> Iterator[tuple[str, int]]:
        """Every known word in a text without case, and where it begins."""
        place = 0
        while place < len(lower):
            word = next((w for w in self.by_start.get(lower[place], ()) if _stands(w, lower, place)), "")
            if word:
                yield word, place
            place += len(word) or 1

    @cached_property
    def kinds(self) -> dict[str, int]:
        """The number of each category and of each fact ("relation tail"); "" is that of words without a category."""
        facts = {fact for found in self.relations.values() for fact in found}
        return {kind: number for number, kind in enumerate(sorted({*self.categories.values(), *facts}))}

    def marks(self, text: str, offsets_T2: np.ndarray, most: int) -> np.ndarray:
        """Pairs of a token of the text and the number of a kind that is known of its word, int ``[P, 2]``.

        Args:
            offsets_T2: where each token begins and ends in the text.
            most: so many different words are looked up.
        """
        # A letter may become several without its case; each of those stands where it stood.
        origins = [place for place, letter in enumerate(text) for _ in letter.casefold()]
        begins_T, ends_T = offsets_T2.T
        pairs, seen = [], set[str]()
        for word, start in self._found(text.casefold()):
            seen.add(word)
            if len(seen) > most:
                break
            first, last = origins[start], origins[start + len(word) - 1]
            inside = np.flatnonzero((begins_T <= last) & (ends_T > first) & (ends_T > begins_T))
            known = ([self.categories[word]] if word in self.categories else []) + self.relations.get(
                word, []
            )
            pairs += [(token, self.kinds[kind]) for token in inside.tolist() for kind in known]
        return np.array(pairs, np.int32).reshape(-1, 2)

    def note(self, text: str, most: int) -> str:
        """What is known of the first ``most`` words found, in one line; empty where none is."""
        by_category: dict[str, list[str]] = {}
        facts = []
        for _, word in zip(range(most), self.mentions(text), strict=False):
            if word in self.categories:
                by_category.setdefault(self.categories[word], []).append(word)
            facts += [f"{word} {fact}" for fact in self.relations.get(word, [])]
        lists = [
            f"{name}: {', '.join(words)}" if name else ", ".join(words) for name, words in by_category.items()
        ]
        return "; ".join([*lists, *facts[:most]])


def _stands(word: str, text: str, place: int) -> bool:
    """Whether the word stands in the text at that place: not as a part of a longer one in Latin script."""
    end = place + len(word)
    if not text.startswith(word, place):
        return False
    inside_left = place > 0 and LATIN.match(word[0]) and LATIN.match(text[place - 1])
    inside_right = end < len(text) and LATIN.match(word[-1]) and LATIN.match(text[end])
    return not (inside_left or inside_right)


def read_knowledge(lexicon: str, triples: str) -> Knowledge:
    """The knowledge in a lexicon and in triples, each the path of a file, its content, or empty.

    Raises:
        WeitiaoError: a file cannot be read or has no line of the kind.
    """
    categories = {}
    for word, *rest in _rows(lexicon, "lexicon", 1, "茅台,股票"):
        # Lists of words often have a count in their second column, which is no category.
        categories[word.casefold()] = "" if not rest or NUMBER.fullmatch(rest[0]) else rest[0]
    relations: dict[str, list[str]] = {}
    for head, relation, tail, *_ in _rows(triples, "triples", 3, "茅台,行业,白酒"):
        relations.setdefault(head.casefold(), []).append(f"{relation} {tail}")
    return Knowledge(categories, relations)


def as_content(value: str, flag: str) -> str:
    """The content of the file that a value names; a value that is content already stays."""
    if not value or "\n" in value:
        return value
    return given_text(value, flag).rstrip("\n") + "\n"


def _rows(value: str, flag: str, least: int, example: str) -> list[list[str]]:
    if not value:
        return []
    lines = as_content(value, flag).splitlines()
    rows = [[cell.strip() for cell in line.split("\t" if "\t" in line else ",")] for line in lines]
    found = [row for row in rows if len(row) >= least and all(row[:least])]
    if not found:
        raise WeitiaoError(
            say(
                f"--{flag}: {value.strip()[:80]} has no line such as {example}",
                f"--{flag}：{value.strip()[:80]} 中没有形如 {example} 的行",
            )
        )
    return found
