"""The weights a run ends with: the best epoch's, or the mean of the last epochs'."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from weitiao.core.events import EvaluationEvent, Event, NoteEvent
from weitiao.core.messages import say
from weitiao.training import checkpoint
from weitiao.training.team import filled

if TYPE_CHECKING:
    from weitiao.stages._training import Training


def best(run: "Training") -> Iterator[Event]:
    """Take the weights the run ends with, and put the whole table of embeddings back."""
    if run.hollow is not None:
        run.model = filled(run.hollow, run.model)
        if run.compact is not None:
            run.compact.embeddings = run.model.backbone.embeddings
        if not run.team.is_main:
            return
    path = run.checkpoints / f"step-{int(run.best['step']):08d}"
    if run.best["step"] and checkpoint.is_complete(path):
        checkpoint.load_weights(path, run.model)
    elif run.best["step"]:
        yield NoteEvent(
            say(
                f"The best checkpoint, {path.name}, is damaged: the last step's weights are kept",
                f"最佳检查点 {path.name} 已损坏：保留最后一步的权重",
            ),
            "warning",
        )
    yield from _mean(run, path)
    run.moved = run.engagement.check(run.model)
    if run.compact is not None:
        run.compact.restore()


def averaged(run: "Training", last: int) -> list[int]:
    """The steps, each an epoch's end, whose weights are averaged when ``last`` is the last (Izmailov et al. 2018)."""
    count = run.config.average_checkpoints
    if count < 2:
        return []
    per_epoch = run.parts.batches.steps_per_epoch
    ends = range(last // per_epoch * per_epoch, 0, -per_epoch)
    return [step for step in ends if run.tuning.settled(step, run.parts.total_steps)][:count]


def _mean(run: "Training", best: Path) -> Iterator[Event]:
    """Put the mean in place where it does better on the dev part than the best epoch, or where there is none."""
    newest = checkpoint.newest(run.checkpoints)
    steps = averaged(run, int(newest.name.rpartition("-")[2])) if newest else []
    paths = [run.checkpoints / f"step-{step:08d}" for step in steps]
    paths = [path for path in paths if checkpoint.is_complete(path)]
    if len(paths) < 2:
        return
    before = float(run.best["score"])
    checkpoint.load_mean(paths, run.model)
    taken, shown = True, ""
    for event in run.evaluate(run.parts.total_steps):
        if isinstance(event, EvaluationEvent):
            taken, mean = event.best, event.scores.get(event.monitor, 0.0)
            shown = say(
                f" (dev {mean:.4f}, best epoch {before:.4f})", f"（验证集 {mean:.4f}，最佳轮次 {before:.4f}）"
            )
    if not taken:
        checkpoint.load_weights(best, run.model)
    what = say("taken", "采用") if taken else say("not taken", "未采用")
    yield NoteEvent(
        say(
            f"Mean of the weights of the last {len(paths)} epochs: {what}{shown}",
            f"最后 {len(paths)} 轮权重的平均：{what}{shown}",
        )
    )
