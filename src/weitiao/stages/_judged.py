"""After the training of an update: every task scored, the ledger kept, the update promoted or not."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core import catalogue
from weitiao.core.config import make_member
from weitiao.core.events import Event, NoteEvent, ProgressEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import read_json
from weitiao.stages._ledger import Ledger, Time, matrix_text
from weitiao.stages._predictor import Run
from weitiao.stages._prepare import Prepared, prepare
from weitiao.stages._updating import Before, Learnt
from weitiao.tasks.base import Answers
from weitiao.training.outputs import outputs_of

NEVER = -1e4  # the logit of a class that a model does not know


def judge(
    home: Path,
    folder: Path,
    before: Before,
    settings: Any,
    ledger: Ledger | None,
    most_loss: float,
    facts: dict[str, Any],
) -> Iterator[Event]:
    """Score the model before and after on every task. Ends in a ``ResultEvent``."""
    task = make_member("tasks", settings.task, settings.member_values)
    *_, prepared = prepare(task, settings)
    assert isinstance(prepared, Prepared)
    old, new = Run(before.folder), Run(folder)
    name = _unlike(prepared.sources["train"]["name"], [learnt.name for learnt in before.tasks])
    fresh = Learnt(name, prepared.records)
    tasks = [*before.tasks, fresh]
    total, done = (2 if ledger is None else 1) * len(before.tasks) + 2, 0

    def scored(run: Run, learnt: Learnt) -> float:
        nonlocal done
        done += 1
        return _score(run, new.answers, learnt)

    what = say("scoring every task", "评估各个任务")
    yield ProgressEvent(what, done, total)
    if ledger is None:
        first = before.tasks[0]
        scores = {first.name: scored(old, first)}
        ledger = Ledger(_monitor(new), [Time("", "", first.name, True, scores, baseline=first.baseline)])
    start = ledger.promoted[-1].scores
    labels = fresh.records["train"][task.label_key]
    strange = isinstance(labels[0], str) and not set(labels) & set(old.answers.names)
    ahead = None if strange else scored(old, fresh)
    scores = {}
    for learnt in tasks:
        yield ProgressEvent(what, done, total)
        scores[learnt.name] = scored(new, learnt)
    yield ProgressEvent(what, total, total)
    lost = {learnt.name: 100 * (start[learnt.name] - scores[learnt.name]) for learnt in before.tasks}
    worst = max(lost, key=lost.__getitem__)
    stays = lost[worst] > most_loss + 1e-9
    baseline = read_json(folder / "metrics.json").get("evaluation", {}).get("test", {}).get("baseline", {})
    ledger.times.append(
        Time(f"updates/{folder.name}", facts["method"], name, not stays, scores, ahead, baseline.get(ledger.monitor),
             facts["settings"], round(facts["seconds"], 1))
    )  # fmt: skip
    held = ledger.write(home)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    yield NoteEvent(matrix_text(ledger))
    if stays:
        text = say(
            f"{folder} is kept, but not promoted: {worst} lost {lost[worst]:.1f} points (--most-loss {most_loss:g}). "
            f"{home} answers as before",
            f"{folder} 已保留但未启用：{worst} 下降了 {lost[worst]:.1f} 个百分点（--most-loss {most_loss:g}）。{home} 照旧作答",
        )
        yield NoteEvent(text, "warning")
    else:
        yield NoteEvent(
            say(f"Promoted: {home} now answers with {folder}", f"已启用：{home} 现在由 {folder} 作答")
        )
    figures = ("average_forgetting", "backward_transfer", "forward_transfer")
    result = {"promoted": not stays, "lost_points": lost, "scores": scores} | {
        key: held[key] for key in figures
    }
    yield ResultEvent(str(folder), result)


def _unlike(name: str, taken: list[str]) -> str:
    """``name``, with a number behind it where it is taken."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name} ({number})", number + 1
    return found


def _monitor(run: Run) -> str:
    return str(catalogue.member("evaluation", run.task.evaluation(run.answers)).monitor)


def _score(run: Run, answers: Answers, learnt: Learnt) -> float:
    """The score of a model on a task's test rows, where the labels may be more than it knows."""
    records = learnt.records["test"]
    encoded = run.task.encode(records, run.tokenizer, run.description["max_length"], answers)
    missing = len(answers.names) - len(run.answers.names)
    outputs = outputs_of(run.model, encoded)
    if missing:
        outputs = [
            np.concatenate([o, np.full((*o.shape[:-1], missing), NEVER, o.dtype)], -1) for o in outputs
        ]
    evaluation = catalogue.member("evaluation", run.task.evaluation(answers))()
    predictions = run.task.predictions(outputs, encoded, records, answers)
    return float(evaluation.scores(predictions)[evaluation.monitor])
