"""From the settings of ``weitiao label`` to a session: the texts, the labels, what was known before, features."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core.config import build, make_member, read_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, read_json, sha256
from weitiao.labelling.features import Reader, check_task, pretrained, read_all
from weitiao.labelling.learner import Learner
from weitiao.labelling.project import Project
from weitiao.labelling.session import Scored, Session, Settings, Texts
from weitiao.runtime.tables import record_parts
from weitiao.tasks.base import Answers, Task, class_targets

Records = list[dict[str, Any]]


@dataclass
class Subject:
    """Who reads the texts, the labels to begin with, and the labelled rows there are."""

    reader: Reader
    labels: list[str]
    identity: str  # of the model, for the cache of features
    columns: dict[str, str]
    known: Records
    test: Records


def open_session(config: Any) -> Iterator[Event | Session]:
    """Events of the preparation; the last item is the session.

    Raises:
        WeitiaoError: a table can't be read, there are no labels, or OUTPUT is another project's.
    """
    folder = Path(config.output or f"labels-{Path(config.data).name.split('.')[0]}")
    project = Project(folder)
    subject: Subject | None = None
    journal = project.journal(config.annotator)
    for item in _subject(config, _held_labels(folder)):
        if isinstance(item, Event):
            yield item
        else:
            subject = item
    assert subject is not None
    task = subject.reader.task
    records = [record for part in record_parts(task, config.data, subject.columns) for record in part]
    facts = {
        "data": Path(config.data).name,
        "sha256": sha256(config.data),
        "task": task.name,
        "labels": subject.labels,
    }
    labels = project.settle(facts)["labels"]
    parts: list[np.ndarray] = []
    for name, rows in (("texts", records), ("known", subject.known), ("test", subject.test)):
        yield from _features(subject, rows, folder / "features" / name, parts)
    answers = Answers("classes", labels)
    known = class_targets(subject.known, answers, task.label_key)
    learner = Learner(parts[0], len(labels), parts[1], known, seed=config.seed)
    test = Scored(parts[2], class_targets(subject.test, answers, task.label_key)) if subject.test else None
    texts = Texts([r["row_number"] for r in records], [task.shown(r) for r in records], _cells(records))
    settings = Settings(
        make_member("selection", config.strategy, config.member_values),
        config.strategy,
        config.retrain_every,
        config.random_share,
        config.overlap,
        config.suggest,
    )
    yield Session(project, journal, texts, labels, learner, settings, test, task.label_key)


def _held_labels(folder: Path) -> list[str]:
    """The labels that the project was begun with, so that they need not be said again."""
    file = folder / "project.json"
    return list(read_json(file).get("labels", [])) if file.exists() else []


def _subject(config: Any, held: list[str]) -> Iterator[Event | Subject]:
    if config.run:
        yield from _of_run(config, held)
        return
    labels = list(dict.fromkeys([*held, *config.labels]))
    if len(labels) < 2:
        raise WeitiaoError(
            say(
                "Which labels? Name a run that has them with --run, or at least two with --labels good,bad",
                "有哪些标签？请用 --run 指定已有标签的运行，或用 --labels 好,坏 给出至少两个",
            )
        )
    task = make_member("tasks", config.task, config.member_values)
    answers = Answers("classes", labels)
    check_task(task, answers)
    reader = pretrained(task, config.model, answers, config.max_length, config.threads)
    test = _read(task, config.test_data, config.columns, labels) if config.test_data else []
    yield Subject(reader, labels, f"{config.model}-{config.max_length}", config.columns, [], test)


def _of_run(config: Any, held: list[str]) -> Iterator[Event | Subject]:
    from weitiao.core.device import set_threads
    from weitiao.stages._predictor import Run, weights_hash

    run = Run(config.run)
    check_task(run.task, run.answers)
    set_threads(config.threads)
    longest = run.description["max_length"]
    reader = Reader(run.task, run.model, run.tokenizer, longest)
    labels = list(dict.fromkeys([*run.answers.names, *held, *config.labels]))
    known, test, columns, why = _rows_of(run)
    columns = config.columns or columns
    if config.test_data:
        test = _read(run.task, config.test_data, columns, labels)
    if why:
        yield NoteEvent(
            say(
                f"The rows that {config.run} was trained on can't be read ({why}): the head begins with none",
                f"无法读取 {config.run} 的训练数据（{why}）：分类头从零开始",
            ),
            "warning",
        )
    identity = f"{weights_hash(run.model_folder)}-{sha256(run.model_folder / 'weitiao.json')}"
    yield Subject(reader, labels, identity, columns, known, test)


def _rows_of(run: Any) -> tuple[Records, Records, dict[str, str], str]:
    """A run's training rows, its test rows and its columns; and why there are none, where there are none."""
    from weitiao.stages import finetune
    from weitiao.stages._prepare import Prepared, prepare

    file = run.folder / "config.yaml"
    if not file.exists():
        return [], [], {}, say("there is no config.yaml", "没有 config.yaml")
    settings = build(finetune.Config, read_yaml(file))
    try:
        *_, prepared = prepare(run.task, settings)
    except WeitiaoError as error:
        return [], [], settings.columns, str(error)
    assert isinstance(prepared, Prepared)
    parts = {name: records.to_list() for name, records in prepared.records.items()}
    return [*parts["train"], *parts.get("dev", [])], parts.get("test", []), settings.columns, ""


def _read(task: Task, data: str, columns: dict[str, str], labels: list[str]) -> Records:
    """A labelled table, whose labels must be known."""
    from weitiao.data.quality import check_labels

    records = [record for part in record_parts(task, data, columns, labels=True) for record in part]
    check_labels(labels, [record[task.label_key] for record in records])
    return records


def _cells(records: Records) -> list[dict[str, str]]:
    """What of each record goes into ``labels.csv``."""
    return [{key: str(v) for key, v in record.items() if isinstance(v, str)} for record in records]


def _features(subject: Subject, records: Records, file: Path, into: list[np.ndarray]) -> Iterator[Event]:
    """The features of records; those that were read before are kept in the project's folder."""
    task = subject.reader.task
    digest = hashlib.sha256(subject.identity.encode())
    for record in records:
        digest.update(task.shown(record).encode("utf-8", "backslashreplace") + b"\0")
    path = file.with_name(f"{file.name}-{digest.hexdigest()[:16]}.npy")
    if path.exists():
        into.append(np.load(path))
        return
    yield from read_all(subject.reader, records, into)
    with atomic_file(path, "wb") as out:
        np.save(out, into[-1])
