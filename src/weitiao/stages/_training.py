"""A fine-tuning run from its config to its run folder: prepares the parts, drives the loop, consumes its events."""

import contextlib
import dataclasses
import shutil
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weitiao.core import catalogue
from weitiao.core.config import make_member, to_yaml
from weitiao.core.device import keep_freed_memory, peak_memory_bytes, pick_device, pick_precision, set_threads
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
from weitiao.core.runs import atomic_file, read_json, remove_leftovers
from weitiao.core.version import __version__
from weitiao.data.encode import Ragged
from weitiao.models.backbone import TextModel
from weitiao.models.encoder import Encoder
from weitiao.models.heads import make_head
from weitiao.models.kernels import Dropout
from weitiao.models.known import KNOWN
from weitiao.models.saving import start_pooler
from weitiao.objectives._composed import Composed, compose
from weitiao.stages import _augment, _finish, _prepare, _save
from weitiao.stages._resume import digests, how_to_resume, same_data
from weitiao.training import checkpoint, probe
from weitiao.training.batches import Batches
from weitiao.training.embeddings import CompactEmbeddings, used_ids
from weitiao.training.engagement import Engagement, count_parameters
from weitiao.training.estimate import estimate
from weitiao.training.frozen import FrozenCache, fits, frozen_layers
from weitiao.training.interrupt import stop_between_steps
from weitiao.training.loop import Parts, make_accelerator, train
from weitiao.training.optimizer import make_optimizer, make_schedule
from weitiao.training.outputs import features_of, outputs_of

KEPT_CHECKPOINTS = 2


