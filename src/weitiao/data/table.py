"""A table as it was read, and the records a task makes of its rows."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.messages import say
from weitiao.data.arrow import BATCH_ROWS, ROW_NUMBER, ArrowSink, BadRows
from weitiao.data.columns import Column, find_columns

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Table:
    """Rows of a file or of an object in memory.

    Attributes:
        rows: the columns as in the source, cells as text or (nested) lists of text, entities as lists of
            ``{start, end, label}``, a missing value as None; and ``row_number``, as a person counts in the
            source.
        name: as the user gave it.
        bad_rows: those left out, with ``skip_bad_rows``.
        sha256: of the file's bytes, or of the content where there is no file.
        headerless: the columns have no names of their own (they are ``column_1``, ``column_2`` ...).
    """

    rows: "Dataset"
    name: str
    bad_rows: list[BadRow] = field(default_factory=list)
    sha256: str = ""
    headerless: bool = False

    @property
    def column_names(self) -> list[str]:
        """The columns, without ``row_number``."""
        return [name for name in self.rows.column_names if name != ROW_NUMBER]

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, wanted: Sequence[Column], given: Mapping[str, str] | None = None) -> dict[str, str]:
        """The column of each wanted role (see ``columns.find_columns``)."""
        lengths = self._mean_lengths() if self.headerless else None
        return find_columns(self.column_names, wanted, given, self.name, lengths)

    def _mean_lengths(self, rows: int = 1000) -> list[float]:
        sample = self.rows[:rows]
        return [
            sum(len(str(cell or "")) for cell in sample[name]) / max(len(sample[name]), 1)
            for name in self.column_names
        ]


def batches(rows: "Dataset", columns: Sequence[str] | None = None) -> Iterator[dict[str, list[Any]]]:
    """The rows in batches of plain Python values by column, without holding more than one."""
    chosen = rows if columns is None else rows.select_columns(list(columns))
    for table in chosen.with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield {name: table.column(name).to_pylist() for name in table.column_names}


def make_records(
    table: Table,
    columns: Mapping[str, str],
    example: Callable[[dict[str, Any]], Mapping[str, Any]],
    *,
    skip_bad_rows: bool = False,
    nullable: Collection[str] = (),
) -> tuple["Dataset", list[BadRow]]:
    """What a task sees of each row, with its ``row_number``; memory-mapped when large.

    Args:
        columns: role -> column of the table (from ``table.find``).
        example: ``{role: cell} -> record``; every record has the same keys. It may raise
            ``BadRow(role, reason)``.
        skip_bad_rows: list bad rows instead of raising the first.
        nullable: roles whose cells may hold nothing.

    Raises:
        BadRow: naming the file, the row and the user's column, unless ``skip_bad_rows``.
        WeitiaoError: no row could be used.
    """
    bad = BadRows(table.name, skip_bad_rows)
    with ArrowSink(bad, hashing=True) as sink:
        for batch in batches(table.rows, list(dict.fromkeys((*columns.values(), ROW_NUMBER)))):
            numbers: list[int] = []
            records: list[Mapping[str, Any]] = []
            for place, number in enumerate(batch[ROW_NUMBER]):
                try:
                    cells = {role: batch[name][place] for role, name in columns.items()}
                    record = _record(cells, example, nullable)
                except BadRow as error:
                    bad(number, BadRow(columns.get(error.column, error.column), error.reason))
                else:
                    numbers.append(number)
                    records.append(record)
            if records:
                sink.add(numbers, {key: [record[key] for record in records] for key in records[0]})
        rows = sink.finish(lambda: f"records-{sink.digest}")
    if not len(rows):
        raise none_left(table.name, bad.listed)
    return rows, bad.listed


def _record(
    row: dict[str, Any], example: Callable[[dict[str, Any]], Mapping[str, Any]], nullable: Collection[str]
) -> Mapping[str, Any]:
    for role, cell in row.items():
        if cell is None and role not in nullable:
            raise BadRow(role, say("there is no value", "没有值"))
    return example(row)


def none_left(name: str, bad: Sequence[BadRow]) -> WeitiaoError:
    """The error for a table of which no row could be used."""
    if bad:
        return WeitiaoError(
            say(
                f"No row of {name} can be used: all {len(bad)} are bad. The first: {bad[0]}",
                f"{name} 没有一行可用：{len(bad)} 行全部有误。第一处：{bad[0]}",
            )
        )
    return WeitiaoError(say(f"{name} has no rows under its header", f"{name} 除表头外没有数据行"))
