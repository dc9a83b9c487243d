"""A comparison's table: what every run scored and cost, the mean of each method and its interval over seeds."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core import catalogue
from weitiao.core.config import read_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, read_events, read_json, write_json
from weitiao.core.version import __version__

if TYPE_CHECKING:
    from weitiao.stages.compare import Config, Member


def same_rows(metrics: dict[str, Any], first: dict[str, Any], member: "Member") -> dict[str, Any]:
    """What the run was trained and scored on, which must be what the first one was."""
    data = {name: (source["sha256"], source["rows"]) for name, source in metrics["data"].items()}
    if first and data != first:
        raise WeitiaoError(
            say(
                f"The data has changed since the comparison began ({member.folder} has other rows): put it back, or "
                "begin anew with --overwrite",
                f"比较开始之后数据发生了变化（{member.folder} 的数据不同）：请恢复原数据，或用 --overwrite 重新开始",
            )
        )
    if not metrics["evaluation"]:
        raise WeitiaoError(
            say(
                "There is no test part to compare on: give --test-data or a --test-fraction above 0",
                "没有可供比较的测试集：请给出 --test-data，或大于 0 的 --test-fraction",
            )
        )
    return data


def summary(config: "Config", members: "Sequence[Member]", measures_memory: bool) -> dict[str, Any]:
    """What ``comparison.json`` holds."""
    from weitiao.reporting.page import main_split

    found = {member.folder: read_json(member.folder / "metrics.json") for member in members}
    metrics = found[members[0].folder]
    split = main_split(metrics)
    monitor = metrics["monitor"]
    names = list(dict.fromkeys(member.name for member in members))
    methods = []
    for name in names:
        runs = [_figures(m, found[m.folder], split, measures_memory) for m in members if m.name == name]
        methods.append(_method(name, runs, monitor))
    return {
        "format": 1,
        "weitiao": __version__,
        "task": metrics["task"],
        "model": metrics["model"]["name"],
        "monitor": monitor,
        "split": split,
        "baseline": metrics["evaluation"][split]["baseline"].get(monitor),
        "data": metrics["data"],
        "seeds": [config.seed + number for number in range(config.seeds)],
        "methods": methods,
        "environment": metrics["environment"],
    }


def _figures(member: "Member", metrics: dict[str, Any], split: str, measures_memory: bool) -> dict[str, Any]:
    """One run's figures. The time is that of its steps, also where they were taken in several goes."""
    steps = {event["step"]: event for event in read_events(member.folder) if event["event"] == "step"}
    seconds = sum(event["tokens"] / event["tokens_per_second"] for event in steps.values())
    tuning = catalogue.member("tuning", member.config.tuning)
    settings = read_yaml(member.folder / "config.yaml")
    rate, epochs = settings["learning_rate"], settings["num_epochs"]
    return {
        "folder": str(Path("runs") / member.folder.name),
        "tuning": member.config.tuning,
        "objective": member.config.objective,
        "seed": member.seed,
        "score": metrics["evaluation"][split]["scores"][metrics["monitor"]],
        "trained_parameters": metrics["model"]["trained_parameters"],
        "weights_bytes": metrics["model"]["weights_bytes"],
        "seconds": seconds if steps else metrics["cost"]["actual_seconds"],
        "memory_bytes": metrics["cost"]["actual_memory_bytes"] if measures_memory else None,
        "learning_rate": rate or getattr(tuning, "learning_rate", None),
        "num_epochs": tuning.num_epochs if epochs is None else epochs,
    }


def _method(name: str, runs: list[dict[str, Any]], monitor: str) -> dict[str, Any]:
    """The mean of a method's runs, and its interval."""
    from weitiao.reporting.text import SHARES

    scores = [run["score"] for run in runs]
    memory = [run["memory_bytes"] for run in runs if run["memory_bytes"] is not None]
    return {
        "name": name,
        "score": sum(scores) / len(scores),
        "interval": t_interval(scores, (0.0, 1.0) if monitor in SHARES else None),
        "trained_parameters": max(run["trained_parameters"] for run in runs),
        "weights_bytes": max(run["weights_bytes"] for run in runs),
        "seconds": sum(run["seconds"] for run in runs) / len(runs),
        "memory_bytes": max(memory, default=None),
        "runs": runs,
    }


def t_interval(values: Sequence[float], within: tuple[float, float] | None = None) -> list[float] | None:
    """The 95 % interval of a mean by Student's t; None of a single value. ``within``: where a score can lie at all."""
    from scipy.special import stdtrit

    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / len(values) ** 0.5
    low, high = mean - half, mean + half
    return [max(low, within[0]), min(high, within[1])] if within else [low, high]


def write(folder: Path, comparison: dict[str, Any]) -> None:
    """``comparison.json``, ``README.md`` and ``compare.html``."""
    from weitiao.reporting.comparison import markdown, page

    title = folder.resolve().name
    write_json(folder / "comparison.json", comparison)
    for name, make in (("README.md", markdown), ("compare.html", page)):
        with atomic_file(folder / name) as file:
            file.write(make(title, comparison))