class Training:
    """One run. ``events()`` does everything; ``opened`` says that the run folder is there."""

    def __init__(self, config: Any, folder: Path, scored: tuple[str, ...] = ("dev", "test")) -> None:
        self.config, self.folder, self.scored, self.opened = config, folder, scored, False
        self.checkpoints = folder / "checkpoints"
        self.task = make_member("tasks", config.task, config.member_values)
        self.best = {"score": float("-inf"), "step": 0, "stale": 0}
        self.monitor = ""
        self.speeds: list[tuple[int, float]] = []
        self.estimate: EstimateEvent | None = None
        self.saved: TextModel  # the model read back from its folder, and how far its logits are off
        self.saved_difference = 0.0

    def events(self) -> Iterator[Event]:
        """Prepare, train, finish."""
        self.began = time.time()
        yield from self._prepare()
        yield from self._open_model()
        self._open()  # as late as that: what cannot be trained leaves no run folder
        if self.epochs == 0 or self._starts_with_probe():
            yield from self._probe()
        if self.epochs:
            yield from self._train()
        yield from self._finish()

    # --- before training

    def _prepare(self) -> Iterator[Event]:
        config = self.config
        keep_freed_memory()
        self.threads = set_threads(config.threads)
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
        yield from _prepare.encode(self.task, self.data, self.tokenizer, config.max_length)
        yield from _augment.add_copies(self.task, self.data, self.tokenizer, config)
        self.tuning = make_member("tuning", config.tuning, config.member_values)
        self.epochs = self.tuning.num_epochs if config.num_epochs is None else config.num_epochs
        self.objective = self._objective()
        self.evaluation = catalogue.member("evaluation", self.task.evaluation(self.answers))()
        self.monitor = self.evaluation.monitor

    def _objective(self) -> Composed:
        """What is minimised, checked against the task and prepared with the training targets."""
        config = self.config
        objective = compose(config.objective or self.task.objective(self.answers), config.member_values)
        head = self.task.head(self.answers, "mean")
        objective.check(self.answers.kind, head["type"], config.dropout)
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
        self.head_kind = self.task.head(self.answers, self._pooling(base_config))
        head = make_head(self.head_kind, backbone.shape.hidden_size)
        if config.dropout is not None:
            head.dropout_probability = config.dropout
        start_pooler(head, beside)
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
        yield NoteEvent(
            say(
                f"{config.model}: {self.precision}, {self.threads} threads",
                f"{config.model}：{self.precision}，{self.threads} 线程",
            )
        )

    def _pooling(self, base_config: dict[str, Any]) -> str:
        wish = self.config.pooling
        if wish == "own" and base_config.get("model_type") != "bert":
            raise WeitiaoError(
                say(
                    "--pooling own is for BERT's pooler; use mean or cls",
                    "--pooling own 仅适用于 BERT 的 pooler；请用 mean 或 cls",
                )
            )
        known = KNOWN.get(self.source.name)
        return (known.pooling if known else "mean") if wish == "auto" else wish

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
        yield ProgressEvent(say("reading features", "提取特征"), 0, 2)
        if self.epochs == 0:
            self.engagement = Engagement(self.model, self.tuning)
        train_data = self.data.encoded["train"]
        features = features_of(self.model, train_data, autocast=self._autocast)
        targets = train_data.targets
        if isinstance(targets, Ragged):
            flat, labels = np.concatenate(features), targets.values
            features_NF, targets_N = flat[labels >= 0], labels[labels >= 0]
        else:
            assert targets is not None
            features_NF, targets_N = np.stack(features), targets
        yield ProgressEvent(say("fitting the head", "拟合分类头"), 1, 2)
        penalty = getattr(self.tuning, "penalty", 0.1)
        probe.fit(self.model.head, features_NF, targets_N, penalty=penalty, seed=self.config.seed)
        yield ProgressEvent(say("fitting the head", "拟合分类头"), 2, 2)

    # --- training

    def _parts(self) -> Parts:
        config, backbone = self.config, self.model.backbone
        data = self.data.encoded["train"]
        self.compact = None
        remap = None
        if isinstance(backbone, Encoder) and backbone.embeddings.word_embeddings.weight.requires_grad:
            self.compact = CompactEmbeddings(
                backbone, used_ids(*(e.ids.values for e in self.data.encoded.values()))
            )
            remap = self.compact.remap
        self.remap = remap
        whole = self.objective.compares_examples
        batches = Batches(
            data, config.batch_size, config.seed, batch_tokens=config.batch_tokens,
            micro_tokens=0 if whole else config.micro_tokens, first_position=self.model.first_position, remap=remap,
            augment=self.task.augmentation(),
        )  # fmt: skip
        total = batches.steps_per_epoch * self.epochs
        accelerator = make_accelerator(self.device, self.precision)
        self.model.to(self.device)
        rate = config.learning_rate or self.tuning.learning_rate
        head_rate = config.head_learning_rate
        if head_rate is None and config.learning_rate is None and config.start == "random":
            head_rate = self.tuning.head_learning_rate
        optimizer = make_optimizer(self.model, rate, config.weight_decay, config.layer_decay, head_rate)
        frozen = None
        layers = frozen_layers(self.model) if self.device == "cpu" and data.per_example == 1 else 0
        size = backbone.shape.hidden_size
        if layers and not self.objective.perturbs:  # what moves the embeddings moves all that is above them
            keep = fits(int(data.ids.offsets[-1]), size, 2 if self.precision == "bf16" else 4)
            frozen = FrozenCache(self.model, batches, layers, self._autocast, keep)
        return Parts(
            self.model, batches, self.objective.loss_sum, optimizer,
            make_schedule(config.schedule, total, config.warmup_ratio), accelerator, Dropout(config.seed), total,
            config.max_grad_norm, frozen, config.seed, self.tuning, self.objective.losses,
        )  # fmt: skip

    def _train(self) -> Iterator[Event]:
        parts = self._parts()  # the embeddings in use are taken out there, so before what is remembered
        self.engagement = Engagement(self.model, self.tuning)
        self.parts = parts
        dev_tokens = int(self.data.encoded["dev"].lengths.sum()) if "dev" in self.data.encoded else 0
        self.estimate = estimate(parts, dev_tokens * self.epochs)
        yield self.estimate
        first = yield from self._resumed(parts)
        self.training_began = time.time()
        with stop_between_steps() as stop:
            for event in train(parts, first):
                step = event.step
                self.speeds.append((event.tokens, event.tokens / event.tokens_per_second))
                yield event
                ended_epoch = step % parts.batches.steps_per_epoch == 0
                if ended_epoch:
                    yield from self._evaluate(step)
                if ended_epoch or (self.config.checkpoint_steps and step % self.config.checkpoint_steps == 0):
                    yield self._save(step)
                if self.config.patience and self.best["stale"] >= self.config.patience:
                    yield NoteEvent(
                        say(
                            f"No better score for {self.best['stale']} epochs: stopped early",
                            f"连续 {self.best['stale']} 轮没有提升，提前停止",
                        )
                    )
                    break
                if stop.asked:
                    yield self._save(step)
                    way = how_to_resume(self.folder)
                    raise Interrupted(
                        say(
                            f"Stopped at step {step}; everything is saved. {way}",
                            f"已在第 {step} 步停止，进度已保存。{way}",
                        )
                    )
        yield from self._best_weights()

    def _resumed(self, parts: Parts) -> Generator[Event, None, int]:
        """Go on from the newest complete checkpoint; returns the step to begin with."""
        if not self.config.resume:
            return 0
        skipped: list[str] = []
        path = checkpoint.newest(self.checkpoints, skipped=skipped)
        for name in skipped:
            yield NoteEvent(
                say(f"Checkpoint {name} is damaged and was skipped", f"检查点 {name} 已损坏，已跳过"),
                "warning",
            )
            shutil.rmtree(self.checkpoints / name, ignore_errors=True)
        if path is None:
            yield NoteEvent(
                say("No complete checkpoint: starting from the beginning", "没有完整的检查点：从头开始"),
                "warning",
            )
            return 0
        same_data(read_json(path / "state.json").get("data", {}), self.data.sources)
        state = checkpoint.load(path, self.model, parts.optimizer, parts.hooks)
        self.best = state["best"]
        yield NoteEvent(say(f"Going on from step {state['step']}", f"从第 {state['step']} 步继续"))
        return state["step"]

    def _evaluate(self, step: int) -> Iterator[Event]:
        if "dev" not in self.data.encoded:
            return
        encoded = self.data.encoded["dev"]
        outputs = outputs_of(self.model, encoded, autocast=self._autocast, remap=self.remap)
        predictions = self.task.predictions(outputs, encoded, self.data.records["dev"], self.answers)
        scores = self.evaluation.scores(predictions)
        score = scores.get(self.monitor, 0.0)
        settled = self.tuning.settled(step, self.parts.total_steps)
        better = settled and score > self.best["score"]
        if better:
            self.best = {"score": score, "step": step, "stale": 0}
        elif settled:
            self.best = {**self.best, "stale": self.best["stale"] + 1}
        yield EvaluationEvent(step, "dev", scores, self.monitor, better)

    def _save(self, step: int) -> Event:
        state = {"step": step, "best": self.best, "data": digests(self.data.sources)}
        path = checkpoint.save(self.checkpoints, self.model, self.parts.optimizer, state, self.tuning)
        checkpoint.keep(self.checkpoints, KEPT_CHECKPOINTS, int(self.best["step"]))
        return CheckpointEvent(step, str(path))

    def _best_weights(self) -> Iterator[Event]:
        """Take the best checkpoint's weights, and put the whole table of embeddings back."""
        path = self.checkpoints / f"step-{int(self.best['step']):08d}"
        if self.best["step"] and checkpoint.is_complete(path):
            checkpoint.load_weights(path, self.model)
        elif self.best["step"]:
            yield NoteEvent(
                say(
                    f"The best checkpoint, {path.name}, is damaged: the last step's weights are kept",
                    f"最佳检查点 {path.name} 已损坏：保留最后一步的权重",
                ),
                "warning",
            )
        self.moved = self.engagement.check(self.model)
        if self.compact is not None:
            self.compact.restore()

    # --- after training

    def _finish(self) -> Iterator[Event]:
        if not self.epochs:
            self.moved = self.engagement.check(self.model)
        self.model.to("cpu").eval()
        self.trained_seconds = time.time() - (self.training_began if self.epochs else self.began)
        with torch.no_grad():
            description = _save.save(self)
        yield from _save.verify(self, description)
        if self.estimate is not None:
            yield EstimateEvent(peak_memory_bytes(), self.trained_seconds, actual=True)
        yield from _finish.evaluate_and_report(self, description)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def parameters(self) -> tuple[int, int]:
        """All parameters, and those that were trained."""
        return count_parameters(self.model)[0], int(self.moved["trained_parameters"])

    def environment(self) -> dict[str, Any]:
        """What the figures were measured with."""
        python = ".".join(map(str, sys.version_info[:3]))
        return {
            "weitiao": __version__,
            "torch": torch.__version__,
            "python": python,
            "threads": self.threads,
            "precision": self.precision,
        }
