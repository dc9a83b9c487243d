"""A user's table of words: a word in each line, and after tabs or commas what can stand in its place."""

from collections.abc import Iterator
from random import Random

from weitiao.augmentation._words import as_written, words
from weitiao.augmentation.base import Edit
from weitiao.core.errors import WeitiaoError
from weitiao.core.given import given_text
from weitiao.core.messages import say


class WordTable:
    """Words and what may replace them. In Latin script, case does not matter."""

    def __init__(self, entries: dict[str, list[str]]) -> None:
        self.entries = {word.casefold(): others for word, others in entries.items()}
        self.lengths = sorted({len(word) for word in self.entries}, reverse=True)

    def edits(self, text: str, random: Random) -> Iterator[Edit]:
        """An edit for each word of the table in the text; at one place the longest word counts."""
        starts = {word.start for word in words(text)}
        ends = {word.end for word in words(text)}
        free = 0
        for start in sorted(starts):
            for length in self.lengths if start >= free else ():
                old = text[start : start + length]
                others = self.entries.get(old.casefold(), []) if start + length in ends else []
                choices = [other for other in others if other.casefold() != old.casefold()]
                if choices:
                    yield Edit(start, start + length, as_written(random.choice(choices), old))
                    free = start + length
                    break


def read_table(path: str, flag: str, example: str, both_ways: bool) -> WordTable:
    """The table in a file.

    Args:
        path: the file, UTF-8.
        flag: the setting that names it, for messages.
        example: a line of such a table, for messages.
        both_ways: whether the words of a line may all stand for one another.

    Raises:
        WeitiaoError: no file was named, it cannot be read, or no line has two words.
    """
    if not path:
        raise WeitiaoError(
            say(
                f"It needs a table of words: --{flag} FILE, with lines such as {example}",
                f"需要词表：--{flag} 文件，每行形如 {example}",
            )
        )
    text = given_text(path, flag)
    entries: dict[str, list[str]] = {}
    for line in text.splitlines():
        row = [cell.strip() for cell in line.split("\t" if "\t" in line else ",")]
        row = [cell for cell in row if cell]
        for word in row if both_ways else row[:1]:
            others = [other for other in row if other != word]
            if others:
                entries.setdefault(word, []).extend(others)
    if not entries:
        raise WeitiaoError(
            say(
                f"--{flag}: {path} has no line with two words, such as {example}",
                f"--{flag}：{path} 中没有含两个词的行，如 {example}",
            )
        )
    return WordTable(entries)
