"""Search for the best settings on one table / 在同一份数据上搜索最佳设置.

The recipe is that of ``finetune`` with a section ``search:``. Each trial is a run of ``finetune`` in a folder of its
own under OUTPUT/trials, chosen by its dev part; the test part is scored once, for the best trial alone.
"""

import dataclasses
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core.config import build, default, option, read_yaml, to_yaml
from weitiao.core.errors import Interrupted, WeitiaoError
from weitiao.core.events import EvaluationEvent, Event, NoteEvent, ProgressEvent, StepEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file
from weitiao.stages import finetune
from weitiao.stages._recorded import resumable
from weitiao.stages._resume import MAY_CHANGE, is_complete, stored
from weitiao.stages._space import read_space
from weitiao.stages._study import DATABASE, Study, Trial, base_values, reported_before

EXAMPLES = (
    "weitiao tune recipe.yaml --trials 30 --output runs/search",
    "weitiao tune --data reviews.csv --search 'learning_rate=1e-5..1e-3 log,batch_size=8|16|32'",
    "weitiao tune --output runs/search --resume --trials 60",
    "weitiao tune recipe.yaml --learning-rate-test",
)
GROWS = frozenset({"trials", "ensemble", "keep_models", "engine", "parallel", "recipe"})
MOST_FAILURES = 3  # of the first trials, with none that could be trained: the recipe is at fault


@dataclass
class Config(finetune.Config):
    """What to search; all other settings are those of ``finetune`` and hold for every trial."""

    recipe: str = option(
        "",
        "finetune's settings, and a section 'search:'",
        "finetune 的设置，以及 search: 一节",
        positional=True,
    )
    search: dict[str, str] = option(
        {}, "what to search: 'learning_rate=1e-5..1e-3 log,batch_size=8|16'",
        "搜索的内容：'learning_rate=1e-5..1e-3 log,batch_size=8|16'",
    )  # fmt: skip
    trials: int = option(20, "how many trials", "试验次数", least=1, most=10_000)
    sampler: str = option("tpe", "how settings are chosen", "选取设置的方式", choices=("tpe", "random"))
    pruner: str = option(
        "median",
        "which trials are given up early",
        "何时提前放弃试验",
        choices=("median", "hyperband", "none"),
    )
    keep_models: int = option(
        1, "models of so many best trials are kept", "保留最好的若干次试验的模型", least=1
    )
    ensemble: int = option(
        0, "also average the predictions of so many best trials", "另将最好的若干次试验的预测取平均", least=0, most=50
    )  # fmt: skip
    engine: str = option(
        "local", "ray: trials side by side, on many machines", "ray：在多台机器上并行试验", choices=("local", "ray")
    )  # fmt: skip
    parallel: int = option(
        0, "trials side by side with ray (0: one for each CPU)", "ray 同时进行的试验数（0：每个 CPU 一个）", least=0
    )  # fmt: skip
    learning_rate_test: bool = option(
        False,
        "instead of a search: raise the rate step by step, suggest one, and draw the losses",
        "不搜索，只做学习率范围测试：逐步升高学习率，给出建议值并绘制损失曲线",
    )
    output: str = option("", "the search's folder (default: runs/tune-<data>)",
                         "搜索结果的目录（默认 runs/tune-<数据名>）")  # fmt: skip
    seed: int = option(
        42, "the first trial's seed (the others count on), and that of what is held out",
        "首次试验的种子（其余依次加一），也用于留出数据", least=0,
    )  # fmt: skip
    resume: bool = option(
        False, "go on, with the settings that are kept in OUTPUT", "使用 OUTPUT 中保存的设置继续"
    )
    overwrite: bool = option(False, "replace a search that is there", "覆盖已有的搜索")


