"""Rows that a trained model was not trained on, to prove an export by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core.config import build, read_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import sha256


@dataclass
class HeldOut:
    """Items as ``predict`` takes them, their row numbers and their labels; ``data`` names the table and its hash."""

    items: list[Any]
    row_numbers: list[int]
    labels: list[Any]
    data: dict[str, Any]


def held_out(trained: Any, data: str, columns: dict[str, str], rows: int) -> HeldOut:
    """At most ``rows`` rows, evenly spread over a table: the one given, else the run's own test or dev part.

    Raises:
        WeitiaoError: there is no such table any more; the message asks for one.
    """
    if data:
        from weitiao.runtime.tables import record_parts

        records = [record for part in record_parts(trained.task, data, columns) for record in part]
        return chosen_rows(trained.task, records, rows, {"name": Path(data).name, "sha256": sha256(data)})
    records, source = _of_run(trained)
    return chosen_rows(trained.task, records, rows, source)


def _of_run(trained: Any) -> tuple[Any, dict[str, Any]]:
    from weitiao.stages import finetune
    from weitiao.stages._prepare import Prepared, prepare

    path = trained.folder / "config.yaml"
    try:
        if not path.exists():
            raise WeitiaoError(say("there is no config.yaml", "没有 config.yaml"))
        settings = build(finetune.Config, read_yaml(path))
        *_, prepared = prepare(trained.task, settings)
    except WeitiaoError as error:
        raise WeitiaoError(
            say(
                f"{trained.folder} has no held-out rows to prove the export by ({error}). Give a table: --data FILE",
                f"{trained.folder} 没有可用于验证导出的留出数据（{error}）。请用 --data 指定一张表",
            )
        ) from None
    assert isinstance(prepared, Prepared)
    part = next(name for name in ("test", "dev", "train") if name in prepared.records)
    return prepared.records[part], {**prepared.sources[part], "part": part}


def chosen_rows(task: Any, records: Any, rows: int, source: dict[str, Any]) -> HeldOut:
    """At most ``rows`` of some records, evenly spread, but those that ``predict`` or the service would not take.

    Raises:
        WeitiaoError: none is left.
    """
    from weitiao.service.limits import Sizes
    from weitiao.stages._certificate import item_of

    step = max(len(records) / rows, 1.0)
    places = [int(place * step) for place in range(min(rows, len(records)))]
    found = HeldOut([], [], [], source)
    for place in places:
        record = records[place]
        item = item_of(task, record)
        if item is None:
            continue
        if max(map(len, [item] if isinstance(item, str) else item)) <= Sizes.text_characters:
            found.items.append(item)
            found.row_numbers.append(record["row_number"])
            if task.label_key in record:
                found.labels.append(record[task.label_key])
    if not found.items:
        raise WeitiaoError(say("No row can be used to prove the export by", "没有可用于验证导出的数据行"))
    return found
