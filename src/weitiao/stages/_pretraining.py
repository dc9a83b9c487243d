"""A pretraining run from its config to its run folder: the corpus, the model, the loop, the scores."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from weitiao.core.config import to_yaml
from weitiao.core.device import keep_freed_memory, pick_device, pick_precision, set_threads
from weitiao.core.errors import Interrupted, WeitiaoError
from weitiao.core.events import CheckpointEvent, EvaluationEvent, Event, ProgressEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, read_json, remove_leftovers
from weitiao.models.encoder import Encoder
from weitiao.models.kernels import Dropout
from weitiao.models.language_head import MaskedHead
from weitiao.pretraining._composed import compose
from weitiao.stages import _language_corpus, _language_end, _language_model, _language_scores
from weitiao.stages._resume import going_on, how_to_resume, newest_checkpoint
from weitiao.stages.pretrain import SIZES
from weitiao.training import checkpoint
from weitiao.training.corpus_batches import CorpusBatches
from weitiao.training.embeddings import CompactEmbeddings
from weitiao.training.engagement import Engagement
from weitiao.training.estimate import estimate
from weitiao.training.hooks import Hooks
from weitiao.training.interrupt import stop_between_steps
from weitiao.training.loop import Parts, make_accelerator, train
from weitiao.training.optimizer import make_optimizer, make_schedule

KEPT_CHECKPOINTS = 2
TRACKED_TOKENS = 32_768  # of the held-out part, scored during training
EVALUATIONS = 12
RATES = {"tiny": 3e-3, "small": 2e-3, "base": 6e-4}
MUON = 2.0  # such steps bear twice the rate (LAB_LOG.md, 2026-11-27)
GOING_ON, NEW_HEAD = 5e-5, 1e-3
# A corpus is read again until a run has so many steps, but not more often than MOST_PASSES.
SCRATCH_STEPS, GOING_ON_STEPS, MOST_PASSES = 500, 100, 10
KEPT = 0.5  # of an encoder's old weights; with none a hundred labels were worth less (LAB_LOG.md, 2026-11-27)
MONITOR = "bits_per_byte"


class HeadFirst(Hooks):
    """Trains the head alone for some steps, then everything. A model of another kind of head is not disturbed by it."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def phase(self, model: Any, done: int) -> None:
        """Set what is trained after ``done`` steps."""
        for parameter in model.backbone.parameters():
            parameter.requires_grad_(done >= self.steps)

    def after_step(self, model: Any, step: int, total_steps: int) -> None:
        if step == self.steps:
            self.phase(model, step)