def run(config: Config) -> Iterator[Event]:
    """Run the trials that are missing; then the table, the picture, and the best trial's test score.

    Raises:
        WeitiaoError: anything the user can mend; the search is checked before anything is trained.
    """
    config = _with_recipe(config)
    config = dataclasses.replace(config, output=config.output or str(default_folder(config.data)))
    if config.learning_rate_test:
        from weitiao.stages._rate_test import rate_test

        yield from rate_test(finetune.checked(config), Path(config.output))
        return
    config, going_on = _settled(config)
    base = base_values(config)
    axes = read_space(config.search, base)
    finetune.checked(build(finetune.Config, base))
    folder = Path(config.output)
    data = yield from _data(config)
    _open(config, folder)
    study = Study(config, axes, base)
    study.same_data(data)
    if left := study.mend():
        yield NoteEvent(say(f"{left} trials were under way as the search ended: they go on",
                            f"搜索中断时有 {left} 次试验尚未完成：将继续"))  # fmt: skip
    if going_on and study.found():
        count = len(study.found())
        yield NoteEvent(say(f"{count} of {config.trials} trials have ended already",
                            f"{config.trials} 次试验中已有 {count} 次结束"))  # fmt: skip
    from weitiao.stages._tuned import conclude

    with resumable(lambda: True, folder, "tune"):
        if config.engine == "ray":
            from weitiao.stages._ray_trials import trials

            yield from trials(study, config)
        else:
            yield from _trials(study, config)
        yield from conclude(study, config)


def default_folder(data: str | Path) -> Path:
    """Where a search on this table goes."""
    return Path("runs") / f"tune-{Path(data).name.split('.')[0] or 'data'}"


# --- before the trials


def _with_recipe(config: Config) -> Config:
    """The config with what its recipe says; what was given beside the recipe goes before it."""
    if not config.recipe:
        return config
    fields = {f.name: f for f in dataclasses.fields(config) if "en" in f.metadata}
    given = {n: getattr(config, n) for n, f in fields.items() if getattr(config, n) != default(f)}
    return build(Config, {**read_yaml(config.recipe), **given, **config.member_values})


def _settled(config: Config) -> tuple[Config, bool]:
    """The config, or that of the search which is to go on; and whether one is."""
    file = Path(config.output) / "config.yaml"
    held = read_yaml(file) if file.exists() else {}
    if held and "search" not in held:
        raise WeitiaoError(
            say(
                f"{config.output} holds a run, not a search: choose another --output",
                f"{config.output} 中是一次运行，而不是搜索：请换一个 --output",
            )
        )
    if config.resume:
        return dataclasses.replace(stored(config, MAY_CHANGE | GROWS), resume=False, overwrite=False), True
    if held and not config.overwrite:
        raise WeitiaoError(
            say(
                f"{config.output} already holds a search: choose another --output, or pass --resume or --overwrite",
                f"{config.output} 中已有一次搜索：请换一个 --output，或加上 --resume 或 --overwrite",
            )
        )
    return config, False


def _data(config: Config) -> Any:
    """Read the data once before the first trial: the search needs a dev part, and says early what is wrong.

    Returns:
        the hash of each table.
    """
    from weitiao.core.config import make_member
    from weitiao.stages._prepare import Prepared, prepare
    from weitiao.stages._resume import digests

    prepared: Any = None
    split_seed = config.seed if config.split_seed is None else config.split_seed
    task = make_member("tasks", config.task, config.member_values)
    for item in prepare(task, dataclasses.replace(finetune.checked(config), split_seed=split_seed)):
        if isinstance(item, Prepared):
            prepared = item
        else:
            yield item
    if "dev" not in prepared.records:
        raise WeitiaoError(
            say(
                "A search chooses by a dev part, and there is none: give --dev-data, or more than 200 texts and a "
                "--dev-fraction above 0",
                "搜索要靠验证集选择，而现在没有：请给出 --dev-data，或 200 条以上的数据和大于 0 的 --dev-fraction",
            )
        )
    return digests(prepared.sources)


def _open(config: Config, folder: Path) -> None:
    """Keep the settings; take away what ``--overwrite`` replaces."""
    if config.overwrite:
        shutil.rmtree(folder / "trials", ignore_errors=True)
        for name in (DATABASE, "best", "ensemble", "tune.json", "README.md", "report.html"):
            path = folder / name
            shutil.rmtree(
                path, ignore_errors=True
            ) if path.is_dir() and not path.is_symlink() else path.unlink(True)
    with atomic_file(folder / "config.yaml") as file:
        file.write(to_yaml(dataclasses.replace(config, overwrite=False)))


