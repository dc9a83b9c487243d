"""The texts of a compression: labelled rows to calibrate on, unlabelled texts, and the rows that it is measured on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent
from weitiao.core.messages import say

MOST_ROWS = 20_000  # labelled rows that steps may look at
SHARE = 4  # of a table that must serve for both, one part in so many is calibrated on


@dataclass(frozen=True)
class Found:
    """What a compression looks at.

    Attributes:
        rows: labelled records, to calibrate and train on.
        texts: unlabelled texts.
        measured: records to measure on, which are in neither of the others.
        source: the table that these are of: its name and hash.
    """

    rows: list[dict[str, Any]]
    texts: list[str]
    measured: Any
    source: dict[str, Any]


def gather(config: Any, trained: Any) -> Iterator[Event | Found]:
    """Read the tables; the last item is the ``Found``.

    Raises:
        WeitiaoError: there is nothing to measure on, or a file that cannot be read.
    """
    from weitiao.stages._prepare import read

    own: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    if not (config.data and config.calibration):
        own, sources = yield from _of_run(trained, required=not config.data)
    task = trained.task
    part = next((name for name in ("test", "dev") if own.get(name)), "")
    measured, source = own.get(part), {**sources.get(part, {}), "part": part}
    if config.data:
        measured, table, _ = read(task, config.data, config.columns, False)
        source = {"name": Path(table.name).name, "sha256": table.sha256}
        _check(trained, measured)
    calibrated = [own[name] for name in ("dev", "train") if name in own and own[name] is not measured]
    if config.calibration:
        calibrated = [read(task, config.calibration, config.columns, False)[0]]
        _check(trained, calibrated[0])
    if measured is None:
        raise WeitiaoError(
            say(
                "There is nothing to measure on: name a labelled table with --data",
                "没有可用于测量的数据：请用 --data 指定有标注的数据表",
            )
        )
    if not calibrated:
        cut = len(measured) // SHARE
        calibrated = [measured.select(range(cut))]
        measured = measured.select(range(cut, len(measured)))
        yield NoteEvent(
            say(
                f"The run's own table is not here: {cut} rows of {config.data} are for calibration, the others to "
                "measure on",
                f"找不到该运行自己的数据表：{config.data} 中 {cut} 行用于校准，其余用于测量",
            )
        )
    measured = measured.select(_spread(len(measured), config.measure_rows))
    rows = [row for part in calibrated for row in part.select(_spread(len(part), MOST_ROWS)).to_list()]
    texts = [text for name in config.corpus for text in read_texts(name)]
    yield Found(rows, texts, measured, source)


def _of_run(trained: Any, required: bool) -> Any:
    """The run's own parts, read and cut as they were for its training, and their tables; {} where those are gone."""
    from weitiao.core.config import build, read_yaml
    from weitiao.stages import _prepare, finetune

    path = trained.folder / "config.yaml"
    try:
        if not path.exists():
            raise WeitiaoError(
                say(
                    f"{trained.folder} does not say what it was trained on: name a labelled table with --data",
                    f"{trained.folder} 中没有训练数据的记录：请用 --data 指定有标注的数据表",
                )
            )
        settings = build(finetune.Config, read_yaml(path))
        for item in _prepare.prepare(trained.task, settings):
            if isinstance(item, _prepare.Prepared):
                return item.records, item.sources
            yield item
    except WeitiaoError:
        if required:
            raise
    return {}, {}


def _check(trained: Any, records: Any) -> None:
    """Labels that the model does not know cannot be measured."""
    from weitiao.data.splits import label_names

    answers, task = trained.answers, trained.task
    if answers.kind == "values":
        return
    known = (
        {name[2:] for name in answers.names if name != "O"}
        if task.name == "token_classification"
        else set(answers.names)
    )
    seen = {name for label in records[task.label_key] for name in label_names(label)}
    if strange := sorted(seen - known):
        raise WeitiaoError(
            say(
                f"The label '{strange[0]}' is unknown to the model; it knows: {', '.join(sorted(known)[:10])}",
                f"模型不认识标签“{strange[0]}”；它认识的有：{', '.join(sorted(known)[:10])}",
            )
        )


def _spread(count: int, most: int) -> range:
    """At most ``most`` row numbers of ``count``, evenly spread."""
    return range(0, count, max(-(-count // most), 1))


def read_texts(name: str) -> list[str]:
    """Texts of a file: the lines of a ``.txt``, or the text column of a table.

    Raises:
        WeitiaoError: it cannot be read, or has no text column.
    """
    from weitiao.data.columns import TEXT
    from weitiao.data.known import resolve_data
    from weitiao.data.readers import read_table

    path = Path(name)
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError as error:
            raise WeitiaoError(
                say(f"{name} cannot be read: {error.strerror}", f"无法读取 {name}：{error.strerror}")
            ) from None
        return [line.strip() for line in lines if line.strip()]
    table = read_table(resolve_data(name).path)
    column = table.find([TEXT])["text"]
    return [text for text in table.rows[column] if isinstance(text, str) and text.strip()]