class Training:
    """One run. ``events()`` does everything; ``opened`` says that the run folder is there."""

    def __init__(self, config: Any, folder: Path) -> None:
        self.config, self.folder, self.opened = config, folder, False
        self.checkpoints, self.corpus_folder = folder / "checkpoints", folder / "corpus"
        self.objective = compose(config.objective, config.member_values)
        self.scratch = config.model in SIZES
        self.best = {"score": float("inf"), "step": 0}
        self.speeds: list[tuple[int, float]] = []

    def events(self) -> Iterator[Event]:
        """Prepare, train, finish."""
        keep_freed_memory()
        self.threads = set_threads(self.config.threads)
        self.device = pick_device()
        self.precision = pick_precision(self.config.precision, self.device)
        fresh = not self.corpus_folder.exists()
        try:
            yield from self._corpus()
            self._open_model()
        except BaseException:
            if fresh and not (self.folder / "config.yaml").exists():
                shutil.rmtree(self.corpus_folder, ignore_errors=True)
                with contextlib.suppress(OSError):
                    self.folder.rmdir()
            raise
        self._open()
        yield from self._train()
        yield from _language_end.finish(self)

    # --- before training

    def _corpus(self) -> Iterator[Event]:
        for item in _language_corpus.prepare(self.config, self.corpus_folder, self.objective, self.scratch):
            if isinstance(item, _language_corpus.Prepared):
                self.data = item
            else:
                yield item

    def _open_model(self) -> None:
        config, pairs = self.config, self.objective.pairs is not None
        torch.manual_seed(config.seed)
        if self.scratch:
            opened = _language_model.scratch(
                config.model,
                self.objective.decoder,
                pairs,
                self.data.tokenizer,
                config.context,
                config.dropout,
            )
        else:
            assert self.data.source is not None
            opened = _language_model.existing(
                self.data.source.path, config.model, self.objective.decoder, pairs, config.dropout
            )
        self.model, self.new_head = opened.model, opened.new_head
        room = self.model.backbone.shape.max_length
        if config.context > room:
            raise WeitiaoError(
                say(
                    f"--context is {config.context}; {config.model} reads at most {room}",
                    f"--context 为 {config.context}，而 {config.model} 最多读 {room}",
                )
            )
        if config.gradient_checkpointing:
            self.model.backbone.checkpointing = True

    def _open(self) -> None:
        if self.config.overwrite and not self.config.resume:
            for path in self.folder.iterdir():
                if path != self.corpus_folder:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        for place in (self.folder, self.checkpoints):
            remove_leftovers(place)
        with atomic_file(self.folder / "config.yaml") as file:
            file.write(to_yaml(dataclasses.replace(self.config, precision=self.precision)))
        self.opened = True

    # --- training

    def autocast(self) -> Any:
        """The context in which the model computes."""
        return (
            contextlib.nullcontext()
            if self.precision == "fp32"
            else torch.autocast(self.device, torch.bfloat16)
        )

    def _parts(self) -> Parts:
        config, model = self.config, self.model
        self.compact, remap = None, None
        if isinstance(model.backbone, Encoder) and isinstance(model.head, MaskedHead):
            self.compact = CompactEmbeddings(model.backbone, self.data.used)
            model.head.compact(torch.from_numpy(self.compact.used))
            remap = self.compact.remap
        self.batches = CorpusBatches(
            self.data.train, self.objective, config.seed, batch_tokens=config.batch_tokens,
            micro_tokens=config.micro_tokens, first_position=model.first_position, remap=remap,
        )  # fmt: skip
        total = self._total_steps(self.batches.steps_per_epoch)
        first = min(total // 10, 200) if config.head_steps is None else min(config.head_steps, total - 1)
        self.hooks = HeadFirst(first if self.new_head else 0)
        kind = config.optimizer or ("muon" if self.scratch else "adamw")
        usual = RATES[config.model] * (MUON if kind == "muon" else 1) if self.scratch else GOING_ON
        rate = config.learning_rate or usual
        head_rate = config.head_learning_rate or (NEW_HEAD if self.new_head else None)
        model.to(self.device)
        optimizer = make_optimizer(model, rate, config.weight_decay, 1.0, head_rate, kind)
        schedule = make_schedule(config.schedule, total, config.warmup_ratio)
        accelerator = make_accelerator(self.device, self.precision)
        return Parts(
            model, self.batches, model.head.loss_sum, optimizer, schedule, accelerator, Dropout(config.seed), total,
            config.max_grad_norm, seed=config.seed, hooks=self.hooks,
        )  # fmt: skip

    def _total_steps(self, a_pass: int) -> int:
        """Steps of the run. One pass over a small corpus would teach little more than how frequent a piece is."""
        config = self.config
        if config.num_epochs:
            total = a_pass * config.num_epochs
            return min(total, config.max_steps) if config.max_steps else total
        enough = SCRATCH_STEPS if self.scratch else GOING_ON_STEPS
        return config.max_steps or a_pass * min(max(1, -(-enough // a_pass)), MOST_PASSES)

    def _train(self) -> Iterator[Event]:
        parts = self.parts = self._parts()
        total = parts.total_steps
        every = self.config.evaluate_steps or -(-total // EVALUATIONS)
        self.tracked = self.data.held.first(max(TRACKED_TOKENS // self.data.held.size, 1))
        yield from self._ngram()
        self.engagement = Engagement(self.model, self.hooks)
        self.estimate = estimate(parts, total // every * int(self.tracked.lengths.sum()))
        yield self.estimate
        first = yield from self._resumed(parts)
        self.hooks.phase(self.model, first)
        if not first:
            yield self._evaluated(0)
        self.training_began = time.time()
        with stop_between_steps() as stop:
            for event in train(parts, first):
                step = event.step
                self.speeds.append((event.tokens, event.tokens / event.tokens_per_second))
                yield event
                if step % every == 0 or step in (total, self.hooks.steps):
                    yield self._evaluated(step)
                due = self.config.checkpoint_steps and step % self.config.checkpoint_steps == 0
                if due or step == total or self.best["step"] == step:
                    yield self._save(step)
                if stop.asked and step < total:
                    yield self._save(step)
                    way = how_to_resume(self.folder, "pretrain")
                    raise Interrupted(
                        say(
                            f"Stopped at step {step}; everything is saved. {way}",
                            f"已在第 {step} 步停止，进度已保存。{way}",
                        )
                    )
        self.trained_seconds = time.time() - self.training_began
        best = self.checkpoints / f"step-{int(self.best['step']):08d}"
        if self.best["step"] and checkpoint.is_complete(best):
            self.hooks.phase(self.model, int(self.best["step"]))
            checkpoint.load_weights(best, self.model)
        self.hooks.phase(self.model, total)
        self.moved = self.engagement.check(self.model)
        if self.compact is not None and isinstance(self.model.head, MaskedHead):
            self.compact.restore()
            self.model.head.restore()
        if self.data.source is not None:
            usual = 0.0 if self.objective.decoder else KEPT
            share = usual if self.config.keep is None else self.config.keep
            if share:
                _language_model.mix(self.model, self.data.source.path, share)

    def _ngram(self) -> Iterator[Event]:
        """What the model has to beat, if it is one that an n-gram can be set beside."""
        order, train_ids = self.config.ngram_order, self.data.train.ids_T
        self.ngram: dict[str, Any] | None = None
        if not (order and self.objective.decoder) or len(train_ids) > _language_scores.NGRAM_TOKENS:
            return
        yield ProgressEvent(say("counting n-grams", "统计 n 元组"), 0, 1)
        pieces = self.model.backbone.shape.vocab_size
        held = self.data.held.first(max(_language_end.SCORED_TOKENS // self.data.held.size, 1))
        self.ngram = _language_scores.ngram(train_ids, held, self.tracked, pieces, order)
        yield ProgressEvent(say("counting n-grams", "统计 n 元组"), 1, 1)

    def _resumed(self, parts: Parts) -> Generator[Event, None, int]:
        path = (yield from newest_checkpoint(self.checkpoints)) if self.config.resume else None
        if path is None:
            return 0
        state = read_json(path / "state.json")
        self.hooks.phase(self.model, state["step"])
        checkpoint.load(path, self.model, parts.optimizer, parts.hooks)
        self.best = state["best"]
        yield going_on(state["step"])
        return int(state["step"])

    def _evaluated(self, step: int) -> Event:
        scores = _language_scores.measure(self.model, self.batches, self.tracked, self.autocast)["scores"]
        # Pairs alone have no bits per byte; their errors take the place.
        score = scores.get(MONITOR, 1 - scores.get("pair_accuracy", 0.0))
        better = step > self.hooks.steps and score < self.best["score"]
        if better:
            self.best = {"score": score, "step": step}
        return EvaluationEvent(step, "held_out", scores, self.monitor, better)

    @property
    def monitor(self) -> str:
        """The score that chooses the weights that are kept."""
        return MONITOR if self.objective.tokens else "pair_accuracy"

    def _save(self, step: int) -> Event:
        state = {"step": step, "best": self.best, "data": {"corpus": self.data.about["sha256"]}}
        path = checkpoint.save(self.checkpoints, self.model, self.parts.optimizer, state, self.hooks)
        checkpoint.keep(self.checkpoints, KEPT_CHECKPOINTS, {int(self.best["step"])})
        return CheckpointEvent(step, str(path))
