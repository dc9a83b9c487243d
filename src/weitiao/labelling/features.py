"""Frozen features of texts: what a model's head would see, computed once, so that heads are fitted in seconds."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from weitiao.core.device import keep_freed_memory, pick_device, pick_precision, set_threads
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, ProgressEvent
from weitiao.core.messages import say
from weitiao.models.backbone import TextModel
from weitiao.models.heads import make_head
from weitiao.models.known import KNOWN
from weitiao.tasks.base import Answers, Task
from weitiao.training.outputs import features_of

ROWS_AT_ONCE = 500


@dataclass
class Reader:
    """A model and its tokenizer, to read a task's records with."""

    task: Task
    model: TextModel
    tokenizer: Any
    max_length: int
    autocast: Callable[[], Any] = contextlib.nullcontext

    def features(self, records: Any) -> Iterator[Event | np.ndarray]:
        """The features of each record, with progress; the last item is float32 ``[N, F]``.

        Args:
            records: a list, or a ``datasets.Dataset``.
        """
        parts = []
        for start in range(0, len(records), ROWS_AT_ONCE):
            yield ProgressEvent(say("reading features", "提取特征"), start, len(records))
            part = _part(records, start)
            encoded = self.task.encode(part, self.tokenizer, self.max_length, None)
            parts.append(np.stack(features_of(self.model, encoded, autocast=self.autocast)))
        yield ProgressEvent(say("reading features", "提取特征"), len(records), len(records))
        yield np.concatenate(parts) if parts else np.empty((0, self.model.backbone.shape.hidden_size))


def read_all(reader: Reader, records: Any, into: list[np.ndarray]) -> Iterator[Event]:
    """The events of ``features``; the features themselves go to the end of ``into``."""
    for item in reader.features(records):
        if isinstance(item, np.ndarray):
            into.append(item.astype(np.float32))
        else:
            yield item


def pretrained(task: Task, name: str, answers: Answers, max_length: int, threads: int = 0) -> Reader:
    """A model as it was before it saw any label.

    Raises:
        WeitiaoError: there is no such model.
    """
    keep_freed_memory()
    set_threads(threads)
    source = task.source(name, lambda note: None)
    backbone, config, _ = task.backbone(source, 0.0)
    known = KNOWN.get(source.name)
    head = make_head(task.head(answers, known.pooling if known else "mean"), backbone.shape.hidden_size)
    model = TextModel(backbone, head, config).eval().requires_grad_(False)
    return Reader(task, model, task.reader(source.path), max_length, _autocast())


def check_task(task: Task, answers: Answers | None = None) -> None:
    """Refuse tasks whose answer is not one label for a text, or a pair of texts.

    Raises:
        WeitiaoError: names the task.
    """
    head = task.head(answers or Answers("classes", ["a", "b"]), "mean")["type"]
    classes = answers is None or answers.kind == "classes"
    if task.reads != "texts" or not classes or head not in ("pooled", "marker"):
        raise WeitiaoError(
            say(
                f"weitiao label is for texts with exactly one label each; this run's task is {task.name}"
                + ("" if classes else f" with {answers.kind if answers else ''}"),
                f"weitiao label 适用于每条文本恰有一个标签的任务；此处的任务是 {task.name}"
                + ("" if classes else f"（{answers.kind if answers else ''}）"),
            )
        )


def _part(records: Any, start: int) -> Any:
    end = min(start + ROWS_AT_ONCE, len(records))
    return records[start:end] if isinstance(records, list) else records.select(range(start, end))


def _autocast() -> Callable[[], Any]:
    device = pick_device()
    if pick_precision("auto", device) == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device, torch.bfloat16)
