"""Going on with a run that was stopped: its settings, whether anything is left to do, and how to say it."""

import dataclasses
import shlex
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.config import build, default, read_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import read_json

if TYPE_CHECKING:
    from weitiao.stages._training import Training
    from weitiao.training.loop import Parts

MAY_CHANGE = frozenset(
    {"output", "resume", "threads", "trackers"}
)  # settings that do not change what is learnt


def stored(config: Any, may_change: frozenset[str] = MAY_CHANGE) -> Any:
    """The config of the run that is to be resumed."""
    file = Path(config.output) / "config.yaml"
    if not config.output or not file.exists():
        raise WeitiaoError(
            say(
                f"Nothing to resume: {file} is not there. Name the run's folder with --output",
                f"没有可继续的运行：找不到 {file}。请用 --output 指定运行目录",
            )
        )
    stored = read_yaml(file)
    given = {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != default(f)
    }
    given |= given.pop("member_values", {})
    for name, value in given.items():
        if name not in may_change and value != stored.get(name):
            raise WeitiaoError(
                say(
                    f"{name} is {value} here, but {stored.get(name)} in the run that is to go on: leave it out, or "
                    "begin anew with --overwrite",
                    f"此处 {name} 为 {value}，而要继续的运行中是 {stored.get(name)}：请去掉该选项，或用 --overwrite 重新开始",
                )
            )
    return build(type(config), stored | {name: given[name] for name in may_change if name in given})


def digests(sources: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The hash of each table of a run, kept in its checkpoints."""
    return {name: source["sha256"] for name, source in sources.items()}


def same_data(began_with: dict[str, str], sources: dict[str, dict[str, Any]]) -> None:
    """Refuse to go on with other data: what was learnt and what is scored would no longer belong together."""
    now = digests(sources)
    for name, digest in began_with.items():
        if now.get(name) != digest:
            raise WeitiaoError(
                say(
                    f"The {name} data is not what this run began with: put it back, or begin anew with --overwrite",
                    f"{name} 数据已与本次运行开始时不同：请恢复原数据，或用 --overwrite 重新开始",
                )
            )


def newest_checkpoint(checkpoints: Path) -> Generator[Event, None, Path | None]:
    """The newest complete checkpoint to go on from; damaged ones are told of and removed."""
    from weitiao.training import checkpoint

    skipped: list[str] = []
    path = checkpoint.newest(checkpoints, skipped=skipped)
    for name in skipped:
        yield NoteEvent(
            say(f"Checkpoint {name} is damaged and was skipped", f"检查点 {name} 已损坏，已跳过"),
            "warning",
        )
        shutil.rmtree(checkpoints / name, ignore_errors=True)
    if path is None:
        yield NoteEvent(
            say("No complete checkpoint: starting from the beginning", "没有完整的检查点：从头开始"),
            "warning",
        )
    return path


def gone_on(run: "Training", parts: "Parts") -> Generator[Event, None, int]:
    """Go on from the newest complete checkpoint; returns the step to begin with."""
    path = (yield from newest_checkpoint(run.checkpoints)) if run.config.resume else None
    if path is None:
        return 0
    from weitiao.training import checkpoint

    same_data(read_json(path / "state.json").get("data", {}), run.data.sources)
    state = checkpoint.load(path, run.model, parts.optimizer, parts.hooks)
    run.best = state["best"]
    run.objective.load_state(state.get("objective", {}))
    yield going_on(state["step"])
    return state["step"]


def going_on(step: int) -> NoteEvent:
    """Which step a resumed run begins after."""
    return NoteEvent(say(f"Going on from step {step}", f"从第 {step} 步继续"))


def is_complete(folder: Path) -> bool:
    """Whether nothing is left to do: the report is written last."""
    return all((folder / name).exists() for name in ("model", "metrics.json", "report.html"))


def already_done(folder: Path) -> Iterator[Event]:
    """Say so, and give the run's scores."""
    shutil.rmtree(
        folder / "checkpoints", ignore_errors=True
    )  # a kill may have come between the report and this
    scores = {
        split: report["scores"] for split, report in read_json(folder / "metrics.json")["evaluation"].items()
    }
    yield NoteEvent(
        say(f"The run in {folder} is complete: nothing to resume", f"{folder} 中的运行已完成，无需继续")
    )
    yield ResultEvent(str(folder), {"scores": scores})


def how_to_resume(folder: Path, stage: str = "finetune") -> str:
    """The command that goes on with a run."""
    command = shlex.join(["weitiao", stage, "--output", str(folder), "--resume"])
    return say(f"Go on with: {command}", f"继续：{command}")
