"""A table's rows as a task's records, streamed without Arrow: what a bundle can read without datasets or pandas."""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.messages import say
from weitiao.data.columns import find_columns
from weitiao.data.files import suffix
from weitiao.data.readers import PARQUET_SUFFIXES, open_table
from weitiao.tasks.base import Task

Part = list[dict[str, Any]]


def record_parts(
    task: Task, path: str | Path, given: Mapping[str, str], *, labels: bool = False, size: int = 2000
) -> Iterator[Part]:
    """A table's records, each with its ``row_number``, in lists of at most ``size``.

    Args:
        given: role -> column, from the user.
        labels: whether the label's column is needed too.

    Raises:
        BadRow: a row cannot be used; the file, the row and the column are named.
        WeitiaoError: the file cannot be read, or has no column for a role.
    """
    name = str(path)
    if suffix(Path(path)) in PARQUET_SUFFIXES:
        try:
            import pyarrow  # noqa: F401 (is it there?)
        except ImportError:
            raise WeitiaoError(
                say(
                    f"{name}: reading Parquet needs: pip install pyarrow",
                    f"{name}：读取 Parquet 需要 pip install pyarrow",
                )
            ) from None
    opened = open_table(path)
    batches = iter(opened.batches)
    first = next(batches, None)
    if first is None:
        raise WeitiaoError(say(f"{name} has no rows under its header", f"{name} 除表头外没有数据行"))
    label = (task.label_key, "label")
    wanted = [column for column in task.columns if labels or column.role not in label]
    lengths = None
    if opened.headerless:
        lengths = [
            sum(len(str(c or "")) for c in cells[:1000]) / max(len(cells[:1000]), 1)
            for cells in first[1].values()
        ]
    columns = find_columns(list(first[1]), wanted, given, name, lengths)
    part: Part = []
    for numbers, cells in chain([first], batches):
        for place, number in enumerate(numbers):
            row = {role: cells[column][place] for role, column in columns.items()}
            try:
                record = _record(task, row)
            except BadRow as error:
                column = columns.get(error.column, error.column)
                raise BadRow(column, error.reason).at(name, number) from None
            part.append({**record, "row_number": number})
            if len(part) == size:
                yield part
                part = []
    if part:
        yield part


def _record(task: Task, row: dict[str, Any]) -> dict[str, Any]:
    nullable = {column.role for column in task.columns if column.nullable}
    for role, cell in row.items():
        if cell is None and role not in nullable:
            raise BadRow(role, say("there is no value", "没有值"))
    return task.example(row)
