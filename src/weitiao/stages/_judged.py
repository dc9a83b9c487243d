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
    report = read_json(folder / "metrics.json").get("evaluation", {}).get("test", {})
    baseline = report.get("baseline", {}).get(ledger.monitor)
    why = _forgot(lost, most_loss) or _learnt_nothing(name, ledger.monitor, scores[name], ahead, baseline)
    ledger.times.append(
        Time(f"updates/{folder.name}", facts["method"], name, not why, scores, ahead, baseline,
             facts["settings"], round(facts["seconds"], 1))
    )  # fmt: skip
    held = ledger.write(home)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    yield NoteEvent(matrix_text(ledger))
    if why:
        text = say(
            f"{folder} is kept, but not promoted: {why}. {home} answers as before",
            f"{folder} 已保留但未启用：{why}。{home} 照旧作答",
        )
        yield NoteEvent(text, "warning")
    else:
        yield NoteEvent(
            say(f"Promoted: {home} now answers with {folder}", f"已启用：{home} 现在由 {folder} 作答")
        )
    figures = ("average_forgetting", "backward_transfer", "forward_transfer")
    result = {"promoted": not why, "lost_points": lost, "scores": scores} | {
        key: held[key] for key in figures
    }
    yield ResultEvent(str(folder), result)


def _forgot(lost: dict[str, float], most: float) -> str:
    """Why an update is not promoted that costs an old task more points than ``most``; empty where none does."""
    worst = max(lost, key=lost.__getitem__)
    if lost[worst] <= most + 1e-9:
        return ""
    return say(
        f"{worst} lost {lost[worst]:.1f} points (--most-loss {most:g})",
        f"{worst} 下降了 {lost[worst]:.1f} 个百分点（--most-loss {most:g}）",
    )


def _learnt_nothing(
    name: str, monitor: str, after: float, ahead: float | None, baseline: float | None
) -> str:
    """Why an update is not promoted that does no better on its own data than what there was: its risk buys nothing.

    Args:
        ahead: the score of the model before it; None where it knew none of the labels, and then the commonest label's,
            ``baseline``, is to be beaten.
    """
    known = ahead if ahead is not None else baseline
    if known is None or after > known + 1e-9:
        return ""
    than = say("before", "更新前") if ahead is not None else say("always the commonest", "总答最常见标签")
    return say(
        f"it learnt nothing of {name} ({monitor} {after:.3f}; {than}: {known:.3f}). Where that can be bettered, more "
        "--num-epochs or a higher --learning-rate may",
        f"没有从 {name} 学到东西（{monitor} {after:.3f}；{than}：{known:.3f}）。若仍可提高，可增大 --num-epochs 或 --learning-rate",
    )


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
