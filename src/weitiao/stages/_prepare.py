"""From a source to what is trained on: tables, records, splits, findings, answers, token ids."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent
from weitiao.core.messages import say
from weitiao.data.columns import GROUP, check_column
from weitiao.data.encode import Encoded, rows_in_chunks
from weitiao.data.known import resolve_data
from weitiao.data.quality import Finding, check_labels, inspect
from weitiao.data.readers import read_splits, read_table
from weitiao.data.splits import column, draw, split
from weitiao.data.table import Table, make_records
from weitiao.objectives._composed import Composed
from weitiao.stages import _unlabelled
from weitiao.tasks.base import Answers, Task

SHOWN_EVERY = 20_000  # texts between two signs of progress: a few seconds
SMALLEST_FOR_DEV = 200  # below it, a tenth is too few texts to choose a checkpoint by


@dataclass
class Prepared:
    """Records of each split (``train``, ``dev``, ``test``; dev may be missing) and what was learnt of them."""

    records: dict[str, Any]
    sources: dict[str, dict[str, Any]]
    answers: Answers
    findings: list[Finding] = field(default_factory=list)
    encoded: dict[str, Encoded] = field(default_factory=dict)
    unlabelled: Any = None  # records of texts to learn from too
    objective: Composed | None = None  # which may want to know more of the training examples


def read(
    task: Task, source: Any, columns: dict[str, str], skip_bad_rows: bool, group_column: str = ""
) -> tuple[Any, Table, list[BadRow]]:
    """One table as the task's records; with ``group_column`` each also has a ``group``."""
    table = source if isinstance(source, Table) else read_table(_located(source), skip_bad_rows=skip_bad_rows)
    table = task.table(table)
    found = table.find(task.columns, columns)
    if group_column:
        found[GROUP] = check_column(group_column, table.column_names, table.name)

    def example(row: dict[str, Any]) -> dict[str, Any]:
        group = row.pop(GROUP, None)
        if not task.labelled:
            row.setdefault(task.label_key, None)  # here an answer must be found, wherever the row has it
        return task.example(row) if group is None else {**task.example(row), GROUP: str(group).strip()}

    nullable = {column.role for column in task.columns if column.nullable}
    records, bad = make_records(table, found, example, skip_bad_rows=skip_bad_rows, nullable=nullable)
    return records, table, [*table.bad_rows, *bad]


def _located(source: Any) -> Any:
    return resolve_data(source).path if isinstance(source, str | Path) else source


def prepare(task: Task, config: Any) -> Iterator[Event | Prepared]:
    """Read, split and check; the last item is the ``Prepared``.

    Raises:
        WeitiaoError: the data cannot be used (see ``data.readers`` and ``data.quality``).
    """
    options = {"skip_bad_rows": config.skip_bad_rows}
    tables: dict[str, Any] = dict(read_splits(_located(config.data), **options))
    if "train" not in tables:
        raise WeitiaoError(
            say(
                f"{config.data} has no training table, only: {', '.join(tables)}",
                f"{config.data} 中没有训练表，只有：{', '.join(tables)}",
            )
        )
    tables = {"train": tables["train"], "dev": tables.get("validation"), "test": tables.get("test")}
    for name, path in (("dev", config.dev_data), ("test", config.test_data)):
        if path:
            tables[name] = path
    unlabelled = None
    if config.unlabelled:
        if config.unlabelled == _unlabelled.ROWS:
            tables["train"], without = _unlabelled.parted(task, tables["train"], config.columns)
        else:
            without = read_table(_located(config.unlabelled), **options)
        unlabelled = _unlabelled.records_of(task, without, config)
    records: dict[str, Any] = {}
    sources: dict[str, dict[str, Any]] = {}
    for name, source in tables.items():
        if source is None:
            continue
        groups = config.member_values.get("group_column", "") if name == "train" else ""
        records[name], table, bad = read(task, source, config.columns, config.skip_bad_rows, groups)
        sources[name] = {"name": Path(table.name).name, "sha256": table.sha256}
        if bad:
            yield NoteEvent(_skipped(table.name, bad), "warning")
    yield from _split(task, config, records, sources)
    if config.shots:
        yield from _draw(task, config, records)
    for name in records:
        sources[name]["rows"] = len(records[name])
    labels = {name: column(part, task.label_key) for name, part in records.items()}
    answers = task.learn({task.label_key: labels["train"]} if task.labelled else records["train"])
    if task.labelled and answers.kind != "values":
        for name in labels:
            check_labels(labels["train"], labels[name] if name != "train" else None)
    yield Prepared(records, sources, answers, unlabelled=unlabelled)


