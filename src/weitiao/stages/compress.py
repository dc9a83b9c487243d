"""Make a trained model small and fast, each step's cost measured / 压缩已训练的模型，并实测每一步的代价."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event
from weitiao.core.messages import say

EXAMPLES = (
    "weitiao compress runs/reviews --steps vocabulary,int8 --output deploy/reviews-small",
    'weitiao compress runs/reviews --target "4x faster, at most 0.5 points lost" --output deploy/reviews-small',
    "weitiao compress runs/reviews --recipe deploy/reviews-small --output deploy/reviews-again",
)


@dataclass
class Config:
    """What to compress, how, and what to measure on. The steps chosen add their own settings."""

    run: str = option("", "the run's folder", "运行目录", positional=True)
    steps: str = option("", "steps in order, a,b,c", "依次执行的步骤，a,b,c", family="compression")
    target: str = option(
        "",
        'what to reach instead: "4x faster, 10x smaller, at most 0.5 points lost"',
        "改为给出目标：“快 4 倍，小 10 倍，最多损失 0.5 个点”",
    )
    recipe: str = option("", "a bundle whose steps to take again", "重做某个部署包的步骤")
    output: str = option("", "the bundle's folder", "部署包目录")
    data: str = option(
        "",
        "labelled table to measure on (default: the run's test part)",
        "用于测量的有标注数据表（默认用该运行的测试集）",
    )
    calibration: str = option(
        "",
        "labelled table to calibrate and train on (default: the run's training part)",
        "用于校准与训练的有标注数据表（默认用该运行的训练集）",
    )
    corpus: list[str] = option(
        [],
        "unlabelled texts: files of lines, or tables with a text column",
        "无标注文本：逐行文本文件，或含文本列的数据表",
    )
    columns: dict[str, str] = option(
        {}, "columns by role: text=review,label=stars", "各角色对应的列：text=评论,label=星级"
    )
    measure_rows: int = option(2000, "rows measured on at most", "最多用于测量的行数", least=1)
    keep_trainable: bool = option(
        False,
        "also keep the model before the steps on the graph, in OUTPUT-trainable, to train on",
        "同时在 OUTPUT-trainable 中保留图步骤之前的模型，可继续训练",
    )
    engine: str = option(
        "auto",
        "the engine to measure with",
        "测量所用的推理引擎",
        choices=("auto", "onnxruntime", "openvino"),
    )
    threads: int = option(0, "CPU threads (0: all)", "CPU 线程数（0：全部）", least=0)
    service: bool = option(True, "prove the HTTP service too, where it is installed",
                           "已安装 HTTP 服务时一并验证")  # fmt: skip
    overwrite: bool = option(False, "replace a bundle that is there", "覆盖已有的部署包")
    seed: int = option(42, "seed of everything random", "随机种子", least=0)
    member_values: dict[str, Any] = field(default_factory=dict)


def run(config: Config) -> Iterator[Event]:
    """Compress, measure each step, and write the bundle. Ends in a ``ResultEvent`` with the points measured.

    Raises:
        WeitiaoError: anything the user can mend; a target out of reach leaves the picture alone.
    """
    _check(config)
    from weitiao.stages._compress import Compressing

    yield from Compressing(config).events()


def _check(config: Config) -> None:
    """Refuse what cannot work before anything is read."""
    if not config.run or not config.output:
        raise WeitiaoError(
            say(
                "Name a run and a folder: weitiao compress RUN --steps int8 --output FOLDER",
                "请指定运行目录和输出目录：weitiao compress 运行目录 --steps int8 --output 目录",
            )
        )
    ways = [name for name in ("steps", "target", "recipe") if getattr(config, name)]
    if len(ways) != 1:
        raise WeitiaoError(
            say(
                "Give one of --steps, --target and --recipe",
                "--steps、--target、--recipe 三者须且只能给出一个",
            )
        )
    steps = config.steps.split("+") if config.steps else []
    if twice := next((step for step in steps if steps.count(step) > 1), ""):
        raise WeitiaoError(say(f"--steps names {twice} twice", f"--steps 中 {twice} 出现了两次"))
    for folder in (config.output, f"{config.output}-trainable" if config.keep_trainable else ""):
        if folder and Path(folder).exists() and not config.overwrite:
            raise WeitiaoError(
                say(
                    f"{folder} exists already. Take another folder, or pass --overwrite",
                    f"{folder} 已存在。请换一个目录，或加上 --overwrite",
                )
            )
