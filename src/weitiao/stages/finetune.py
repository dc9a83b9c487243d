"""Fine-tune a pretrained model on a table of texts / 在一张文本表上微调预训练模型."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from weitiao.core import catalogue
from weitiao.core.config import default, make_member, option, to_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event
from weitiao.core.messages import say
from weitiao.stages._recorded import recorded, refuse_taken, resumable
from weitiao.stages._resume import already_done, is_complete, stored

EXAMPLES = (
    "weitiao finetune --data reviews.csv --task text-classification --output runs/reviews",
    "weitiao finetune --data ner.conll --task token-classification --tuning lora --output runs/ner",
    "weitiao finetune --data reviews.csv --shots 8 --output runs/few",
    "weitiao finetune --output runs/reviews --resume",
)


@dataclass
class Config:
    """Every setting of a fine-tuning run. The members of the families chosen add their own."""

    data: str = option(
        "", "training table, or a folder with train/dev/test", "训练数据表，或含 train/dev/test 的目录"
    )
    task: str = option("text_classification", "what is to be learnt", "要学习的任务", family="tasks")
    model: str = option(
        "",
        "a known name, a folder or a hub id (default: the task's, multilingual-e5-small for texts)",
        "已知名称、目录或 hub 上的 id（默认由任务决定，文本任务为 multilingual-e5-small）",
    )
    tuning: str = option("full", "how the model is adapted", "微调方法", family="tuning")
    objective: str = option(
        "",
        "what training minimises (default: the task's): a loss, and what is added, cross_entropy+r_drop+0.5*fgm",
        "训练目标（默认由任务决定）：一个损失及附加项，如 cross_entropy+r_drop+0.5*fgm",
        family="objectives",
    )
    output: str = option("", "run folder (default: runs/<data>)", "运行目录（默认 runs/<数据名>）")
    test_data: str = option("", "test table (default: a part held out)", "测试数据表（默认从训练表中留出）")
    dev_data: str = option("", "table to choose the checkpoint by", "用于选择检查点的数据表")
    columns: dict[str, str] = option(
        {}, "columns by role: text=review,label=stars", "各角色对应的列：text=评论,label=星级"
    )
    skip_bad_rows: bool = option(
        False, "count and list bad rows instead of stopping", "跳过并列出坏行，而不是停止"
    )
    test_fraction: float = option(0.2, "share held out for testing", "留作测试的比例", least=0, most=0.9)
    dev_fraction: float | None = option(
        None,
        "share held out to choose the checkpoint by (default: the task's, 0.1 for most)",
        "留作选择检查点的比例（默认由任务决定，一般为 0.1）",
        least=0,
        most=0.9,
    )
    split_seed: int | None = option(
        None, "seed of what is held out (default: seed)", "留出数据的随机种子（默认同 seed）", least=0
    )
    shots: int = option(
        0,
        "train on so many texts of each class, drawn with the seed (0: all); chooses a few-shot method",
        "每类只用这么多条训练文本，按种子抽取（0：全部）；并据此选择小样本方法",
        least=0,
    )
    few_shot: str = option(
        "",
        "how to learn from few labels (default with --shots: auto)",
        "小样本学习方法（使用 --shots 时默认 auto）",
        family="few_shot",
    )
    unlabelled: str = option(
        "",
        "texts without labels to learn from too: a table, or 'rows' for those of --data whose label is empty",
        "同时学习的无标签文本：一张表，或写 rows 表示 --data 中标签为空的行",
    )
    unlabelled_threshold: float = option(
        0.95,
        "how sure a label for such a text must be, for the class that is learnt best",
        "为无标签文本打标签所需的置信度（以学得最好的类别计）",
        least=0,
        most=1,
    )
    unlabelled_limit: int = option(
        10_000, "most unlabelled texts that are read", "最多读取的无标签文本数", least=1
    )
    augment: str = option(
        "",
        "how training texts are rewritten, a,b,c; the rewritten ones are added (training rows only)",
        "训练文本的改写方法 a,b,c；改写后的文本加入训练（仅训练集）",
        family="augmentation",
    )
    augment_copies: int = option(
        1, "rewritten copies of each training text", "每条训练文本改写几份", least=1, most=20
    )
    augment_rate: float | None = option(
        None,
        "share of a text's words that are rewritten (default: the method's)",
        "一条文本中改写的比例（默认由方法决定）",
        least=0.01,
        most=1,
    )
    max_length: int | None = option(
        None,
        "tokens a text is cut to (default: the task's, 128 for most)",
        "文本截断的 token 数（默认由任务决定，一般为 128）",
        least=8,
        most=8192,
    )
    pooling: str = option(
        "auto",
        "how a text becomes one vector",
        "文本如何汇聚成一个向量",
        choices=("auto", "mean", "cls", "own"),
    )
    start: str = option(
        "random",
        "the head's start: random, or a linear probe",
        "分类头的起点：随机或线性探针",
        choices=("random", "probe"),
    )
    refit_head: bool = option(
        False,
        "fit the head anew on the trained features at the end",
        "训练结束后在得到的特征上重新拟合分类头",
    )
    neighbours: int = option(
        0,
        "mix the labels of so many nearest training texts into each answer, and show them as evidence",
        "把最近的若干条训练文本的标签混入每个答案，并作为依据给出",
        least=0,
        most=1000,
    )
    dropout: float | None = option(
        None, "dropout (default: the model's)", "dropout（默认用模型自己的）", least=0, most=0.9
    )
    learning_rate: float | None = option(
        None, "peak learning rate (default: the tuning's)", "最高学习率（默认由方法决定）", least=0
    )
    head_learning_rate: float | None = option(
        None, "the head's own peak rate", "分类头单独的最高学习率", least=0
    )
    layer_decay: float = option(
        1.0, "each lower layer's rate, times this", "每往下一层学习率乘以该值", least=0.1, most=1
    )
    num_epochs: int | None = option(
        None, "passes over the texts (default: the tuning's)", "训练轮数（默认由方法决定）", least=0
    )
    batch_size: int | None = option(
        None, "examples a step (default: 16; the task's)", "每步的样本数（默认 16，或由任务决定）", least=1
    )
    batch_tokens: int = option(
        0, "tokens a step, instead of batch_size", "每步的 token 数，代替 batch_size", least=0
    )
    micro_tokens: int = option(
        1536, "tokens that go through the model at once", "一次送入模型的 token 数", least=16
    )
    schedule: str = option(
        "linear", "how the rate falls", "学习率的下降方式", choices=("linear", "cosine", "constant")
    )
    warmup_ratio: float = option(
        0.1, "share of steps in which the rate rises", "学习率上升阶段的比例", least=0, most=1
    )
    weight_decay: float = option(0.01, "AdamW's weight decay", "AdamW 的权重衰减", least=0)
    optimizer: str = option(
        "adamw",
        "adafactor holds less than half of what adamw does; adamw-8bit a quarter, on a GPU",
        "adafactor 的占用不到 adamw 的一半；adamw-8bit 为四分之一，需 GPU",
        choices=("adamw", "adafactor", "adamw-8bit"),
    )
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", "梯度裁剪的范数", least=0)
    precision: str = option(
        "auto",
        "auto measures which is faster here",
        "auto 会实测本机哪种更快",
        choices=("auto", "bf16", "fp32"),
    )
    gradient_checkpointing: bool = option(False, "less memory, a third slower", "省内存，约慢三分之一")
    patience: int = option(
        0,
        "stop after this many epochs without a better score (0: never)",
        "连续多少轮没有提升就停止（0：不停）",
        least=0,
    )
    checkpoint_epochs: int = option(
        1,
        "save a checkpoint every so many epochs (0: at none)",
        "每隔多少轮保存一个检查点（0：不按轮保存）",
        least=0,
    )
    checkpoint_steps: int = option(
        0, "also save a checkpoint every so many steps", "每隔多少步另存一个检查点", least=0
    )
    average_checkpoints: int = option(
        1,
        "end with the mean of the last so many epochs' weights where that scores higher on the dev part",
        "若最后若干轮权重的平均在验证集上得分更高，则以其为结果",
        least=1,
    )
    processes: int = option(
        1,
        "processes that train together, each holding a part of the model and of the optimizer's state (FSDP)",
        "共同训练的进程数，各持有模型和优化器状态的一部分（FSDP）",
        least=1,
        most=64,
    )
    cpu_offload: bool = option(
        False,
        "keep weights and the optimizer's state in main memory, a layer at a time on the GPU (FSDP): slower",
        "权重和优化器状态放在内存中，逐层送到 GPU 计算（FSDP）：较慢",
    )
    trackers: list[str] = option(
        [], "tensorboard, wandb (offline unless WANDB_MODE says otherwise)", "tensorboard、wandb（默认离线）"
    )
    threads: int = option(0, "CPU threads (0: all)", "CPU 线程数（0：全部）", least=0)
    seed: int = option(42, "seed of everything random", "随机种子", least=0)
    resume: bool = option(False, "go on from the newest complete checkpoint", "从最新的完整检查点继续")
    overwrite: bool = option(False, "replace a run that is already there", "覆盖已有的运行目录")
    member_values: dict[str, Any] = field(default_factory=dict)


def run(config: Config, scored: tuple[str, ...] = ("dev", "test")) -> Iterator[Event]:
    """Fine-tune, evaluate, and leave a run folder. Ends in a ``ResultEvent``.

    Args:
        scored: the held-out parts that are scored at the end; a search keeps its test part for the last.

    Raises:
        WeitiaoError: anything the user can mend; nothing half-written is left.
    """
    if config.resume:
        config = stored(config)
        if is_complete(Path(config.output)):
            yield from already_done(Path(config.output))
            return
    config = checked(config)
    import datasets

    datasets.disable_progress_bars()  # ours are drawn from events
    from weitiao.stages._processes import with_others
    from weitiao.stages._training import Training

    folder = Path(config.output or Path("runs") / _stem(config.data))
    if os.environ.get("RANK", "0") == "0":  # of several processes, the one that writes
        refuse_taken(folder, config.resume, config.overwrite)
    training = Training(config, folder, scored)
    events = with_others(config, folder, training.events())
    own = (event for event in events if training.team.is_main)
    with resumable(lambda: training.opened, folder, "finetune"):
        yield from recorded(own, lambda: training.opened, folder, config.trackers, to_yaml(config))


def checked(config: Config) -> Config:
    """The config with what its task chooses where the user did not; nothing is read.

    Raises:
        WeitiaoError: it cannot work.
    """
    _check(config)
    return _filled(_few_shot(config))


def _check(config: Config) -> None:
    """Refuse what cannot work before anything is read."""
    if config.trackers:
        from weitiao.reporting.trackers import check_names

        check_names(config.trackers)
    if not config.data:
        raise WeitiaoError(say("No data: name a table with --data", "没有数据：请用 --data 指定数据表"))
    if config.augment:
        from weitiao.stages._augment import check

        check(config)
    if config.objective:
        from weitiao.objectives._composed import compose

        compose(config.objective, config.member_values)
    if config.tuning == "head" and not config.num_epochs and config.objective:
        raise WeitiaoError(
            say(
                "--tuning head is a regression and takes no --objective",
                "--tuning head 是回归拟合，不使用 --objective",
            )
        )


def _few_shot(config: Config) -> Config:
    """The config with what its few-shot method chooses where the user did not."""
    if not (config.shots or config.few_shot):
        return config
    name = catalogue.canonical(config.few_shot or "auto")
    method = make_member("few_shot", name, config.member_values)
    # So few texts are all needed to learn from.
    chosen = {"few_shot": name, "dev_fraction": 0.0, **method.settings()}
    if "tuning" in chosen and config.tuning not in (chosen["tuning"], "full"):
        raise WeitiaoError(
            say(
                f"--few-shot {name} is --tuning {chosen['tuning']}: leave out --tuning {config.tuning}",
                f"--few-shot {name} 即 --tuning {chosen['tuning']}：请去掉 --tuning {config.tuning}",
            )
        )
    unset = {f.name for f in fields(config) if getattr(config, f.name) == default(f)} | {"few_shot"}
    if config.tuning != "full":  # a rate for training everything is not theirs
        unset.discard("learning_rate")
    return replace(config, **{key: value for key, value in chosen.items() if key in unset})


def _filled(config: Config) -> Config:
    """The config with what its task chooses where the user did not.

    Raises:
        WeitiaoError: the task's models cannot be adapted in the way that was chosen.
    """
    task = make_member("tasks", config.task, config.member_values)
    if task.tunings and config.tuning not in task.tunings:
        able = ", ".join(task.tunings)
        raise WeitiaoError(
            say(
                f"--tuning {config.tuning} is for models of texts; {config.task} can be trained with: {able}",
                f"--tuning {config.tuning} 适用于文本模型；{config.task} 可用：{able}",
            )
        )
    make_member("tuning", config.tuning, config.member_values).check()
    if config.tuning == "head" and not config.num_epochs and getattr(task, "embeds_knowledge", False):
        raise WeitiaoError(
            say(
                "--tuning head trains nothing below the head, and so no embeddings: take --knowledge-as text, or "
                "another --tuning",
                "--tuning head 不训练分类头以下的部分，无法学习向量：请改用 --knowledge-as text，或换一种 --tuning",
            )
        )
    unset = {f.name for f in fields(config) if getattr(config, f.name) == default(f)}
    if config.few_shot == "auto":  # the method that is chosen may know better
        unset &= {"model", "max_length", "dev_fraction"}
    if config.tuning != "full":  # the method's own are better than those for training everything
        unset -= {"num_epochs", "learning_rate"}
    return replace(config, **{name: value for name, value in task.defaults().items() if name in unset})


def _stem(data: str) -> str:
    return Path(data).name.split(".")[0] or "run"