def _split(
    task: Task, config: Any, records: dict[str, Any], sources: dict[str, dict[str, Any]]
) -> Iterator[Event]:
    """Hold out what was not given: a test part, and a part to choose the checkpoint by."""
    for name, fraction in (("test", config.test_fraction), ("dev", config.dev_fraction)):
        if name in records or not fraction or (name == "dev" and len(records["train"]) < SMALLEST_FOR_DEV):
            continue
        whole = records["train"]
        kept, held = split(
            whole,
            test_fraction=fraction,
            seed=config.seed if config.split_seed is None else config.split_seed,
            group_key=task.text_keys,
            label_key=task.label_key if task.labelled else "",
        )
        records["train"], records[name] = whole.select(kept), whole.select(held)
        sources[name] = {**sources["train"]}
        use = (
            say("for testing", "用于测试")
            if name == "test"
            else say("to choose the checkpoint", "用于选择检查点")
        )
        things, measure = ("pictures", "张") if task.reads == "pictures" else ("texts", "条")
        yield NoteEvent(
            say(
                f"{len(held):,} of {len(whole):,} {things} held out {use}",
                f"从 {len(whole):,} {measure}中留出 {len(held):,} {measure}{use}",
            )
        )


def _draw(task: Task, config: Any, records: dict[str, Any]) -> Iterator[Event]:
    """Keep ``--shots`` training texts of each class."""
    labels = column(records["train"], task.label_key)
    if not all(isinstance(label, str) for label in labels):
        raise WeitiaoError(
            say(
                f"--shots counts the texts of each class; the labels of {config.data} are no single classes",
                f"--shots 按类别计数，而 {config.data} 的标签不是单一类别",
            )
        )
    records["train"] = records["train"].select(draw(labels, config.shots, config.seed))
    yield NoteEvent(
        say(
            f"{len(records['train']):,} of {len(labels):,} texts drawn to train on: {config.shots} a class",
            f"从 {len(labels):,} 条中抽取 {len(records['train']):,} 条用于训练：每类 {config.shots} 条",
        )
    )


def add_facts(task: Task, prepared: Prepared, encoded: Encoded, records: Any) -> None:
    """Give encoded training examples what the objective must know of them beside their targets."""
    if prepared.objective is None or not prepared.objective.needs_facts:
        return
    keys = [*task.text_keys, *([GROUP] if prepared.objective.group_column else [])]
    rows = [row for chunk in rows_in_chunks(records, keys) for row in chunk]
    texts, groups = [task.shown(row) for row in rows], [row.get(GROUP, "") for row in rows]
    encoded.facts = prepared.objective.facts(texts, groups, prepared.answers.names)


def _skipped(name: str, bad: list[BadRow], shown: int = 5) -> str:
    rows = "; ".join(f"{b.row} ({b.reason})" for b in bad[:shown]) + (" ..." if len(bad) > shown else "")
    return say(f"{name}: {len(bad):,} bad rows skipped: {rows}", f"{name}：跳过 {len(bad):,} 行：{rows}")


def encode(task: Task, prepared: Prepared, tokenizer: Any, max_length: int) -> Iterator[Event]:
    """Fill ``prepared.encoded``, and say what is wrong with the data."""
    total, done = sum(map(len, prepared.records.values())), 0
    pictures = task.reads == "pictures"
    reading = say("reading pictures", "读入图片") if pictures else say("reading texts", "读入文本")
    for name, records in prepared.records.items():
        parts = []
        for start in range(0, len(records), SHOWN_EVERY):
            yield ProgressEvent(reading, done, total)
            part = records.select(range(start, min(start + SHOWN_EVERY, len(records))))
            parts.append(task.encode(part, tokenizer, max_length, prepared.answers))
            if name == "train":
                add_facts(task, prepared, parts[-1], part)
            done += len(part)
        prepared.encoded[name] = Encoded.joined(parts)
    yield ProgressEvent(reading, total, total)
    prepared.findings = inspect(
        prepared.records["train"],
        prepared.records.get("test"),
        lengths=prepared.encoded["train"].uncut,
        max_length=max_length,
        text_keys=task.text_keys,
        label_key=task.label_key if task.labelled else "",
    )
    prepared.findings += task.findings(prepared.records["train"])
    prepared.findings += task.check_encoded(prepared.encoded["train"], prepared.records["train"], max_length)
    for finding in prepared.findings:
        yield NoteEvent(finding.message, "warning")
