"""Words become their translations, from your table / 语码混合：把词换成译文（使用你提供的词表）."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from weitiao.augmentation._table import WordTable, read_table
from weitiao.augmentation.base import Augmentation, Edit
from weitiao.core.config import option


@dataclass
class CodeMixing(Augmentation):
    """Chinese with English words in it, or the other way about. Source: Qin et al. 2020, "CoSDA-ML"."""

    translations: str = option(
        "",
        "table of translations: a word, then what it is in the other language",
        "译文表：每行先是词，后是译文",
    )

    _table: WordTable = field(init=False, repr=False)

    def prepare(self) -> None:
        self._table = read_table(self.translations, "translations", "会议,meeting", both_ways=False)

    def edits(self, text: str, random: Random) -> Iterable[Edit]:
        return self._table.edits(text, random)