# --- the trials


def _trials(study: Study, config: Config) -> Iterator[Event]:
    """One trial after the other."""
    said: set[str] = set()  # the data's faults are told once
    while trial := study.ask():
        what = say(
            f"trial {trial.place + 1} of {config.trials}", f"第 {trial.place + 1}/{config.trials} 次试验"
        )
        yield NoteEvent(f"{what}: {shown(trial.values)}")
        try:
            for event in watched(study, trial):
                if isinstance(event, StepEvent):
                    yield ProgressEvent(what, event.step, event.total_steps)
                elif isinstance(event, NoteEvent) and event.level == "warning" and event.text not in said:
                    said.add(event.text)
                    yield event
        except GeneratorExit:  # Ctrl-C as an event was shown
            trial.asked.set_user_attr("stopped", True)
            raise
        except (Interrupted, KeyboardInterrupt):  # the latter before the trial's own folder is there
            trial.asked.set_user_attr("stopped", True)
            command = shlex.join(["weitiao", "tune", "--output", config.output, "--resume"])
            raise Interrupted(say(f"Stopped; everything is saved. Go on with: {command}",
                                  f"已停止，进度已保存。继续：{command}")) from None  # fmt: skip
        yield NoteEvent(outcome(study, trial))
        check_failures(study)


def watched(study: Study, trial: Trial) -> Iterator[Event]:
    """A trial from its beginning, or from where a killed try of it was, to its end in the study."""
    hopeless = any([trial.report(epoch, score) for epoch, score in reported_before(trial)])
    events = trial_events(trial.config)
    epoch = 0.0
    try:
        while not hopeless and (event := next(events, None)) is not None:
            if isinstance(event, StepEvent):
                epoch = event.epoch
            elif isinstance(event, EvaluationEvent):
                hopeless = trial.report(round(epoch), event.scores[event.monitor])
            yield event
    except Interrupted:
        raise
    except (WeitiaoError, MemoryError) as error:
        study.fail(trial, str(error) or type(error).__name__)
        return
    finally:
        events.close()  # type: ignore[attr-defined]
    if hopeless:
        study.prune(trial)
    else:
        study.complete(trial)


def trial_events(config: finetune.Config) -> Iterator[Event]:
    """A trial's run; its test part isn't scored."""
    folder = Path(config.output)
    begun = (folder / "config.yaml").exists()
    if begun and is_complete(folder):
        return
    yield from finetune.run(dataclasses.replace(config, resume=begun), scored=("dev",))


def shown(values: dict[str, Any]) -> str:
    """A trial's settings on a line."""
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def outcome(study: Study, trial: Trial) -> str:
    """What came of a trial, on a line."""
    from weitiao.stages._study import ranked

    found = study.found()
    row = next(row for row in found if row["place"] == trial.place)
    if row["state"] == "failed":
        return say(f"  failed: {row['reason']}", f"  失败：{row['reason']}")
    score = f"{row['score']:.4f}"
    if row["state"] == "pruned":
        return say(f"  given up early, at {score}", f"  提前放弃，得分 {score}")
    best = ranked(found)[0]
    if best["place"] == trial.place:
        return say(f"  {score}, the best so far", f"  {score}，目前最佳")
    return say(f"  {score} (best: {best['score']:.4f})", f"  {score}（最佳：{best['score']:.4f}）")


def check_failures(study: Study) -> None:
    """Stop where nothing can be trained.

    Raises:
        WeitiaoError: the first trials failed, all of them; the last one's reason is in it.
    """
    found = study.found()
    if len(found) >= MOST_FAILURES and all(row["state"] == "failed" for row in found):
        reason = found[-1]["reason"]
        raise WeitiaoError(
            say(
                f"The first {len(found)} trials failed: {reason}", f"前 {len(found)} 次试验全部失败：{reason}"
            )
        )
