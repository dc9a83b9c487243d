"""From what a caller passes to what a task reads: one place, so that a run and a bundle cannot differ."""

from collections.abc import Sequence
from typing import Any

from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.messages import say
from weitiao.tasks.base import Task


def roles_of(task: Task) -> list[str]:
    """The roles that an item fills, in the order of a tuple's cells: every column but the label's."""
    return [column.role for column in task.columns if column.role not in (task.label_key, "label")]


def records_of(task: Task, items: Sequence[Any]) -> list[dict[str, Any]]:
    """The records of some items: texts, tuples of cells, or dicts by role.

    Raises:
        WeitiaoError: an item is not what the task reads; its number is named.
    """
    items = [items] if isinstance(items, str) else list(items)
    return [record_of(task, item, number) for number, item in enumerate(items, 1)]


def record_of(task: Task, item: Any, number: int) -> dict[str, Any]:
    """One item's record, with its ``row_number``."""
    roles = roles_of(task)
    cells = item if isinstance(item, list | tuple) else [item]
    row = item if isinstance(item, dict) else dict(zip(roles, cells, strict=False))
    try:
        record = task.example({role: row.get(role) for role in roles})
    except BadRow as error:
        raise WeitiaoError(say(f"text {number}: {error.reason}", f"第 {number} 条：{error.reason}")) from None
    return {**record, "row_number": number}


def columns_of(records: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Records by column, as tasks read them."""
    return {key: [record[key] for record in records] for key in records[0]} if records else {}
