"""The training of an update: a fine-tuning run that begins with a trained model, and has its classes first."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weitiao.continual.base import Continual, Known
from weitiao.core.config import make_member
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent
from weitiao.core.messages import say
from weitiao.data.encode import Encoded
from weitiao.models.saving import read_description
from weitiao.models.words import word_embeddings
from weitiao.objectives._composed import Composed
from weitiao.stages._predictor import load_model
from weitiao.stages._training import Training
from weitiao.tasks.base import Answers, Task

LOOKED_AT = 1000  # rows of earlier tasks that a method may look at


@dataclass
class Learnt:
    """One task that the model has learnt: its rows. ``name`` is its data's, made unlike the others."""

    name: str
    records: dict[str, Any]
    baseline: float | None = None


@dataclass
class Before:
    """The model to begin with, and what it was taught."""

    folder: Path  # its model folder
    tasks: list[Learnt]

    def __post_init__(self) -> None:
        self.description = read_description(self.folder)
        self.answers = Answers(**self.description["answers"])

    def rows(self, key: str, per_class: int, seed: int) -> list[dict[str, Any]]:
        """Training rows of all earlier tasks: ``per_class`` of each label (0: all), as many at random in all where a
        row has no single label."""
        random = np.random.default_rng(seed)
        rows = [row for task in self.tasks for row in task.records["train"].to_list()]
        rows = [rows[place] for place in random.permutation(len(rows))]
        if not per_class:
            return rows
        if not all(isinstance(row[key], str) for row in rows):
            return rows[: per_class * max(len(self.answers.names), 1)]
        counts: dict[str, int] = {}
        kept = []
        for row in rows:
            counts[row[key]] = counts.get(row[key], 0) + 1
            if counts[row[key]] <= per_class:
                kept.append(row)
        return kept


def united(old: Answers, new: Answers) -> Answers:
    """The old answers, which keep their numbers, and behind them those that are new."""
    names = [*old.names, *(name for name in new.names if name not in old.names)]
    return dataclasses.replace(old, names=names)


def _keep_answers(task: Task, old: Answers) -> None:
    """Let what the task learns of a table be added to what the model knows."""
    learn = task.learn
    task.learn = lambda records: united(old, learn(records))  # type: ignore[method-assign]


class Updating(Training):
    """One update, into a run folder of its own."""

    def __init__(self, config: Any, folder: Path, before: Before, method: Continual) -> None:
        super().__init__(config, folder, ("test",))
        self.before, self.method, self.rehearsed = before, method, 0
        _keep_answers(self.task, before.answers)

    def choose(self) -> None:
        if "test" not in self.data.records:
            raise WeitiaoError(
                say(
                    "An update is judged on test rows: leave --test-fraction above 0, or give --test-data",
                    "更新需要测试数据来评判：请让 --test-fraction 大于 0，或给出 --test-data",
                )
            )
        if self.method.rehearses:
            rows = self.before.rows(self.task.label_key, self.method.rows_per_class, self.config.seed)
            self.rehearsed = len(rows)
            old = self._encoded(rows)
            self.data.encoded["train"] = Encoded.joined([self.data.encoded["train"], old])
        super().choose()

    def _encoded(self, rows: list[dict[str, Any]]) -> Encoded:
        return self.task.encode(rows, self.tokenizer, self.config.max_length, self.answers)

    def _objective(self) -> Composed:
        composed = super()._objective()
        composed.additions.append((1.0, self.method))
        composed.check(self.answers.kind, self.task.head(self.answers, "mean")["type"], self.config.dropout)
        return composed

    def _open_model(self) -> Iterator[Event]:
        yield from super()._open_model()
        with torch.no_grad():
            old, base = self._take_up()
        # Words that the new texts lack would drift apart from those they have: the table stays as it is.
        word_embeddings(self.model.backbone).weight.requires_grad_(False)
        before = self._encoded(self.before.rows(self.task.label_key, 0, self.config.seed)[:LOOKED_AT])
        known = Known(
            self.model, old, self.data.encoded["train"], before, base, len(self.before.tasks),
            self.objective.loss_sum, self.config.seed,
        )  # fmt: skip
        self.method.begin(known)
        new = len(self.answers.names) - len(self.before.answers.names)
        rows = len(self.data.records["train"])
        yield NoteEvent(
            say(
                f"{rows:,} new rows, {self.rehearsed:,} old ones, {new} new labels",
                f"{rows:,} 条新数据，{self.rehearsed:,} 条旧数据，{new} 个新标签",
            )
        )

    def _take_up(self) -> tuple[Any, dict[str, torch.Tensor]]:
        """Put the old weights into the model: the backbone's, and the old rows of the head, bit for bit."""
        old = load_model(self.before.folder, self.before.description)
        own = self.model.backbone.state_dict()
        base: dict[str, torch.Tensor] = {}
        if self.method.tuning:
            tuning = self.before.description["tuning"], self.before.description["tuning_options"]
            make_member("tuning", *tuning).merge(old)
            base = {
                name.replace(".base_layer.", "."): t.clone() for name, t in own.items() if "lora_" not in name
            }
        for name, tensor in old.backbone.state_dict().items():
            layer, _, last = name.rpartition(".")
            own[name if name in own else f"{layer}.base_layer.{last}"].copy_(tensor)
        head = self.model.head.state_dict()
        for name, tensor in old.head.state_dict().items():
            head[name][: len(tensor)].copy_(tensor)
        return old, base

    def _finish(self) -> Iterator[Event]:
        if self.method.tuning:
            self.tuning.merge(self.model)
            self.tuning = make_member("tuning", "full", {})
            self.config = dataclasses.replace(self.config, tuning="full")
        yield from super()._finish()
