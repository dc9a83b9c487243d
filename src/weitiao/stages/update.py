"""Teach a trained model new data or new labels without forgetting / 让已训练的模型学习新数据或新标签而不遗忘.

An update is a run folder of its own, RUN/updates/N. RUN/ledger.json keeps the score of every task after every update;
RUN/current names the update that answers: what opens RUN (predict, evaluate, export) follows it. The old rows are
not copied: they are read from the tables that RUN and its updates were trained on, which must still be there.
"""

import dataclasses
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weitiao.core.config import build, make_member, member_options, option, options, read_yaml
from weitiao.core.errors import Interrupted, WeitiaoError
from weitiao.core.events import Event, NoteEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import promoted, read_json, sha256, write_json
from weitiao.stages import finetune
from weitiao.stages._recorded import recorded
from weitiao.stages._resume import is_complete

EXAMPLES = (
    "weitiao update runs/x --data new.csv",
    "weitiao update runs/x --data new.csv --method replay --memory 50 --most-loss 0.5",
    "weitiao update runs/x --data new.csv --method lwf",
)
# What an update takes over from the run; the rest of a run's settings was about its own training.
KEPT = ("task", "model", "tuning", "pooling", "max_length", "dropout", "micro_tokens", "precision")


@dataclass
class Config:
    """What to learn, how, and how much may be forgotten."""

    run: str = option("", "the run's folder; it holds or names the tables of its old rows, which are read again",
                      "运行目录；旧数据从其记录的训练表中重新读取", positional=True)  # fmt: skip
    data: str = option("", "table of what is new; its labels may be new, too", "新数据表，可含新标签")
    method: str = option("replay", "what is done against forgetting", "防止遗忘的方法", family="continual")
    columns: dict[str, str] = option(
        {}, "columns by role (default: the run's)", "各角色对应的列（默认同运行）"
    )
    test_data: str = option("", "test table of what is new (default: a part held out)",
                            "新数据的测试表（默认留出一部分）")  # fmt: skip
    test_fraction: float = option(0.2, "share held out for testing", "留作测试的比例", least=0, most=0.9)
    most_loss: float = option(
        1.0,
        "points that an old task may lose; an update that costs more is kept, but not promoted",
        "旧任务最多可下降的百分点；超出则保留该更新但不启用",
        least=0,
        most=100,
    )
    num_epochs: int | None = option(None, "passes over the rows (default: the tuning's)", "训练轮数（默认由微调方法决定）",
                                    least=0)  # fmt: skip
    learning_rate: float | None = option(
        None, "peak learning rate (default: the tuning's)", "最高学习率（默认由微调方法决定）", least=0
    )
    batch_size: int | None = option(None, "examples a step (default: 16)", "每步的样本数（默认 16）", least=1)
    skip_bad_rows: bool = option(
        False, "count and list bad rows instead of stopping", "跳过并列出坏行，而不是停止"
    )
    threads: int = option(0, "CPU threads (0: all)", "CPU 线程数（0：全部）", least=0)
    seed: int = option(42, "seed of everything random", "随机种子", least=0)
    member_values: dict[str, Any] = field(default_factory=dict)


def run(config: Config) -> Iterator[Event]:
    """Train the update, score every task, keep the ledger; promote it if it learnt something and forgot little.

    A stopped update goes on where it was if the same command is given again. Ends in a ``ResultEvent``.

    Raises:
        WeitiaoError: anything the user can mend; the run answers as before then.
    """
    if not config.run or not config.data:
        raise WeitiaoError(
            say("Name a run and a table: weitiao update RUN --data new.csv",
                "请指定运行目录和数据表：weitiao update 运行目录 --data new.csv")
        )  # fmt: skip
    from weitiao.stages._judged import judge
    from weitiao.stages._ledger import Ledger
    from weitiao.stages._updating import Before, Updating

    home = Path(config.run)
    ledger = Ledger.read(home)
    now = promoted(home)
    folder = home / f"updates/{len(ledger.times) if ledger else 1}"
    settings = _settings(config, home, folder)
    method = make_member("continual", config.method, config.member_values)
    _check(settings, method, config)
    before = Before(now / "model", _tasks(home, ledger))
    settings = dataclasses.replace(settings, resume=_goes_on(config, folder))
    began = time.monotonic()
    if settings.resume and is_complete(folder):  # stopped after its training
        yield NoteEvent(say("The update is trained already", "该更新已训练完成"))
    else:
        yield from _recorded(Updating(settings, folder, before, method), folder, config)
    own = {name: getattr(method, name) for name in options(type(method))}
    facts = {"method": config.method, "settings": own, "seconds": time.monotonic() - began}
    yield from judge(home, folder, before, settings, ledger, config.most_loss, facts)


