"""Words become others of the same meaning, from your table / 同义词替换（使用你提供的词表）."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from weitiao.augmentation._table import WordTable, read_table
from weitiao.augmentation.base import Augmentation, Edit
from weitiao.core.config import option


@dataclass
class Synonym(Augmentation):
    """All words of a line may stand for one another."""

    synonyms: str = option(
        "", "table of synonyms: the words of a line mean the same", "同义词表：同一行的词意思相同"
    )

    _table: WordTable = field(init=False, repr=False)

    def prepare(self) -> None:
        self._table = read_table(self.synonyms, "synonyms", "手机,电话,移动电话", both_ways=True)

    def edits(self, text: str, random: Random) -> Iterable[Edit]:
        return self._table.edits(text, random)
