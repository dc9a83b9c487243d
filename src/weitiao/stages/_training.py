"""A fine-tuning run from its config to its run folder: prepares the parts, drives the loop, consumes its events."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weitiao.core import catalogue
from weitiao.core.config import make_member, to_yaml
from weitiao.core.device import keep_freed_memory, pick_device, pick_precision, set_threads
from weitiao.core.errors import Interrupted, WeitiaoError
from weitiao.core.events import (
    CheckpointEvent,
    EstimateEvent,
    EvaluationEvent,
    Event,
    NoteEvent,
    ProgressEvent,
)
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, remove_leftovers
from weitiao.data.encode import Ragged
from weitiao.models.backbone import TextModel
from weitiao.models.encoder import Encoder
from weitiao.models.heads import make_head
from weitiao.models.kernels import Dropout
from weitiao.models.known import pooling
from weitiao.objectives._composed import Composed, compose
from weitiao.stages import (
    _augment,
    _few_shot,
    _finish,
    _neighbours,
    _prepare,
    _pseudo_labels,
    _save,
    _untrained,
    _weights,
)
from weitiao.stages._processes import settle
from weitiao.stages._resume import digests, gone_on, how_to_resume
from weitiao.training import checkpoint, probe
from weitiao.training.batches import Batches
from weitiao.training.embeddings import CompactEmbeddings, used_ids
from weitiao.training.engagement import Engagement
from weitiao.training.estimate import actual, estimate
from weitiao.training.frozen import FrozenCache, fits, frozen_layers
from weitiao.training.interrupt import stop_between_steps
from weitiao.training.loop import Parts, make_accelerator, train
from weitiao.training.optimizer import check_optimizer, make_optimizer, make_schedule
from weitiao.training.outputs import features_and_targets
from weitiao.training.team import Team, hollow, shard

KEPT_CHECKPOINTS = 2


class Training:
    """One run. ``events()`` does everything; ``opened`` says that the run folder is there."""

    def __init__(self, config: Any, folder: Path, scored: tuple[str, ...] = ("dev", "test")) -> None:
        self.config, self.folder, self.scored, self.opened = config, folder, scored, False
        self.rehearsal = False
        self.checkpoints = folder / "checkpoints"
        self.team = Team()
        self.compact: CompactEmbeddings | None = None
        self.hollow: Any = None  # the model's shape, while its numbers are parted among processes
        self.task = make_member("tasks", config.task, config.member_values)
        self.best = {"score": float("-inf"), "step": 0, "stale": 0}
        self.monitor = ""
        self.speeds: list[tuple[int, float]] = []
        self.estimate: EstimateEvent | None = None
        self.saved: TextModel  # the model read back from its folder, and how far its logits are off
        self.saved_difference = 0.0

    def events(self) -> Iterator[Event]:
        """Prepare, train, finish."""
        self.team = Team.join(pick_device(), self.config.cpu_offload)
        try:
            yield from self.ready()
            if self.team.is_main:
                self._open()  # as late as that: what cannot be trained leaves no run folder
            yield from self._learn()
            if self.team.is_main:
                yield from self._finish()
        finally:
            self.team.leave()

    def ready(self) -> Iterator[Event]:
        """Read the data and open the model; nothing is written."""
        yield from self._prepare()
        yield from self._open_model()

    def rehearse(self) -> Iterator[Event]:
        """Train on what ``data`` holds and keep the model in memory; nothing is written."""
        self.rehearsal = True
        self.choose()
        yield from self._open_model()
        yield from self._learn()

    def _learn(self) -> Iterator[Event]:
        self.training_began = (time.time(), time.process_time())
        if self.epochs == 0 or self._starts_with_probe():
            yield from self._probe()
        if self.epochs:
            yield from self._train()

    # --- before training

    def _prepare(self) -> Iterator[Event]:
        config = self.config
        keep_freed_memory()
        self.threads = set_threads(config.threads or self.team.threads)
        for item in _prepare.prepare(self.task, config):
            if isinstance(item, _prepare.Prepared):
                self.data = item
            else:
                yield item
        notes: list[str] = []
        self.source = self.task.source(config.model, notes.append)
        yield from (NoteEvent(note) for note in notes)
        if self.source.note:
            yield NoteEvent(say(f"{config.model}: {self.source.note}", f"{config.model}：{self.source.note}"))
        self.tokenizer = self.task.reader(self.source.path)
        self.answers = self.data.answers
        self.task.check(self.answers, self.tokenizer)
        if config.few_shot:
            yield from _few_shot.settle(self)  # which may set more of the config
            config = self.config
        self.data.objective = self._composed()
        yield from _prepare.encode(self.task, self.data, self.tokenizer, config.max_length)
        yield from _augment.add_copies(self.task, self.data, self.tokenizer, config)
        if self.data.unlabelled is not None:
            yield from _pseudo_labels.add(self)
        self.choose()
        yield from (NoteEvent(note) for note in self.objective.notes)

    def choose(self) -> None:
        """Make the tuning, the objective and the evaluation that the settings name."""
        config = self.config
        self.tuning = make_member("tuning", config.tuning, config.member_values)
        self.epochs = self.tuning.num_epochs if config.num_epochs is None else config.num_epochs
        self.objective = self._objective()
        if config.neighbours:
            _neighbours.check(self)
        self.evaluation = catalogue.member("evaluation", self.task.evaluation(self.answers))()
        self.monitor = self.evaluation.monitor

    def _composed(self) -> Composed:
        config = self.config
        return compose(config.objective or self.task.objective(self.answers), config.member_values)

    def _objective(self) -> Composed:
        """What is minimised, checked against the task and prepared with the training targets."""
        objective = self.data.objective or self._composed()
        head = self.task.head(self.answers, "mean")
        objective.check(self.answers.kind, head["type"], self.config.dropout)
        targets = self.data.encoded["train"].targets
        flat = targets.values if isinstance(targets, Ragged) else targets
        objective.prepare(torch.from_numpy(np.asarray(flat)), head["outputs"])
        return objective

    def _open(self) -> None:
        """Make the run folder, or clear it of what must not stay."""
        if self.config.overwrite and not self.config.resume and (self.folder / "config.yaml").exists():
            for path in self.folder.iterdir():
                if path.name != "data":  # the tables that the Python API put there for this very run
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        remove_leftovers(self.folder)
        remove_leftovers(self.checkpoints)
        # What was measured is kept, so that a resumed run goes on in the same precision.
        with atomic_file(self.folder / "config.yaml") as file:
            file.write(to_yaml(dataclasses.replace(self.config, precision=self.precision)))
        self.opened = True

    def _open_model(self) -> Iterator[Event]:
        config = self.config
        torch.manual_seed(config.seed)
        backbone, base_config, beside = self.task.backbone(self.source, config.dropout)
        self.head_kind = self.task.head(self.answers, pooling(config.pooling, self.source.name, base_config))
        head = make_head(self.head_kind, backbone.shape.hidden_size)
        if config.dropout is not None:
            head.dropout_probability = config.dropout
        self.task.start(head, beside, backbone, self.tokenizer, self.answers)
        self.model = TextModel(backbone, head, base_config)
        self.tuning.apply(self.model)
        room = self.model.backbone.shape.max_length  # virtual tokens take some
        if config.max_length > room:
            raise WeitiaoError(
                say(
                    f"max_length is {config.max_length}; {config.model} with --tuning {config.tuning} reads at "
                    f"most {room} tokens of a text",
                    f"max_length 为 {config.max_length}，而 {config.model} 用 --tuning {config.tuning} 时最多读 {room} 个 token",
                )
            )
        if config.gradient_checkpointing:
            backbone.checkpointing = True
        self.device = pick_device()
        self.precision = pick_precision(config.precision, self.device)
        check_optimizer(config.optimizer, self.device)
        yield from settle(self)
        yield NoteEvent(
            say(
                f"{config.model}: {self.precision}, {self.threads} threads",
                f"{config.model}：{self.precision}，{self.threads} 线程",
            )
        )

    def _autocast(self) -> Any:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, torch.bfloat16)

    def _starts_with_probe(self) -> bool:
        going_on = self.config.resume and checkpoint.newest(self.checkpoints) is not None
        return self.config.start == "probe" and not going_on

    def _probe(self) -> Iterator[Event]:
        """Fit the head on the frozen backbone's features."""
        if self.model.head.linear is None:
            raise WeitiaoError(
                say(
                    "A bi-encoder has no head to fit: use --tuning full or lora",
                    "双塔模型没有可拟合的头：请用 --tuning full 或 lora",
                )
            )
        if self.epochs == 0:
            self.engagement = Engagement(self.model, self.tuning)
        if self.config.few_shot == "in_context":
            _few_shot.calibrate(self)
        else:
            yield from self._fit_head()

    def _fit_head(self) -> Iterator[Event]:
        """Fit the head's last layer on the backbone's features, as they are now."""
        yield ProgressEvent(say("reading features", "提取特征"), 0, 2)
        how = {"autocast": self._autocast}
        features_NF, targets_N = features_and_targets(self.model, self.data.encoded["train"], **how)
        yield ProgressEvent(say("fitting the head", "拟合分类头"), 1, 2)
        penalty = getattr(self.tuning, "penalty", 0.1)
        probe.fit(self.model.head, features_NF, targets_N, penalty=penalty, seed=self.config.seed)
        yield ProgressEvent(say("fitting the head", "拟合分类头"), 2, 2)

    # --- training

    def make_parts(self) -> Parts:
        """The parts of the training loop, the model parted among the processes where there are several."""
        config, backbone = self.config, self.model.backbone
        data = self.data.encoded["train"]
        remap = None
        if isinstance(backbone, Encoder) and backbone.embeddings.word_embeddings.weight.requires_grad:
            self.compact = CompactEmbeddings(
                backbone, used_ids(*(e.ids.values for e in self.data.encoded.values()))
            )
            remap = self.compact.remap
        self.remap = remap
        compares = self.objective.compares_examples
        batches = Batches(
            data, config.batch_size, config.seed, batch_tokens=config.batch_tokens,
            micro_tokens=0 if compares else config.micro_tokens, first_position=self.model.first_position, remap=remap,
            augment=self.task.augmentation(),
        )  # fmt: skip
        total = batches.steps_per_epoch * self.epochs
        accelerator = make_accelerator(self.device, self.precision)
        self.tuning.pack(self.model)
        if not self.team.offload:
            self.model.to(self.device)
        rate = config.learning_rate or self.tuning.learning_rate
        head_rate = config.head_learning_rate
        if head_rate is None and config.learning_rate is None and config.start == "random":
            head_rate = self.tuning.head_learning_rate
        self.engagement = Engagement(self.model, self.tuning)
        if self.team.parts:
            self.hollow = hollow(self.model)
            shard(self.model, self.team.offload)
        optimizer = make_optimizer(
            self.model, rate, config.weight_decay, config.layer_decay, head_rate, config.optimizer
        )
        frozen = None
        whole = self.device == "cpu" and self.hollow is None
        layers = frozen_layers(self.model) if whole and data.per_example == 1 else 0
        size = backbone.shape.hidden_size
        if layers and not self.objective.perturbs:  # what moves the embeddings moves all that is above them
            keep = fits(int(data.ids.offsets[-1]), size, 2 if self.precision == "bf16" else 4)
            frozen = FrozenCache(self.model, batches, layers, self._autocast, keep)
        return Parts(
            self.model, batches, self.objective.loss_sum, optimizer,
            make_schedule(config.schedule, total, config.warmup_ratio), accelerator,
            Dropout(config.seed + self.team.dropout_seed), total, config.max_grad_norm, frozen, config.seed,
            self.tuning, self.objective.losses, self.team,
        )  # fmt: skip

    def _train(self) -> Iterator[Event]:
        parts = self.make_parts()
        self.parts = parts
        dev_tokens = int(self.data.encoded["dev"].lengths.sum()) if "dev" in self.data.encoded else 0
        self.objective.remember(self.model, self.data.encoded["train"])
        self.estimate = estimate(parts, dev_tokens * self.epochs)
        yield self.estimate
        first = yield from gone_on(self, parts)
        if not first and not self.task.labelled and not self.rehearsal:
            yield from _untrained.measure(self)
        with stop_between_steps() as stop:
            for event in train(parts, first):
                step = event.step
                self.speeds.append((event.tokens, event.tokens / event.tokens_per_second))
                yield event
                ended_epoch = step % parts.batches.steps_per_epoch == 0
                if ended_epoch:
                    yield from self.evaluate(step)
                if self._is_due(step):
                    yield self._save(step)
                if self.config.patience and self.best["stale"] >= self.config.patience:
                    yield NoteEvent(
                        say(
                            f"No better score for {self.best['stale']} epochs: stopped early",
                            f"连续 {self.best['stale']} 轮没有提升，提前停止",
                        )
                    )
                    break
                if self.team.any(stop.asked):
                    if self.rehearsal:
                        raise KeyboardInterrupt
                    yield self._save(step)
                    way = how_to_resume(self.folder)
                    raise Interrupted(
                        say(
                            f"Stopped at step {step}; everything is saved. {way}",
                            f"已在第 {step} 步停止，进度已保存。{way}",
                        )
                    )
        yield from _weights.best(self)
        if self.config.refit_head:
            yield from self._fit_head()

    def _is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be saved after this step."""
        if self.rehearsal:
            return False
        config = self.config
        epoch, rest = divmod(step, self.parts.batches.steps_per_epoch)
        by_epoch = rest == 0 and config.checkpoint_epochs and epoch % config.checkpoint_epochs == 0
        by_step = config.checkpoint_steps and step % config.checkpoint_steps == 0
        return bool(by_epoch or by_step or self.best["step"] == step)

    def outputs(self, encoded: Any, records: Any, **how: Any) -> list[Any]:
        """What the model in memory says of some rows; ``how`` as of ``Task.outputs``."""
        how = {"autocast": self._autocast, **how}
        return self.task.outputs(self.model, encoded, records, self.tokenizer, **how)

    def scores(self, outputs: Any, encoded: Any, records: Any) -> dict[str, float]:
        """What some outputs score."""
        return self.evaluation.scores(self.task.predictions(outputs, encoded, records, self.answers))

    def evaluate(self, step: int) -> Iterator[Event]:
        """Score the model in memory on the dev part, and remember it where it is the best so far."""
        if "dev" not in self.data.encoded:
            return
        encoded, records = self.data.encoded["dev"], self.data.records["dev"]
        scores = self.scores(self.outputs(encoded, records, remap=self.remap, brief=True), encoded, records)
        score = scores.get(self.evaluation.chooses or self.monitor, 0.0)
        settled = self.tuning.settled(step, self.parts.total_steps)
        better = settled and score > self.best["score"]
        if better:
            self.best = {"score": score, "step": step, "stale": 0}
        elif settled:
            self.best = {**self.best, "stale": self.best["stale"] + 1}
        yield EvaluationEvent(step, "dev", scores, self.monitor, better)

    def _save(self, step: int) -> Event:
        state = {"step": step, "best": self.best, "data": digests(self.data.sources)}
        state["objective"] = self.objective.state()
        parts, kept = self.parts, {int(self.best["step"]), *_weights.averaged(self, step)}
        path = checkpoint.save(self.checkpoints, self.model, parts.optimizer, state, self.tuning, self.team)
        if self.team.is_main:
            checkpoint.keep(self.checkpoints, KEPT_CHECKPOINTS, kept)
        return CheckpointEvent(step, str(path))

    # --- after training

    def _finish(self) -> Iterator[Event]:
        if not self.epochs:
            self.moved = self.engagement.check(self.model)
        self.tuning.unpack(self.model)
        self.model.to("cpu").eval()
        began, cpu_began = self.training_began
        self.trained_seconds, self.trained_cpu_seconds = time.time() - began, time.process_time() - cpu_began
        with torch.no_grad():
            self.neighbours = _neighbours.gather(self) if self.config.neighbours else None
            description = _save.save(self)
        yield from _save.verify(self, description)
        if self.estimate is not None:
            yield actual(self.trained_seconds, self.device)
        yield from _finish.evaluate_and_report(self, description)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