def _settings(config: Config, home: Path, folder: Path) -> finetune.Config:
    """The update's training as settings of ``finetune``: the run's, with what is said here."""
    from weitiao.models.saving import read_description

    file = home / "config.yaml"
    if not file.exists():
        raise WeitiaoError(
            say(
                f"{home} is no run that can be updated: {file} is not there",
                f"{home} 不是可更新的运行：找不到 {file}",
            )
        )
    held = read_yaml(file)
    kept = {name: held[name] for name in KEPT if name in held}
    member = make_member("continual", config.method, config.member_values)
    if member.tuning:
        kept["tuning"] = member.tuning
    known = member_options(finetune.Config, kept)
    kept |= {name: held[name] for name in known if name in held}
    # What the model carries of its task's tables, which may have changed since.
    carried = read_description(promoted(home) / "model")["task_options"]
    kept |= {name: value for name, value in carried.items() if name in known}
    given = {
        name: getattr(config, name)
        for name in ("test_data", "test_fraction", "num_epochs", "learning_rate", "batch_size", "skip_bad_rows",
                     "threads", "seed")
        if getattr(config, name) is not None
    }  # fmt: skip
    columns = config.columns or held.get("columns", {})
    values = {
        **kept,
        **given,
        "columns": columns,
        "data": config.data,
        "output": str(folder),
        "dev_fraction": 0.0,
    }
    return finetune.checked(build(finetune.Config, values))


def _check(settings: finetune.Config, method: Any, config: Config) -> None:
    """Refuse what cannot work."""
    if (
        settings.tuning == "head"
        and not settings.num_epochs
        and not (method.rehearses and not method.rows_per_class)
    ):
        raise WeitiaoError(
            say(
                "A run with --tuning head is fitted to all its rows at once, old and new: --method replay --memory 0",
                "--tuning head 的运行需要对新旧数据一起拟合：请用 --method replay --memory 0",
            )
        )
    if settings.task == "image_classification":
        raise WeitiaoError(say("weitiao update is for models of texts", "weitiao update 适用于文本模型"))


def _tasks(home: Path, ledger: Any) -> list[Any]:
    """Every task the model has learnt, with its rows, read again as they were read then.

    Raises:
        WeitiaoError: a table is gone or has changed.
    """
    from weitiao.stages._prepare import Prepared, prepare
    from weitiao.stages._updating import Learnt

    found: list[Any] = []
    for number, learnt in enumerate(ledger.promoted if ledger else [None]):
        folder = home / learnt.folder if learnt and number else home
        settings = build(finetune.Config, read_yaml(folder / "config.yaml"))
        task = make_member("tasks", settings.task, settings.member_values)
        metrics = read_json(folder / "metrics.json")
        try:
            *_, prepared = prepare(task, settings)
            assert isinstance(prepared, Prepared)
            changed = [n for n, source in prepared.sources.items()
                       if n in metrics["data"] and metrics["data"][n]["sha256"] != source["sha256"]]  # fmt: skip
            if changed:
                raise WeitiaoError(say(f"{settings.data} has changed since", f"{settings.data} 已经改变"))
            if "test" not in prepared.records:
                raise WeitiaoError(say("there are no test rows", "没有测试数据"))
        except WeitiaoError as error:
            raise WeitiaoError(
                say(
                    f"The rows that {folder} was trained and tested on are needed again: {error}. Put the table back",
                    f"需要重新读取 {folder} 的训练与测试数据：{error}。请恢复该数据表",
                )
            ) from None
        name = learnt.task if learnt else prepared.sources["train"]["name"]
        baseline = metrics.get("evaluation", {}).get("test", {}).get("baseline", {})
        found.append(Learnt(name, prepared.records, baseline.get(metrics.get("monitor", ""))))
    return found


def _goes_on(config: Config, folder: Path) -> bool:
    """Whether a stopped update goes on; one that was begun otherwise, and never promoted, makes way."""
    free = ("run", "data", "threads", "most_loss")
    wish = {
        "data": sha256(config.data) if Path(config.data).is_file() else config.data,
        "settings": {name: value for name, value in vars(config).items() if name not in free},
    }
    file = folder / "update.json"
    if (folder / "config.yaml").exists() and file.exists() and read_json(file) == wish:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    write_json(file, wish)
    return False


def _recorded(training: Any, folder: Path, config: Config) -> Iterator[Event]:
    """The events of the training, kept in its folder too."""
    import datasets

    datasets.disable_progress_bars()
    try:
        for event in recorded(training.events(), lambda: training.opened, folder):
            if not isinstance(event, ResultEvent):  # the last word is the ledger's
                yield event
    except (Interrupted, KeyboardInterrupt):
        again = shlex.join(["weitiao", "update", config.run, "--data", config.data])
        raise Interrupted(
            say(f"Stopped; the run answers as before. The same command goes on: {again} ...",
                f"已停止，运行照旧作答。再次运行同一命令即可继续：{again} …")
        ) from None  # fmt: skip
    finally:
        if not training.opened and (folder / "update.json").exists():
            shutil.rmtree(folder, ignore_errors=True)  # what cannot be trained leaves no folder
