"""Compare ways to fine-tune on one table, over several seeds / 在同一份数据上用多个随机种子比较微调方法.

Each method and seed is a run of ``finetune`` in a folder of its own under OUTPUT/runs, trained and scored on the same
rows; so a comparison that was stopped goes on where it was, and one that is complete can grow by methods and seeds.
"""

import dataclasses
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core import catalogue
from weitiao.core.config import build, member_options, option, options, read_yaml, several, to_yaml
from weitiao.core.device import forget_peak_memory
from weitiao.core.errors import Interrupted, WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent, ResultEvent, StepEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, read_json
from weitiao.stages import finetune
from weitiao.stages._compared import same_rows, summary, write
from weitiao.stages._resume import MAY_CHANGE, is_complete, stored

EXAMPLES = (
    "weitiao compare --data reviews.csv --tuning full,lora,adalora,adapter,prefix --seeds 3 --output runs/compare",
    "weitiao compare --data reviews.csv --tuning full,lora --objective cross_entropy,cross_entropy+r_drop",
    "weitiao compare --data news.csv --tuning full --lexicon finance.csv --ablate lexicon",
    "weitiao compare --output runs/compare --resume",
)
GROWS = frozenset({"tuning", "objective", "seeds", "ablate"})
OWN = frozenset({"seeds", "ablate", "resume", "overwrite"})  # what the runs of a comparison are not given
FILES = ("config.yaml", "comparison.json", "README.md", "compare.html")


@dataclass
class Config(finetune.Config):
    """What to compare; all other settings are those of ``finetune`` and hold for every run."""

    tuning: str = option(
        "full,lora,adapter", "the methods to compare, a,b,c", "要比较的微调方法，a,b,c", family="tuning"
    )
    objective: str = option(
        "",
        "objectives to compare as a second axis, a,b+0.5*c (default: the task's)",
        "作为第二个维度比较的训练目标，a,b+0.5*c（默认由任务决定）",
    )
    seeds: int = option(
        3,
        "how often each is trained, with the seeds SEED, SEED+1 ...",
        "每种方法训练几次，种子依次为 SEED、SEED+1……",
        least=1,
        most=100,
    )
    ablate: list[str] = option(
        [],
        "settings that each method is also trained without, a,b,c: did they help?",
        "消融：每种方法再分别去掉这些设置训练一次，a,b,c，看它们是否有用",
    )
    output: str = option("", "the comparison's folder (default: runs/compare-<data>)",
                         "比较结果的目录（默认 runs/compare-<数据名>）")  # fmt: skip
    seed: int = option(
        42, "the first seed, and that of what is held out", "第一个种子，也用于留出数据", least=0
    )
    resume: bool = option(
        False, "go on, with the settings that are kept in OUTPUT", "使用 OUTPUT 中保存的设置继续"
    )
    overwrite: bool = option(False, "replace a comparison that is there", "覆盖已有的比较")


@dataclass(frozen=True)
class Member:
    """One run of the comparison: ``name`` is its method's."""

    name: str
    seed: int
    config: finetune.Config

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.output)


def run(config: Config) -> Iterator[Event]:
    """Train what is missing, and write the table and the picture. Ends in a ``ResultEvent``.

    Raises:
        WeitiaoError: anything the user can mend; the choices are checked before anything is trained.
    """
    folder = Path(config.output) if config.output else default_folder(config.data)
    config = _settled(dataclasses.replace(config, output=str(folder)))
    members = plan(config)
    for member in members:
        finetune.checked(member.config)
    _open(config, folder)
    done = sum(is_complete(member.folder) for member in members)
    if done:
        yield NoteEvent(say(f"{done} of {len(members)} runs are complete already",
                            f"{len(members)} 次运行中已有 {done} 次完成"))  # fmt: skip
    measures_memory = forget_peak_memory()
    said: set[str] = set()  # the data's faults are told once, not for every run
    first: dict[str, Any] = {}
    for number, member in enumerate(members, 1):
        what = say(f"run {number} of {len(members)}: {member.name}, seed {member.seed}",
                   f"第 {number}/{len(members)} 次：{member.name}，种子 {member.seed}")  # fmt: skip
        if not is_complete(member.folder):
            yield NoteEvent(what)
            yield from _train(member, _precision(config, members), what, said)
        found = same_rows(read_json(member.folder / "metrics.json"), first, member)
        first = first or found
    comparison = summary(config, members, measures_memory)
    write(folder, comparison)
    from weitiao.reporting.comparison import table_text

    text = say(f"Table: {folder / 'README.md'}   picture: {folder / 'compare.html'}",
               f"表：{folder / 'README.md'}   图：{folder / 'compare.html'}")  # fmt: skip
    result = {"text": f"{table_text(comparison)}\n{text}", "comparison": comparison}
    yield ResultEvent(str(folder), result)


def default_folder(data: str | Path) -> Path:
    """Where a comparison on this table goes."""
    return Path("runs") / f"compare-{Path(data).name.split('.')[0] or 'data'}"


# --- before training


