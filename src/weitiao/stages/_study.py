"""The trials of a search, kept in SQLite as they happen, so that a kill loses none and repeats none.

What ``optuna`` proposes for the nth trial follows from the trials before it and from the seed alone. A search that was
killed therefore goes on as an undisturbed one would have: the trial that was under way is marked as failed there, and
its settings are tried once more, in the same folder, from its newest checkpoint.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.config import build, member_options, options, read_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import read_events, read_json
from weitiao.stages import finetune
from weitiao.stages._space import Axis, draw
from weitiao.training.interrupt import undisturbed

if TYPE_CHECKING:
    from weitiao.stages.tune import Config

DATABASE, NAME = "trials.db", "weitiao"
STARTUP_TRIALS = 5  # trials that are never pruned: there is nothing to compare them with


@dataclasses.dataclass
class Trial:
    """One trial under way: ``place`` counts from 0 and stays when it is tried again."""

    asked: Any
    place: int
    values: dict[str, Any]
    config: finetune.Config
    reported: set[int] = dataclasses.field(default_factory=set)

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return Path(self.config.output)

    def report(self, epoch: int, score: float) -> bool:
        """Keep the dev score after an epoch. Returns whether the trial is to be given up."""
        if epoch in self.reported:
            return False
        self.reported.add(epoch)
        self.asked.report(score, epoch)
        return bool(self.asked.should_prune())


class Study:
    """A search's trials, those of before included.

    Raises:
        WeitiaoError: what is kept in the folder is no such database.
    """

    def __init__(self, config: "Config", axes: list[Axis], base: dict[str, Any]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.config, self.axes, self.base = optuna, config, axes, base
        self.folder = Path(config.output)
        self.folder.mkdir(parents=True, exist_ok=True)
        pruners = {
            "none": optuna.pruners.NopPruner,
            "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
            "hyperband": optuna.pruners.HyperbandPruner,
        }
        try:
            with undisturbed():
                self.study = optuna.create_study(
                    storage=f"sqlite:///{self.folder / DATABASE}",
                    study_name=NAME,
                    direction="maximize",
                    pruner=pruners[config.pruner](),
                    load_if_exists=True,
                )
        except Exception as error:  # SQLAlchemy and alembic have a class for everything that can be wrong
            reason = str(error).split("\n")[0]
            raise WeitiaoError(
                say(
                    f"{self.folder / DATABASE} cannot be opened ({reason}): remove it, or pass --overwrite",
                    f"无法打开 {self.folder / DATABASE}（{reason}）：请删除它，或加上 --overwrite",
                )
            ) from None

    @undisturbed()
    def same_data(self, digests: dict[str, str]) -> None:
        """Refuse to go on with other data than the search began with.

        Raises:
            WeitiaoError: a table has another hash.
        """
        began_with = self.study.user_attrs.get("data", digests)
        for name, digest in began_with.items():
            if digests.get(name) != digest:
                raise WeitiaoError(
                    say(
                        f"The {name} data is not what this search began with: put it back, or begin anew with "
                        "--overwrite",
                        f"{name} 数据已与本次搜索开始时不同：请恢复原数据，或用 --overwrite 重新开始",
                    )
                )
        self.study.set_user_attr("data", digests)

    @undisturbed()
    def mend(self) -> int:
        """Mark what a kill left under way as failed, to be tried once more. Returns how many there were."""
        states = self.optuna.trial.TrialState
        every = self.study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get("again_of") for trial in every}
        left = [trial for trial in every if trial.state == states.RUNNING]
        for trial in left:
            tries = trial.user_attrs.get("tries", 1)
            stopped = trial.user_attrs.get("stopped", False)  # by Ctrl-C: that is no failure of the trial
            if (tries < 2 or stopped) and trial.number not in again and "place" in trial.user_attrs:
                kept = {"place": trial.user_attrs["place"], "again_of": trial.number}
                kept["tries"] = tries if stopped else tries + 1
                self.study.enqueue_trial(trial.params, user_attrs=kept)
            self.study.set_user_attr(f"reason_{trial.number}", say("it was killed", "进程被终止"))
            self.study.tell(trial.number, state=states.FAIL)
        return len(left)

    @undisturbed()
    def ask(self) -> Trial | None:
        """The next trial; None when there are as many as were wanted."""
        waiting = self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.WAITING,))
        place = len(self.found()) + (0 if waiting else self.under_way())
        if not waiting and place >= self.config.trials:
            return None
        if waiting:
            place = waiting[0].user_attrs["place"]
        # The nth proposal follows from the seed and the trials before it: a resumed search makes the same.
        self.study.sampler = self._sampler(self.config.seed + place)
        asked = self.study.ask()
        asked.set_user_attr("place", place)
        values = draw(self.axes, asked, self.base)
        return Trial(asked, place, values, self._settings(place, values))

    def _sampler(self, seed: int) -> Any:
        samplers = self.optuna.samplers
        if self.config.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        return samplers.TPESampler(seed=seed, constant_liar=self.config.engine == "ray")

    def _settings(self, place: int, values: dict[str, Any]) -> finetune.Config:
        """The settings of a trial's run."""
        config = self.config
        chosen = {**self.base, **values}
        known = options(finetune.Config).keys() | member_options(finetune.Config, chosen).keys()
        chosen = {key: value for key, value in chosen.items() if key in known}
        chosen |= {"output": str(self.folder / "trials" / f"{place:03d}"), "seed": config.seed + place}
        chosen["split_seed"] = config.seed if config.split_seed is None else config.split_seed
        if "precision" not in values:  # what ``auto`` measured for the first trial holds for all
            files = sorted(self.folder.glob("trials/*/config.yaml"))
            chosen["precision"] = read_yaml(files[0])["precision"] if files else config.precision
        return build(finetune.Config, chosen)

    @undisturbed()
    def complete(self, trial: Trial) -> None:
        """The trial's run has ended: its score is that of the saved model on the dev part."""
        metrics = read_json(trial.folder / "metrics.json")
        score = metrics["evaluation"]["dev"]["scores"][metrics["monitor"]]
        trial.asked.set_user_attr("seconds", metrics["cost"]["actual_seconds"])
        self.study.tell(trial.asked, score)
        keep_models(self.folder, self.found(), max(self.config.keep_models, self.config.ensemble))

    @undisturbed()
    def prune(self, trial: Trial) -> None:
        """The trial was given up: it isn't worth more epochs."""
        self.study.tell(trial.asked, state=self.optuna.trial.TrialState.PRUNED)
        for name in ("checkpoints", "model"):
            shutil.rmtree(trial.folder / name, ignore_errors=True)

    @undisturbed()
    def fail(self, trial: Trial, reason: str) -> None:
        """The trial's settings cannot be trained; the search goes on without."""
        self.study.set_user_attr(f"reason_{trial.asked.number}", " ".join(reason.split())[:300])
        self.study.tell(trial.asked, state=self.optuna.trial.TrialState.FAIL)
        shutil.rmtree(trial.folder / "checkpoints", ignore_errors=True)

    def under_way(self) -> int:
        """How many trials are running."""
        running = (self.optuna.trial.TrialState.RUNNING,)
        return len(self.study.get_trials(deepcopy=False, states=running))

    def found(self) -> list[dict[str, Any]]:
        """Each trial that ended, by place: what was tried, and what came of it. Those tried again count once."""
        states = self.optuna.trial.TrialState
        every = self.study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get("again_of") for trial in every}
        named = {states.COMPLETE: "complete", states.PRUNED: "pruned", states.FAIL: "failed"}
        rows = []
        for trial in every:
            if trial.state not in named or trial.number in again or "place" not in trial.user_attrs:
                continue
            place, curve = trial.user_attrs["place"], trial.intermediate_values
            rows.append(
                {
                    "place": place,
                    "folder": f"trials/{place:03d}",
                    "state": named[trial.state],
                    "score": trial.value if trial.value is not None else max(curve.values(), default=None),
                    "settings": trial.params,
                    "seed": self.config.seed + place,
                    "curve": [[epoch, curve[epoch]] for epoch in sorted(curve)],
                    "seconds": trial.user_attrs.get("seconds"),
                    "reason": self.study.user_attrs.get(f"reason_{trial.number}", ""),
                }
            )
        return sorted(rows, key=lambda row: row["place"])

    def importance(self) -> dict[str, float]:
        """How much of the scores' variance each setting explains (fANOVA, Hutter et al. 2014); empty for few trials."""
        try:
            evaluator = self.optuna.importance.FanovaImportanceEvaluator(seed=self.config.seed)
            return dict(self.optuna.importance.get_param_importances(self.study, evaluator=evaluator))
        except (ValueError, RuntimeError):  # fewer than two complete trials, or all scores the same
            return {}


def base_values(config: "Config") -> dict[str, Any]:
    """What the recipe sets for every trial, as plain values."""
    skipped = {"resume", "overwrite", "output", "seed"}
    values = {name: getattr(config, name) for name in options(finetune.Config) if name not in skipped}
    return values | config.member_values


def reported_before(trial: Trial) -> Iterator[tuple[int, float]]:
    """(epoch, dev score) of what a killed try of this trial evaluated already."""
    per_epoch = 1.0
    for event in read_events(trial.folder):
        if event["event"] == "step":
            per_epoch = event["step"] / event["epoch"]
        elif event["event"] == "evaluation":
            yield round(event["step"] / per_epoch), event["scores"][event["monitor"]]


def keep_models(folder: Path, found: list[dict[str, Any]], count: int) -> None:
    """Remove the models of all but the ``count`` best trials; their figures and reports stay."""
    for row in ranked(found)[count:]:
        shutil.rmtree(folder / row["folder"] / "model", ignore_errors=True)


def ranked(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials that were trained to the end, the best first."""
    return sorted(
        (row for row in found if row["state"] == "complete"), key=lambda row: (-row["score"], row["place"])
    )
