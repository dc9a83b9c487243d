"""The audit of a table's labels: features, cross-validation, confident learning, a table and a page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core.config import make_member
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, write_json
from weitiao.labelling.features import check_task, pretrained, read_all
from weitiao.labelling.noise import Noise, find
from weitiao.stages._prepare import read
from weitiao.tasks.base import Answers, class_targets
from weitiao.training.probe import held_out_probabilities

PENALTY = 100.0  # strong: the head must not learn the wrong labels by heart (LAB_LOG.md)
SHOWN = 200  # rows in the page; the table has all


def audit(config: Any) -> Iterator[Event]:
    """Rank the rows of ``config.data`` by how suspicious their label is.

    The features are those of the pretrained model, not of a model that was trained on these very labels; each row's
    probabilities come from a head that did not see its label.

    Raises:
        WeitiaoError: the table has no labels, too few, or only one.
    """
    task, model, max_length, columns = _subject(config)
    check_task(task)
    records, table, _ = read(task, config.data, columns, False)
    labels = records[task.label_key]
    answers = task.learn({task.label_key: labels})
    check_task(task, answers)
    smallest = min(labels.count(name) for name in answers.names)
    if len(answers.names) < 2 or len(labels) < 2 * config.folds:
        raise WeitiaoError(
            say(
                f"{config.data} has {len(labels)} rows and {len(answers.names)} labels: too little to tell right from "
                "wrong",
                f"{config.data} 只有 {len(labels)} 行、{len(answers.names)} 个标签，不足以判断对错",
            )
        )
    if smallest < config.folds:
        rare = next(name for name in answers.names if labels.count(name) == smallest)
        yield NoteEvent(
            say(
                f"Label {rare} has {smallest} rows: rows of so rare a label always look suspicious",
                f"标签 {rare} 只有 {smallest} 行：过于稀少的标签总会显得可疑",
            ),
            "warning",
        )
    features: list[np.ndarray] = []
    yield from read_all(pretrained(task, model, answers, max_length, config.threads), records, features)
    targets = class_targets(records, answers, task.label_key)
    found = yield from _probabilities(features[0], targets, len(answers.names), config)
    noise = find(found, targets)
    folder = Path(config.output or f"audit-{Path(config.data).name.split('.')[0]}")
    rows = _rows(task, records, labels, answers, found, noise)
    _write(folder, rows, noise, Path(table.name).name, model)
    marked = int(noise.confident_N.sum())
    text = say(
        f"About {noise.wrong} of {len(labels)} labels look wrong; {marked} rows are marked. The most suspicious first: "
        f"{folder / 'suspects.csv'}   page: {folder / 'suspects.html'}",
        f"{len(labels)} 个标签中约有 {noise.wrong} 个可能有误，已标出 {marked} 行。按可疑程度排列："
        f"{folder / 'suspects.csv'}   页面：{folder / 'suspects.html'}",
    )
    yield NoteEvent(text)
    yield ResultEvent(str(folder), {"rows": len(labels), "estimated_wrong": noise.wrong, "marked": marked})


def _subject(config: Any) -> tuple[Any, str, int, dict[str, str]]:
    """The task, the pretrained model's name, the length that texts are cut to, and the columns."""
    if not config.run:
        task = make_member("tasks", config.task, config.member_values)
        return task, config.model, config.max_length, config.columns
    from weitiao.core.config import read_yaml
    from weitiao.stages._predictor import Run

    run = Run(config.run)
    file = run.folder / "config.yaml"
    columns = config.columns or (read_yaml(file).get("columns", {}) if file.exists() else {})
    return run.task, run.description["base"]["name"], run.description["max_length"], columns


def _probabilities(features: np.ndarray, targets: np.ndarray, classes: int, config: Any) -> Any:
    parts = held_out_probabilities(
        features, targets, classes, folds=config.folds, penalty=PENALTY, seed=config.seed
    )
    found_NC = np.empty((0, classes))
    for number, part_NC in enumerate(parts):
        found_NC = part_NC
        yield ProgressEvent(say("cross-validation", "交叉验证"), number + 1, config.folds)
    return found_NC


def _rows(
    task: Any, records: Any, labels: list[str], answers: Answers, p_NC: np.ndarray, noise: Noise
) -> list[dict[str, Any]]:
    """The table's rows, most suspicious first."""
    numbers, every = records["row_number"], records.to_list()
    return [
        {
            "rank": rank,
            "row_number": numbers[row],
            "text": task.shown(every[row]),
            "label": labels[row],
            "suggested": answers.names[noise.suggested_N[row]],
            "probability_label": float(p_NC[row, answers.names.index(labels[row])]),
            "probability_suggested": float(p_NC[row, noise.suggested_N[row]]),
            "marked": "yes" if noise.confident_N[row] else "",
        }
        for rank, row in enumerate(noise.order.tolist(), 1)
    ]


def _write(folder: Path, rows: list[dict[str, Any]], noise: Noise, data: str, model: str) -> None:
    from weitiao.evaluation.base import write_errors
    from weitiao.reporting.suspects import page

    folder.mkdir(parents=True, exist_ok=True)
    write_errors(folder / "suspects.csv", rows)
    facts = {"data": data, "model": model, "rows": len(rows), "estimated_wrong": noise.wrong,
             "marked": int(noise.confident_N.sum())}  # fmt: skip
    write_json(folder / "audit.json", facts)
    with atomic_file(folder / "suspects.html") as file:
        file.write(page(facts, rows[:SHOWN]))