def plan(config: Config) -> list[Member]:
    """Every run, the first seed of all methods first, so that each method has been seen early.

    Raises:
        WeitiaoError: a method or an objective is unknown or named twice.
    """
    tunings = several(config.tuning)
    objectives = ["+".join(several(part)) for part in config.objective.split(",") if part.strip()] or [""]
    for flag, names in (("tuning", tunings), ("objective", objectives)):
        for name in names:
            if flag == "tuning":
                catalogue.member("tuning", name)
            if names.count(name) > 1:
                raise WeitiaoError(say(f"--{flag} names {name} twice", f"--{flag} 中 {name} 出现了两次"))
    if not tunings:
        raise WeitiaoError(
            say("No method: name some with --tuning full,lora", "没有方法：请用 --tuning full,lora 指定")
        )
    ablated = ["", *dict.fromkeys(name.replace("-", "_") for name in config.ablate)]
    for name in ablated[1:]:
        _check_ablated(config, name)
    return [
        _member(config, tuning, objective, config.seed + number, without)
        for number in range(config.seeds)
        for tuning in tunings
        for objective in objectives
        for without in ablated
    ]


def _check_ablated(config: Config, name: str) -> None:
    """Refuse to leave out what is not there."""
    known = options(Config)
    given = config.member_values if name not in known else {name: getattr(config, name)}
    if name in OWN | {"data", "output", "tuning", "objective"} or given.get(name) in (None, "", [], {}):
        raise WeitiaoError(
            say(
                f"--ablate {name}: that is none of the settings given, so it cannot be left out",
                f"--ablate {name}：没有给出这项设置，无法去掉它作对照",
            )
        )


def _member(config: Config, tuning: str, objective: str, seed: int, without: str = "") -> Member:
    name = f"{tuning}, {objective}" if objective else tuning
    name += f", without {without}" if without else ""
    folder = Path(config.output) / "runs" / f"{re.sub('[^a-z0-9_.+-]+', '-', name)}-{seed}"
    values = {key: getattr(config, key) for key in options(Config) if key not in OWN}
    values |= {"tuning": tuning, "objective": objective, "seed": seed, "output": str(folder)}
    values["split_seed"] = config.seed if config.split_seed is None else config.split_seed
    known = member_options(finetune.Config, values)
    given = {key: value for key, value in config.member_values.items() if key in known}
    settings = {key: value for key, value in (values | given).items() if key != without}
    return Member(name, seed, build(finetune.Config, settings))


def _settled(config: Config) -> Config:
    """The config, or that of the comparison which is to go on.

    Raises:
        WeitiaoError: there is none, or it was begun with other settings.
    """
    file = Path(config.output) / "config.yaml"
    held = read_yaml(file) if file.exists() else {}
    if held and "seeds" not in held:
        raise WeitiaoError(
            say(
                f"{config.output} holds a run, not a comparison: choose another --output",
                f"{config.output} 中是一次运行，而不是比较：请换一个 --output",
            )
        )
    if config.resume:
        settled = stored(config, MAY_CHANGE | GROWS)
        return dataclasses.replace(settled, resume=False, overwrite=False)
    if held and not config.overwrite:
        import yaml

        now = yaml.safe_load(to_yaml(config))  # as it would be read back
        for name in sorted(held.keys() & now.keys() - MAY_CHANGE - GROWS - OWN):
            if held[name] != now[name]:
                raise WeitiaoError(
                    say(
                        f"{name} is {now[name]} here, but {held[name]} in the comparison in {config.output}: choose "
                        "another --output, or pass --overwrite",
                        f"此处 {name} 为 {now[name]}，而 {config.output} 中的比较是 {held[name]}：请换一个 --output，"
                        "或加上 --overwrite",
                    )
                )
    return config


def _open(config: Config, folder: Path) -> None:
    """Keep the settings; take away what ``--overwrite`` replaces."""
    if config.overwrite:
        shutil.rmtree(folder / "runs", ignore_errors=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
    with atomic_file(folder / "config.yaml") as file:
        file.write(to_yaml(dataclasses.replace(config, overwrite=False)))


# --- training


def _train(member: Member, precision: str, what: str, said: set[str]) -> Iterator[Event]:
    """Train one run, or go on with it; its own events are in its folder."""
    forget_peak_memory()
    going_on = (member.folder / "config.yaml").exists()
    settings = dataclasses.replace(member.config, precision=precision, resume=going_on)
    try:
        for event in finetune.run(settings):
            if isinstance(event, StepEvent):
                yield ProgressEvent(what, event.step, event.total_steps)
            elif isinstance(event, NoteEvent) and event.level == "warning" and event.text not in said:
                said.add(event.text)
                yield event
    except (Interrupted, KeyboardInterrupt):  # the latter before the run's own folder is there
        command = shlex.join(["weitiao", "compare", "--output", str(member.folder.parents[1]), "--resume"])
        raise Interrupted(say(f"Stopped; everything is saved. Go on with: {command}",
                              f"已停止，进度已保存。继续：{command}")) from None  # fmt: skip


def _precision(config: Config, members: Sequence[Member]) -> str:
    """What ``auto`` measured for the first run holds for all: they are to differ by their method alone."""
    files = (member.folder / "config.yaml" for member in members)
    return next((str(read_yaml(file)["precision"]) for file in files if file.exists()), config.precision)
