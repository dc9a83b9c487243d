"""Consumers of events that keep a run's curves where other tools show them: TensorBoard, Weights & Biases."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from weitiao.core.errors import WeitiaoError, unknown_name
from weitiao.core.events import EstimateEvent, EvaluationEvent, Event, StepEvent
from weitiao.core.messages import say


class Tracker(Protocol):
    """Called with every event of a run, and closed at its end."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None:
        """Write what is still held back."""


NAMES = ("tensorboard", "wandb")


def make(names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of these names; each writes below the run's ``folder``.

    Raises:
        WeitiaoError: an unknown name (the near miss is named), or a package that is not installed.
    """
    check_names(names)
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: tensorboard(folder),
        "wandb": lambda: wandb(folder, config),
    }
    return [makers[name]() for name in dict.fromkeys(names)]


def check_names(names: Sequence[str]) -> None:
    """Raises a ``WeitiaoError`` for an unknown name."""
    for name in names:
        if name not in NAMES:
            raise unknown_name(say("tracker", "记录工具"), name, NAMES)


def tensorboard(folder: Path) -> Tracker:
    """Scalars for ``tensorboard --logdir RUN``, in ``folder/tensorboard``.

    Raises:
        WeitiaoError: the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise _missing("tensorboard") from None
    return _TensorBoard(SummaryWriter(str(folder / "tensorboard")))


def wandb(folder: Path, config: Mapping[str, Any]) -> Tracker:
    """A Weights & Biases run in ``folder/wandb``: offline unless ``WANDB_MODE`` says otherwise.

    An offline run is sent later by ``wandb sync``. W&B's own service writes it, and may do so a moment after
    ``close``; the end of the process waits for that.

    Raises:
        WeitiaoError: the package is not installed, or the run could not be started.
    """
    try:
        import wandb as package
    except ImportError:
        raise _missing("wandb") from None
    folder.mkdir(parents=True, exist_ok=True)
    settings = package.Settings(silent=True, console="off")
    mode: Any = os.environ.get("WANDB_MODE") or "offline"
    try:
        run = package.init(
            project=os.environ.get("WANDB_PROJECT") or "weitiao",
            name=folder.name,
            dir=str(folder),
            config=dict(config),
            mode=mode,
            settings=settings,
        )
    except package.errors.Error as error:
        first = " ".join(str(error).split())
        way = say("try WANDB_MODE=offline", "可设置 WANDB_MODE=offline")
        raise WeitiaoError(
            say(f"W&B did not start: {first}; {way}", f"W&B 未能启动：{first}；{way}")
        ) from None
    return _Wandb(run)


def scalars(event: Event) -> Iterator[tuple[str, float, int]]:
    """The numbers in an event as ``(name, value, step)``: ``train/loss``, ``dev/accuracy`` ..."""
    match event:
        case StepEvent(step=step):
            names = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "epoch")
            yield from ((f"train/{name}", float(getattr(event, name)), step) for name in names)
        case EvaluationEvent(step=step):
            yield from ((f"{event.split}/{name}", float(value), step) for name, value in event.scores.items())
        case EstimateEvent():
            kind = "actual" if event.actual else "estimated"
            yield f"cost/{kind}_seconds", event.seconds, 0
            yield f"cost/{kind}_memory_bytes", float(event.memory_bytes), 0


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def __call__(self, event: Event) -> None:
        for name, value, step in scalars(event):
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    """W&B's own step must never fall, so the step is one more number, and the axis of all the others."""

    def __init__(self, run: Any) -> None:
        self.run = run
        run.define_metric("step")
        run.define_metric("*", step_metric="step")

    def __call__(self, event: Event) -> None:
        found = list(scalars(event))
        if isinstance(event, EstimateEvent):
            self.run.summary.update({name: value for name, value, _ in found})
        elif found:
            self.run.log({**{name: value for name, value, _ in found}, "step": found[0][2]})

    def close(self) -> None:
        self.run.finish()


def _missing(package: str) -> WeitiaoError:
    way = "pip install 'weitiao[track]'"
    return WeitiaoError(
        say(
            f"--trackers {package} needs the package {package}: {way}",
            f"--trackers {package} 需要软件包 {package}：{way}",
        )
    )
