"""The end of a search: its best trial, scored once on the test part, and the table and pictures of all trials."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.config import build, read_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, read_json, write_json
from weitiao.core.version import __version__
from weitiao.stages import finetune
from weitiao.stages._study import Study, ranked

if TYPE_CHECKING:
    from weitiao.stages.tune import Config


def conclude(study: Study, config: "Config") -> Iterator[Event]:
    """Score the best trial on the test part, write the results. Ends in a ``ResultEvent``.

    Raises:
        WeitiaoError: no trial was trained to its end.
    """
    folder, found = study.folder, study.found()
    order = ranked(found)
    if not order:
        reasons = {row["reason"] for row in found if row["reason"]}
        raise WeitiaoError(
            say("No trial was trained to its end. ", "没有任何试验完成训练。") + "; ".join(sorted(reasons))
        )
    best = order[0]
    run = folder / best["folder"]
    yield ProgressEvent(say("scoring the best trial", "评估最佳试验"), 0, 1)
    score_test(run)
    yield ProgressEvent(say("scoring the best trial", "评估最佳试验"), 1, 1)
    link(folder / "best", run)
    result = summary(study, config, best)
    if config.ensemble > 1 and len(order) > 1:
        together = yield from _ensemble(config, [folder / row["folder"] for row in order])
        result |= {"ensemble": together} if together else {}
    from weitiao.reporting.search import markdown, page, table_text

    write_json(folder / "tune.json", result)
    for name, make in (("README.md", markdown), ("report.html", page)):
        with atomic_file(folder / name) as file:
            file.write(make(folder.resolve().name, result))
    text = say(
        f"Best run: {folder / 'best'}   report: {folder / 'report.html'}",
        f"最佳运行：{folder / 'best'}   报告：{folder / 'report.html'}",
    )
    yield ResultEvent(str(folder), {"text": f"{table_text(result)}\n{text}", "tune": result})


def score_test(folder: Path) -> None:
    """Score a run's saved model on its test part, and write that into its figures, card and report.

    A run that has been scored, or has no test part, is left as it is.
    """
    metrics = read_json(folder / "metrics.json")
    if "test" in metrics["evaluation"]:
        return
    from weitiao.core.catalogue import member
    from weitiao.evaluation.base import write_errors
    from weitiao.reporting.card import write_card
    from weitiao.reporting.page import write_report
    from weitiao.stages._predictor import Run
    from weitiao.stages._prepare import prepare

    settings = build(finetune.Config, read_yaml(folder / "config.yaml"))
    trained = Run(folder)
    *_, prepared = prepare(trained.task, settings)
    records: dict[str, Any] = prepared.records  # type: ignore[union-attr]
    if "test" not in records:
        return
    encoded, outputs = trained.outputs(records["test"])
    predictions = trained.task.predictions(outputs, encoded, records["test"], trained.answers)
    evaluation = member("evaluation", trained.task.evaluation(trained.answers))()
    majority = trained.task.majority(records["train"], trained.answers)
    report = evaluation.report(predictions, train_majority=majority, seed=settings.seed)
    metrics["evaluation"]["test"] = report
    write_errors(folder / "errors.csv", evaluation.worst_errors(predictions))
    write_json(folder / "metrics.json", metrics)
    write_card(folder)
    write_report(folder)


def link(place: Path, run: Path) -> None:
    """Make ``place`` lead to a run: a link where the system has them, else a copy."""
    if place.is_symlink() or place.is_file():
        place.unlink()
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError, NotImplementedError):
        os.symlink(os.path.relpath(run, place.parent), place, target_is_directory=True)
        return
    shutil.copytree(run, place)


def summary(study: Study, config: "Config", best: dict[str, Any]) -> dict[str, Any]:
    """What ``tune.json`` holds."""
    metrics = read_json(study.folder / best["folder"] / "metrics.json")
    test = metrics["evaluation"].get("test")
    monitor = metrics["monitor"]
    return {
        "format": 1,
        "weitiao": __version__,
        "task": metrics["task"],
        "model": metrics["model"]["name"],
        "monitor": monitor,
        "data": metrics["data"],
        "space": [axis.as_json() for axis in study.axes],
        "sampler": config.sampler,
        "pruner": config.pruner,
        "trials": study.found(),
        "best": best["place"],
        "importance": study.importance(),
        "test": test and {
            "score": test["scores"][monitor],
            "interval": test["intervals"].get(monitor),
            "baseline": test["baseline"].get(monitor),
            "rows": test["rows"],
        },
        "environment": metrics["environment"],
    }  # fmt: skip


def _ensemble(config: "Config", runs: list[Path]) -> Any:
    """Average the predictions of the best trials whose models are there. Returns its scores; None without two."""
    from weitiao.stages.ensemble import Config as Together
    from weitiao.stages.ensemble import run as join

    there = [run for run in runs if (run / "model").is_dir()]  # a search that grew kept fewer before
    runs, wanted = there[: config.ensemble], min(config.ensemble, len(runs))
    if len(runs) < wanted:
        text = say(
            f"--ensemble {config.ensemble}: the search had kept the models of {len(runs)} trials only, which are "
            "taken. Begin with a higher --keep-models where more may be wanted later",
            f"--ensemble {config.ensemble}：此前的搜索只保留了 {len(runs)} 次试验的模型，只能使用这些。若以后可能需要更多，"
            "请一开始就增大 --keep-models",
        )
        yield NoteEvent(text, "warning")
    if len(runs) < 2:
        return None
    members = [str(run) for run in runs]
    settings = Together(runs=members, output=str(Path(config.output) / "ensemble"), overwrite=True)
    scores: dict[str, Any] = {}
    for event in join(settings):
        if isinstance(event, ResultEvent):
            scores = event.result["scores"]
        elif isinstance(event, NoteEvent | ProgressEvent):
            yield event
    return {"members": [run.name for run in runs], "scores": scores}
