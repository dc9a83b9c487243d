"""All rungs on real data, from digits to a language model, on one page / 从手写数字到语言模型，逐级训练，汇成一页报告.

Each rung is a run, or several, of the command that it teaches, in folders below OUTPUT, and uses what those before it
made. A run that is complete is not done again; one that was stopped goes on where it was.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weitiao.core.config import option, read_yaml, to_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, remove_leftovers
from weitiao.stages import _climb, _climb_data
from weitiao.stages._resume import is_complete

EXAMPLES = (
    "weitiao climb --output runs/climb",
    "weitiao climb --quick --output runs/climb-quick",
)
MAY_CHANGE = frozenset({"output", "threads", "overwrite"})  # settings that change no result


@dataclass
class Config:
    """What is climbed with; sizes are chosen so that the whole takes about an hour, or with ``quick`` minutes."""

    output: str = option("runs/climb", "the climb's folder", "结果目录")
    quick: bool = option(
        False, "small cuts of the data: minutes on two cores", "只用少量数据：两核几分钟即可完成"
    )
    pictures: str = option(
        "mnist", "digits: a known name, or a folder of pictures", "数字图片：已知名称，或图片目录"
    )
    texts: str = option("csl", "labelled texts: a known name, or a table", "带标签的文本：已知名称，或数据表")
    model: str = option(
        "multilingual-e5-small",
        "the encoder that is fine-tuned: a known name or a folder",
        "要微调的编码器：已知名称或目录",
    )
    corpus: str = option(
        "",
        "plain texts to pretrain on: a folder or a file (default: those of the labelled texts)",
        "预训练用的纯文本：目录或文件（默认用带标签文本中的文本）",
    )
    threads: int = option(0, "CPU threads (0: all)", "CPU 线程数（0：全部）", least=0)
    seed: int = option(42, "seed of everything random", "随机种子", least=0)
    overwrite: bool = option(False, "replace a climb that is already there", "覆盖已有的结果")


def run(config: Config) -> Iterator[Event]:
    """Do what is missing, and write the page. Ends in a ``ResultEvent``.

    Raises:
        WeitiaoError: the folder holds something else, or a climb with other settings; anything a rung refuses.
    """
    folder = Path(config.output)
    going_on = _checked(config, folder)
    yield from _climb_data.prepare(config, folder, anew=not going_on)
    with atomic_file(folder / "config.yaml") as file:  # after the data: a name that was wrong can be mended
        file.write(to_yaml(dataclasses.replace(config, overwrite=False)))
    rungs = _climb.plan(config, folder)
    for number, rung in enumerate(rungs, 1):
        for step in rung.steps:
            what = say(
                f"rung {number} of {len(rungs)}: {step.title[0]}",
                f"第 {number}/{len(rungs)} 级：{step.title[1]}",
            )
            if is_complete(step.folder):
                yield NoteEvent(say(f"{what}: there already", f"{what}：已完成"))
            else:
                yield NoteEvent(what)
                yield from _climb.do(step, what, folder)
    from weitiao.reporting.climb import table_text, write_page
    from weitiao.stages._climb_shown import shown

    climbed = yield from shown(rungs, folder)
    page = write_page(folder, climbed)
    text = say(f"The page: {page}", f"报告：{page}")
    yield ResultEvent(str(folder), {"text": f"{table_text(climbed)}\n{text}", "climb": climbed})


def _checked(config: Config, folder: Path) -> bool:
    """Whether the climb goes on with what is there; ``--overwrite`` takes that away.

    Raises:
        WeitiaoError: the folder holds something else, or a climb with other settings.
    """
    file = folder / "config.yaml"
    held = read_yaml(file) if file.exists() else {}
    names = [field.name for field in dataclasses.fields(config)]
    if held and sorted(held) != sorted(names):
        raise WeitiaoError(
            say(
                f"{folder} holds a run, not a climb: choose another --output",
                f"{folder} 中是另一种运行：请换一个 --output",
            )
        )
    if config.overwrite and held:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return False
    for name in names if held else ():
        if name not in MAY_CHANGE and held[name] != getattr(config, name):
            raise WeitiaoError(
                say(
                    f"{name} is {getattr(config, name)} here, but {held[name]} in the climb in {folder}: "
                    f"choose another "
                    "--output, or pass --overwrite",
                    f"此处 {name} 为 {getattr(config, name)}，而 {folder} 中是 {held[name]}：请换一个 --output，"
                    "或加上 --overwrite",
                )
            )
    remove_leftovers(folder)
    return bool(held)
