"""What ``generate`` and ``chat`` have in common: which model is asked, and how its tokens are chosen."""

from dataclasses import dataclass
from typing import Any

from weitiao.core.config import option


@dataclass
class Asking:
    """The settings; a stage adds its own."""

    run: str = option(
        "",
        "a run's folder, a bundle's, or a language model's name",
        "运行目录、部署包目录或语言模型名称",
        positional=True,
    )
    system: str = option("", "the system's message before the prompt or dialogue", "提示或对话之前的系统消息")
    max_new_tokens: int = option(256, "tokens written at most", "最多生成的词元数", least=1)
    temperature: float = option(
        0.0, "0 takes the likeliest token always", "温度；0 表示总取概率最高的词元", least=0
    )
    top_k: int = option(
        0, "only the k likeliest tokens (0: all)", "只保留概率最高的 k 个词元（0：全部）", least=0
    )
    top_p: float = option(
        1.0,
        "only the likeliest that together reach this probability",
        "只保留累计概率达到该值的词元",
        least=0,
        most=1,
    )
    min_p: float = option(
        0.0,
        "only those this fraction as likely as the likeliest",
        "只保留概率不低于最高概率该比例的词元",
        least=0,
        most=1,
    )
    repetition_penalty: float = option(
        1.0, "above 1: what occurred becomes less likely", "大于 1 时，已出现的词元概率降低", least=0.01
    )
    stop: list[str] = option([], "texts that end an answer, a,b,c", "使回答结束的文本 a,b,c")
    seed: int | None = option(
        None, "the same seed gives the same answers", "相同的种子得到相同的回答", least=0
    )
    threads: int = option(0, "CPU threads (0: all)", "CPU 线程数（0：全部）", least=0)

    def sampling(self) -> Any:
        """How tokens are chosen, a ``generation.sampling.Sampling``.

        Raises:
            WeitiaoError: a setting is out of its range.
        """
        from weitiao.generation.sampling import Sampling

        names = (
            "max_new_tokens",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "stop",
            "seed",
        )
        return Sampling(**{name: getattr(self, name) for name in names})
