"""One model of several: the mean of their weights, or a model taught by all of them."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weitiao.compression._lesson import Lesson
from weitiao.compression._signals import Signals
from weitiao.compression._training import Plan, fit
from weitiao.compression.base import Subject
from weitiao.core.config import make_member
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent
from weitiao.core.messages import say
from weitiao.models.backbone import TextModel
from weitiao.models.heads import TokenHead
from weitiao.stages._ensemble import Ensemble
from weitiao.stages._predictor import Run, load_model

PART = 500  # texts between two signs of progress


def merged(run: Run) -> TextModel:
    """A run's model in its base's plain shape, adapters merged.

    Raises:
        WeitiaoError: its method cannot be merged; the message names those that can.
    """
    model = load_model(run.model_folder, run.description)
    make_member("tuning", run.description["tuning"], run.description["tuning_options"]).merge(model)
    return model.eval().requires_grad_(False)


class Soup:
    """The mean of models' weights, one model at a time (Wortsman et al. 2022, "Model soups").

    Attributes:
        model: the mean so far.
    """

    def __init__(self, first: TextModel) -> None:
        self.model, self.count = first, 1
        self.before = {name: value.clone() for name, value in first.state_dict().items()}

    def add(self, other: TextModel, folder: Path) -> None:
        """Take another model into the mean.

        Raises:
            WeitiaoError: its weights have other names or sizes: it began from another model.
        """
        mine, theirs = self.model.state_dict(), other.state_dict()
        odd = sorted({(n, v.shape) for n, v in mine.items()} ^ {(n, v.shape) for n, v in theirs.items()})
        if odd:
            raise WeitiaoError(
                say(
                    f"Weights can be averaged of runs that began from the same model; {folder} differs in {odd[0][0]}. "
                    "Take --way average or distil",
                    f"只有从同一模型出发的运行才能平均权重；{folder} 的 {odd[0][0]} 不同。请改用 --way average 或 distil",
                )
            )
        self.before = {name: value.clone() for name, value in mine.items()}
        with torch.no_grad():
            for name, value in mine.items():
                if value.is_floating_point():
                    value += (theirs[name] - value) / (self.count + 1)
        self.count += 1

    def take_back(self) -> None:
        """Undo the last ``add``."""
        self.model.load_state_dict(self.before)
        self.count -= 1


def distil(whole: Ensemble, best: Run, train: Any, config: Any) -> Generator[Event, None, TextModel]:
    """Teach the best run's model the averaged outputs of all runs (Hinton et al. 2015), on the training texts and more.

    Raises:
        WeitiaoError: bi-encoders, whose averaged vectors have another length.
    """
    if whole._embeds:
        raise WeitiaoError(
            say(
                "Bi-encoders cannot be distilled into one: take --way soup",
                "双塔模型无法蒸馏为一个：请用 --way soup",
            )
        )
    model, task = merged(best), whole.task
    subject = Subject(
        model, best.tokenizer, task, whole.answers, best.description["max_length"], list(train), _texts(config.corpus),
        model, best.tokenizer, config.seed,
    )  # fmt: skip
    records = subject.unlabelled(len(train) * 2 + len(subject.texts))
    told: list[np.ndarray] = []
    for start in range(0, len(records), PART):
        yield ProgressEvent(say("asking the runs", "计算各次运行的输出"), start, len(records))
        told += whole.outputs(records[start : start + PART])[1]
    yield ProgressEvent(say("asking the runs", "计算各次运行的输出"), len(records), len(records))
    for run in whole.runs:
        run.let_go()
    encoded = subject.encode(records)
    signals = Signals(told, None, encoded.ids.offsets, [], isinstance(model.head, TokenHead))
    lesson = Lesson(subject, signals, [], False, (1.0, 0.0, 0.0), config.temperature)
    numbered = replace(encoded, targets=np.arange(len(encoded)))
    rate, precision = config.distil_learning_rate, config.precision
    plan = Plan(config.distil_epochs, rate, precision=precision, dropout=False)
    losses = []
    for event in fit(subject, numbered, lesson.loss_sum, plan):
        losses.append(event.loss)
        yield event
    yield NoteEvent(
        say(
            f"Taught on {len(records):,} texts: loss {losses[0]:.4f} to {losses[-1]:.4f}",
            f"在 {len(records):,} 条文本上学习：损失由 {losses[0]:.4f} 降至 {losses[-1]:.4f}",
        )
    )
    return model.eval().requires_grad_(False)


def _texts(corpus: list[str]) -> list[str]:
    from weitiao.stages._compress_data import read_texts

    return [text for name in corpus for text in read_texts(name)]
