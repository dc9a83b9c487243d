"""Make one answer of several runs / 把多次运行合成一个答案.

``average`` averages their probabilities, at the price of running all. The others make one model, as fast as any of
them: ``soup`` averages weights, adding a run where the dev part does not suffer (Wortsman et al. 2022); ``distil``
teaches the best run's model what all of them say together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event
from weitiao.core.messages import say

EXAMPLES = (
    "weitiao ensemble runs/a runs/b runs/c --output runs/together",
    "weitiao ensemble runs/compare/runs/full-42 runs/compare/runs/full-43 --way soup --output runs/soup",
    "weitiao ensemble runs/a runs/b --way distil --corpus texts.txt --output runs/taught",
)
WAYS = ("average", "soup", "uniform_soup", "distil")


@dataclass
class Config:
    """Which runs, and how they become one."""

    runs: list[str] = option([], "the runs' folders", "各运行目录", positional=True)
    way: str = option(
        "average", "average their probabilities, or make one model of them", "平均概率，或合成一个模型", choices=WAYS
    )  # fmt: skip
    output: str = option("", "where the result goes", "结果目录")
    data: str = option(
        "",
        "labelled table to choose and score by (default: the runs' own dev and test parts)",
        "用于选择和评分的有标注数据表（默认用各运行自己的验证集和测试集）",
    )
    columns: dict[str, str] = option(
        {}, "columns by role: text=review,label=stars", "各角色对应的列：text=评论,label=星级"
    )
    corpus: list[str] = option(
        [],
        "distil: unlabelled texts beside the training texts",
        "distil：训练文本之外的无标注文本",
    )
    distil_epochs: float = option(3.0, "distil: passes over the texts", "distil：遍历文本的轮数", least=0.01)
    distil_learning_rate: float = option(5e-5, "distil: peak learning rate", "distil：最高学习率", least=0)
    temperature: float = option(
        2.0, "distil: softens the outputs", "distil：软化输出的温度", least=0.1, most=100
    )
    precision: str = option(
        "auto", "distil: of its training", "distil：训练的精度", choices=("auto", "bf16", "fp32")
    )
    threads: int = option(0, "CPU threads (0: all)", "CPU 线程数（0：全部）", least=0)
    seed: int = option(42, "seed of everything random", "随机种子", least=0)
    overwrite: bool = option(False, "replace what is in OUTPUT", "覆盖 OUTPUT 中已有的内容")


def run(config: Config) -> Iterator[Event]:
    """Make the ensemble, and score it beside its members. Ends in a ``ResultEvent``.

    Raises:
        WeitiaoError: anything the user can mend; nothing half-written is left.
    """
    if len(config.runs) < 2 or not config.output:
        raise WeitiaoError(
            say(
                "Name two runs or more, and a folder: weitiao ensemble RUN RUN --output FOLDER",
                "请指定两个以上的运行目录和输出目录：weitiao ensemble 运行目录 运行目录 --output 目录",
            )
        )
    folders = [Path(name).resolve() for name in config.runs]
    for name, folder in zip(config.runs, folders, strict=True):
        if folders.count(folder) > 1:
            raise WeitiaoError(say(f"{name} is named twice", f"{name} 出现了两次"))
    output = Path(config.output)
    if output.exists() and any(output.iterdir()) and not config.overwrite:
        raise WeitiaoError(
            say(
                f"{output} exists already. Take another folder, or pass --overwrite",
                f"{output} 已存在。请换一个目录，或加上 --overwrite",
            )
        )
    from weitiao.core.device import set_threads
    from weitiao.stages._ensembling import Ensembling

    set_threads(config.threads)
    yield from Ensembling(config).events()
