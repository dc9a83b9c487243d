"""Texts without labels that a run is to learn from too: a table of their own, or rows of the training table."""

from dataclasses import replace
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.data.table import Table, make_records
from weitiao.tasks.base import Task

ROWS = "rows"  # the value of --unlabelled that means the rows of the training table without a label


def parted(task: Task, table: Table, columns: dict[str, str]) -> tuple[Table, Table]:
    """The rows of a table with a label, and those whose label is empty.

    Raises:
        WeitiaoError: there are none of one kind.
    """
    column = table.find(task.columns, columns)[task.label_key]
    empty = np.array([value is None or not str(value).strip() for value in table.rows[column]], bool)
    if empty.all() or not empty.any():
        kind = (say("a label", "有标签"), say("an empty label", "标签为空"))[int(not empty.any())]
        raise WeitiaoError(
            say(
                f"--unlabelled rows: no row of {table.name} has {kind}; name a table with --unlabelled FILE",
                f"--unlabelled rows：{table.name} 中没有{kind}的行；请用 --unlabelled 指定另一张表",
            )
        )
    with_label, without = (np.flatnonzero(mask) for mask in (~empty, empty))
    return replace(table, rows=table.rows.select(with_label)), replace(table, rows=table.rows.select(without))


def records_of(task: Task, table: Table, config: Any) -> Any:
    """The records of texts without labels, at most ``--unlabelled-limit`` of them, drawn with the seed."""
    wanted = [column for column in task.columns if column.role not in (task.label_key, "label")]
    given = {role: name for role, name in config.columns.items() if role != task.label_key}
    columns = table.find(wanted, given)
    if len(table.rows) > config.unlabelled_limit:
        chosen = np.random.default_rng(config.seed).permutation(len(table.rows))[: config.unlabelled_limit]
        table = replace(table, rows=table.rows.select(np.sort(chosen)))
    return make_records(table, columns, task.example, skip_bad_rows=config.skip_bad_rows)[0]
