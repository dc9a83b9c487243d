"""The trials of a search side by side on Ray: one machine's processors, or many machines that share a disk.

``RAY_ADDRESS`` joins a cluster; without it a local one is started and ended again. The study stays in this process,
which alone writes the database: a trial sends its dev scores as they come, and is cancelled when it falls behind.
"""

import contextlib
import dataclasses
import logging
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.config import build, member_settings, options
from weitiao.core.device import pick_device, pick_precision
from weitiao.core.errors import Interrupted, WeitiaoError
from weitiao.core.events import EvaluationEvent, Event, NoteEvent, ProgressEvent, StepEvent
from weitiao.core.messages import say
from weitiao.stages import finetune
from weitiao.stages._study import Study, Trial, reported_before
from weitiao.training.interrupt import undisturbed

if TYPE_CHECKING:
    from weitiao.stages.tune import Config

OBJECT_STORE_BYTES = 80_000_000  # nothing but scores passes through it
POLL_SECONDS = 1.0
END_SECONDS = 120.0  # for a cancelled trial to come to the end of its step
# Settings that may name a file or a folder; those of tasks and objectives among them.
PATHS = ("data", "dev_data", "test_data", "unlabelled", "model", "lexicon", "triples", "rules", "vision")


def trials(study: Study, config: "Config") -> Iterator[Event]:
    """Run the trials that are missing, as many at once as there are processors for.

    Raises:
        WeitiaoError: Ray is not installed, or cannot be started.
    """
    try:
        import ray
    except ImportError:
        raise WeitiaoError(
            say("--engine ray needs Ray: pip install 'weitiao[scale]'",
                "--engine ray 需要 Ray：pip install 'weitiao[scale]'")
        ) from None  # fmt: skip
    study.config = dataclasses.replace(config, precision=pick_precision(config.precision, pick_device()))
    study.base |= {"precision": study.config.precision, "threads": config.threads or 1}
    for name in PATHS:
        if study.base.get(name):
            study.base[name] = _absolute(study.base[name])
    mine = not ray.is_initialized()
    if mine:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        local: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {
            "num_cpus": os.cpu_count(), "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES,
        }  # fmt: skip
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        yield from _Run(ray, study, config).events()
    finally:
        if mine:
            ray.shutdown()


# Settings that may name a file or a folder; those of tasks and objectives among them.
PATHS = ("data", "dev_data", "test_data", "unlabelled", "model", "lexicon", "triples", "rules", "vision")


class _Run:
    """The trials under way, by the stream of what each says."""

    def __init__(self, ray: Any, study: Study, config: "Config") -> None:
        self.ray, self.study, self.config = ray, study, config
        threads = config.threads or 1
        processors = int(ray.cluster_resources().get("CPU", 1))
        self.width = config.parallel or max(processors // threads, 1)
        self.remote = ray.remote(num_cpus=threads, max_retries=0, num_returns="streaming")(told)
        self.trials: dict[Any, Trial] = {}
        self.hopeless: set[int] = set()  # places of those that are being cancelled

    def events(self) -> Iterator[Event]:
        from weitiao.stages.tune import check_failures, outcome, shown

        try:
            while self._fill() or self.trials:
                for place, values in self.started:
                    yield NoteEvent(say(f"trial {place + 1} of {self.config.trials}: {shown(values)}",
                                        f"第 {place + 1}/{self.config.trials} 次试验：{shown(values)}"))  # fmt: skip
                self.started = []
                done = self.config.trials - len(self.trials)
                yield ProgressEvent(
                    say("trials", "试验"), max(min(len(self.study.found()), done), 0), self.config.trials
                )
                ready, _ = self.ray.wait(list(self.trials), num_returns=1, timeout=POLL_SECONDS)
                for stream in ready:
                    trial = self.trials[stream]
                    if self._next(stream, trial):
                        del self.trials[stream]
                        number = f"{trial.place + 1}"
                        yield NoteEvent(
                            say(f"trial {number}:", f"第 {number} 次试验：") + outcome(self.study, trial)
                        )
                        check_failures(self.study)
        except KeyboardInterrupt:
            self._stop()
            command = shlex.join(["weitiao", "tune", "--output", self.config.output, "--resume"])
            raise Interrupted(say(f"Stopped; everything is saved. Go on with: {command}",
                                  f"已停止，进度已保存。继续：{command}")) from None  # fmt: skip

    started: list[tuple[int, dict[str, Any]]]

    def _fill(self) -> bool:
        """Start trials while there is room. Returns whether any was started."""
        self.started = []
        while len(self.trials) < self.width and (trial := self.study.ask()):
            with undisturbed():
                hopeless = any([trial.report(epoch, score) for epoch, score in reported_before(trial)])
            if hopeless:
                self.hopeless.add(trial.place)
            values = {name: getattr(trial.config, name) for name in options(finetune.Config)}
            values["output"] = str(Path(trial.config.output).resolve())
            self.trials[self.remote.remote(values | member_settings(trial.config))] = trial
            self.started.append((trial.place, trial.values))
        return bool(self.started)

    def _next(self, stream: Any, trial: Trial) -> bool:
        """Take what a trial said. Returns whether it has ended."""
        try:
            said = self.ray.get(next(stream))
        except StopIteration:
            if trial.place in self.hopeless:
                self.study.prune(trial)
            else:
                self.study.complete(trial)
            return True
        except self.ray.exceptions.RayError as error:
            if trial.place in self.hopeless:
                self.study.prune(trial)
            else:
                self.study.fail(trial, str(error).strip().splitlines()[-1])
            return True
        if "failed" in said:
            self.study.fail(trial, said["failed"])
            return True
        with undisturbed():
            hopeless = trial.report(said["epoch"], said["score"])
        if hopeless and trial.place not in self.hopeless:
            self.hopeless.add(trial.place)
            self.ray.cancel(stream)
        return False

    def _stop(self) -> None:
        """Ctrl-C: let each trial end its step and save."""
        for stream, trial in self.trials.items():
            trial.asked.set_user_attr("stopped", True)
            self.ray.cancel(stream)
        for stream in self.trials:
            with contextlib.suppress(Exception):
                while True:
                    self.ray.get(next(stream), timeout=END_SECONDS)


def told(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A trial in a worker: its dev scores by epoch; or why it failed."""
    from weitiao.stages.tune import trial_events

    epoch = 0.0
    try:
        for event in trial_events(build(finetune.Config, values)):
            if isinstance(event, StepEvent):
                epoch = event.epoch
            elif isinstance(event, EvaluationEvent):
                yield {"epoch": round(epoch), "score": event.scores[event.monitor]}
    except Interrupted:
        return
    except WeitiaoError as error:
        yield {"failed": str(error)}


def _absolute(data: str) -> str:
    """A path as every machine finds it; what is none, as the name of a known data set or model, stays."""
    return str(Path(data).resolve()) if data and Path(data).exists() else data
