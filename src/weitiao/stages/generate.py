"""Write text with a language model: continue, answer, fill in a form / 用语言模型生成文本：续写、回答、按格式填写."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent, ResultEvent, TextEvent
from weitiao.core.messages import say
from weitiao.stages._sampled import Asking

EXAMPLES = (
    'weitiao generate runs/chat "用一句话介绍机器学习"',
    'weitiao generate SmolLM2-135M-Instruct "Name three cities." --temperature 0.7 --top-p 0.9 --seed 1',
    'weitiao generate deploy/chat "Is water wet?" --choices yes,no',
    "weitiao generate runs/chat - --schema form.json --output answers.jsonl < questions.txt",
)


@dataclass
class Config(Asking):
    """What to ask, and how the answer is chosen."""

    prompts: list[str] = option(
        [], "texts to answer or continue; '-' reads standard input, a line each", "要回答或续写的文本；“-”从标准输入逐行读取",
        positional=True,
    )  # fmt: skip
    raw: bool = option(
        False, "continue the text as it is, without the chat template", "不用对话模板，直接续写文本"
    )
    beams: int = option(
        1, "texts followed at once, of which the likeliest is kept", "束搜索的束数", least=1, most=64
    )
    choices: list[str] = option([], "the answer is one of these, a,b,c", "回答必须是其中之一 a,b,c")
    regex: str = option("", "the answer matches this regular expression", "回答须匹配该正则表达式")
    schema: str = option(
        "",
        "the answer is JSON of this schema: a file, or the schema itself",
        "回答须为符合该 JSON schema 的 JSON：文件或 schema 本身",
    )
    output: str = option(
        "",
        "file for the answers, JSON lines (default: standard output)",
        "结果文件，JSON Lines（默认标准输出）",
    )


def run(config: Config) -> Iterator[Event]:
    """Answer; one prompt as it is written, several as JSON lines."""
    if not config.run or not config.prompts:
        raise WeitiaoError(
            say(
                'Name a model and a text: weitiao generate RUN "text"',
                '请指定模型与文本：weitiao generate 目录 "文本"',
            )
        )
    from weitiao.stages._talker import open_talker

    sampling = config.sampling()
    prompts = _lines() if config.prompts == ["-"] else config.prompts
    talker = open_talker(config.run, config.threads)
    pattern = talker.constraint(config.choices, config.regex, _schema(config.schema))
    encoded = [talker.encoded(prompt, config.system, config.raw) for prompt in prompts]
    if len(prompts) == 1 and not config.output and config.beams == 1:
        found = []
        for piece in talker.pieces(encoded[0], sampling, pattern):
            found.append(piece)
            yield TextEvent(piece)
        yield TextEvent("", last=True)
        yield ResultEvent("", {"generated_text": "".join(found)})
        return
    answers: list[dict[str, Any]] = []
    for prompt, written in zip(prompts, talker.texts(encoded, sampling, pattern, config.beams), strict=True):
        yield ProgressEvent(say("writing", "生成"), len(answers), len(prompts))
        answers.append({"prompt": prompt, "generated_text": written.text, "finish_reason": written.reason})
    yield ProgressEvent(say("writing", "生成"), len(prompts), len(prompts))
    if config.output:
        from weitiao.core.runs import atomic_file

        with atomic_file(config.output) as file:
            file.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
        yield NoteEvent(
            say(f"{len(answers)} answers: {config.output}", f"{len(answers)} 条回答：{config.output}")
        )
    yield ResultEvent(config.output, {} if config.output else {"jsonl": answers})


def _lines() -> list[str]:
    found = [line.rstrip("\n") for line in sys.stdin]
    if not any(line.strip() for line in found):
        raise WeitiaoError(say("Standard input holds no text", "标准输入中没有文本"))
    return [line for line in found if line.strip()]


def _schema(text: str) -> str:
    """A schema, or what is in its file."""
    if not text or text.lstrip().startswith("{"):
        return text
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise WeitiaoError(
            say(f"Cannot read the schema {text}: {error}", f"无法读取 schema {text}：{error}")
        ) from None
