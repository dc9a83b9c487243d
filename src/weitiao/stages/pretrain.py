"""Train a language model on a corpus of plain texts / 在纯文本语料上预训练语言模型."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weitiao.core.config import option, to_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event
from weitiao.core.messages import say
from weitiao.stages._recorded import recorded, refuse_taken, resumable
from weitiao.stages._resume import already_done, is_complete, stored

EXAMPLES = (
    "weitiao pretrain --objective masked-lm --data corpus/ --model multilingual-e5-small --output runs/domain",
    "weitiao pretrain --objective causal-lm --data corpus/ --model small --tokenizer-size 8000 --output runs/lm",
    "weitiao finetune --data reviews.csv --model runs/domain --output runs/reviews",
)
SIZES = ("tiny", "small", "base")


@dataclass
class Config:
    """Every setting of a pretraining run. The objectives chosen add their own."""

    data: str = option(
        "",
        "a folder of .txt, .md and .jsonl files (also .gz), or one such file",
        "含 .txt、.md、.jsonl（可为 .gz）的目录，或单个文件",
    )
    objective: str = option(
        "masked_lm",
        "what is predicted: masked_lm, causal_lm, masked_lm+next_sentence ...",
        "预测什么：masked_lm、causal_lm、masked_lm+next_sentence 等",
        family="pretraining",
    )
    model: str = option(
        "multilingual-e5-small",
        "go on from a known name, folder or hub id; or from scratch: tiny, small, base",
        "从已知名称、目录或 hub id 继续训练；或从零开始：tiny、small、base",
    )
    output: str = option("", "run folder (default: runs/<data>)", "运行目录（默认 runs/<数据名>）")
    fields: list[str] = option(
        [],
        "fields of a .jsonl that hold text (default: text, content)",
        ".jsonl 中存放文本的字段（默认 text、content）",
    )
    tokenizer: str = option(
        "", "from scratch: how the tokenizer is learnt (default: bpe, for encoders wordpiece)",
        "从零开始时分词器的算法（默认 bpe，编码器用 wordpiece）", choices=("", "bpe", "unigram", "wordpiece"),
    )  # fmt: skip
    tokenizer_size: int = option(
        8000, "pieces of a learnt tokenizer", "新训练分词器的词表大小", least=64, most=500_000
    )
    context: int = option(128, "tokens a block holds", "每个文本块的 token 数", least=16, most=8192)
    held_out: float = option(0.02, "share of the corpus held out", "留出的语料比例", least=0.001, most=0.5)
    num_epochs: int | None = option(
        None,
        "passes over the corpus (default: one; up to ten of a corpus that is soon at its end)",
        "训练轮数（默认一轮；语料很小时最多十轮）",
        least=1,
    )
    max_steps: int = option(
        0, "stop after so many steps (0: by epochs)", "最多训练步数（0：按轮数）", least=0
    )
    head_steps: int | None = option(
        None, "steps that train a new head alone, first (default: a tenth, at most 200)",
        "先只训练新预测头的步数（默认十分之一，最多 200）", least=0,
    )  # fmt: skip
    keep: float | None = option(
        None,
        "going on: the share of old weights that is mixed in at the end (default: encoders 0.5, decoders 0)",
        "继续训练时，结束前混入的旧权重比例（默认编码器 0.5，解码器 0）",
        least=0,
        most=1,
    )
    learning_rate: float | None = option(
        None,
        "peak learning rate (default: by size; 5e-5 to go on)",
        "最高学习率（默认依规模；继续训练为 5e-5）",
        least=0,
    )
    head_learning_rate: float | None = option(
        None, "a new head's peak rate (default 1e-3)", "新预测头的最高学习率（默认 1e-3）", least=0
    )
    batch_tokens: int = option(4096, "tokens a step", "每步的 token 数", least=16)
    micro_tokens: int = option(
        4096, "tokens that go through the model at once", "一次送入模型的 token 数", least=16
    )
    dropout: float | None = option(
        None,
        "dropout (default: the model's; 0.1 from scratch)",
        "dropout（默认用模型自己的；从零开始 0.1）",
        least=0,
        most=0.9,
    )
    schedule: str = option(
        "cosine", "how the rate falls", "学习率的下降方式", choices=("linear", "cosine", "constant")
    )
    warmup_ratio: float = option(
        0.05, "share of steps in which the rate rises", "学习率上升阶段的比例", least=0, most=1
    )
    optimizer: str = option(
        "",
        "adamw, or muon, which learns more of the same tokens from scratch (default: muon from scratch)",
        "adamw 或 muon；从零训练时 muon 用同样的 token 学得更多（默认：从零用 muon）",
        choices=("", "adamw", "muon"),
    )
    weight_decay: float = option(0.05, "weight decay", "权重衰减", least=0)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", "梯度裁剪的范数", least=0)
    precision: str = option(
        "auto",
        "auto measures which is faster here",
        "auto 会实测本机哪种更快",
        choices=("auto", "bf16", "fp32"),
    )
    gradient_checkpointing: bool = option(False, "less memory, a third slower", "省内存，约慢三分之一")
    evaluate_steps: int = option(
        0,
        "score the held-out part every so many steps (0: twelve times)",
        "每隔多少步在留出部分上评估（0：共十二次）",
        least=0,
    )
    ngram_order: int = option(
        5,
        "a causal model is set beside an n-gram of this order over the same tokens (0: none)",
        "因果模型与同样词元上的 n 元模型对比，此为其阶数（0：不对比）",
        least=0,
        most=8,
    )
    checkpoint_steps: int = option(
        0, "also save a checkpoint every so many steps", "每隔多少步另存一个检查点", least=0
    )
    trackers: list[str] = option(
        [], "tensorboard, wandb (offline unless WANDB_MODE says otherwise)", "tensorboard、wandb（默认离线）"
    )
    threads: int = option(0, "CPU threads (0: all)", "CPU 线程数（0：全部）", least=0)
    seed: int = option(42, "seed of everything random", "随机种子", least=0)
    resume: bool = option(False, "go on from the newest complete checkpoint", "从最新的完整检查点继续")
    overwrite: bool = option(False, "replace a run that is already there", "覆盖已有的运行目录")
    member_values: dict[str, Any] = field(default_factory=dict)


def run(config: Config) -> Iterator[Event]:
    """Pretrain, score, and leave a run folder. Ends in a ``ResultEvent``.

    Raises:
        WeitiaoError: anything the user can mend; nothing half-written is left.
    """
    if config.resume:
        config = stored(config)
        if is_complete(Path(config.output)):
            yield from already_done(Path(config.output))
            return
    if not config.data:
        raise WeitiaoError(
            say("No data: name a folder of texts with --data", "没有数据：请用 --data 指定文本目录")
        )
    if config.keep and config.model in SIZES:
        raise WeitiaoError(
            say(
                f"--keep {config.keep:g} mixes in old weights; --model {config.model} begins with none: leave it out",
                f"--keep {config.keep:g} 用于混入旧权重，而 --model {config.model} 从零开始，没有旧权重：请去掉该选项",
            )
        )
    if config.trackers:
        from weitiao.reporting.trackers import check_names

        check_names(config.trackers)
    folder = Path(config.output or Path("runs") / (Path(config.data).name.split(".")[0] or "run"))
    refuse_taken(folder, config.resume, config.overwrite)
    from weitiao.stages._pretraining import Training

    work = Training(config, folder)
    with resumable(lambda: work.opened, folder, "pretrain"):
        yield from recorded(work.events(), lambda: work.opened, folder, config.trackers, to_yaml(config))
