"""Predict texts, or a table of them / 预测若干文本，或一张文本表."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent, ResultEvent
from weitiao.core.messages import say

EXAMPLES = (
    'weitiao predict runs/reviews "物流很快，包装也好" "The screen died after a week."',
    "weitiao predict deploy/reviews --data new.csv --output answers.jsonl",
    "weitiao predict runs/mnist digit.png scans/",
    "weitiao predict runs/emoji 红心 heart.png --among pictures/",
    'weitiao predict runs/reader digit.png --ask "Is this digit even?"',
)

FEW = 8  # texts for which a bundle is made ready sooner rather than faster


@dataclass
class Config:
    """What to predict with, and what."""

    run: str = option("", "the run's folder, or a bundle's", "运行目录或部署包目录", positional=True)
    texts: list[str] = option([], "texts; picture files and folders; pairs two by two; '-' reads standard input",
                              "文本；图片文件或文件夹；成对任务每两条一对；“-”表示从标准输入逐行读取", positional=True)  # fmt: skip
    data: str = option("", "a table of texts instead", "改为读取一张文本表")
    among: str = option(
        "",
        "where to look for pictures and phrases: a table or a folder of pictures (default: what it was trained on)",
        "在哪里查找图片与短语：表格或图片文件夹（默认：训练数据）",
    )
    ask: str = option(
        "", "a question about each picture, answered in words", "对每张图片提的问题，用文字回答"
    )
    together: bool = option(False, "ask it of all the pictures at once", "把所有图片放在一起提问")
    language_model: str = option(
        "SmolLM2-135M-Instruct",
        "what answers --ask where the run itself names pictures only",
        "运行本身只会给图片分类时，由哪个语言模型回答 --ask",
    )
    columns: dict[str, str] = option({}, "columns by role: text=review", "各角色对应的列：text=评论")
    output: str = option(
        "",
        "file for the answers, JSON lines (default: standard output)",
        "结果文件，JSON Lines（默认标准输出）",
    )
    engine: str = option("auto", "a bundle's engine: onnxruntime, openvino, or the faster one here",
                         "部署包使用的引擎：onnxruntime、openvino，或自动选用本机较快者")  # fmt: skip
    precision: str = option("auto", "a bundle's precision: fp32, or bf16 where the processor has it",
                            "部署包的计算精度：fp32，或处理器支持时用 bf16", choices=("auto", "fp32", "bf16"))  # fmt: skip
    threads: int = option(0, "threads for a bundle (0: one for each core)", "部署包使用的线程数（0：每核一个）",
                          least=0)  # fmt: skip


def run(config: Config) -> Iterator[Event]:
    """Answers as JSON lines, in the order of the texts."""
    if not config.run or not (config.texts or config.data):
        raise WeitiaoError(
            say(
                'Name a run or a bundle, and a text: weitiao predict RUN "text"',
                '请指定运行目录或部署包，以及文本：weitiao predict 目录 "文本"',
            )
        )
    model = opened(config)
    answers: list[Any] = []
    if config.data:
        yield from _table(config, model, answers)
    elif getattr(model.task, "searches", False):
        from weitiao.stages._searching import search

        answers += search(model, config.texts, config.among, config.columns)
    elif config.ask or getattr(model.task, "name", "") == "image_to_text":
        answers += _asked(config, model)
    else:
        items = _items(config.texts, model)
        yield from _converted(items, model)
        key = "image" if _reads_pictures(model) else "text"
        answers += [
            _shown(item, answer, key) for item, answer in zip(items, model.predict(items), strict=True)
        ]
    yield from _inverted(model)
    if config.output:
        import json

        from weitiao.core.runs import atomic_file

        with atomic_file(config.output) as file:
            file.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    yield ResultEvent(config.output, {} if config.output else {"jsonl": answers})


def _asked(config: Config, model: Any) -> list[dict[str, Any]]:
    from weitiao.stages._asking import ask

    if not _reads_pictures(model) or not config.ask:
        raise WeitiaoError(
            say(
                f'{config.run} answers questions about pictures: weitiao predict {config.run} digit.png --ask "..."'
                if _reads_pictures(model)
                else f"{config.run} reads no pictures, which --ask is about",
                f'{config.run} 回答有关图片的问题：weitiao predict {config.run} digit.png --ask "……"'
                if _reads_pictures(model)
                else f"{config.run} 不读取图片，无法使用 --ask",
            )
        )
    return ask(model, _items(config.texts, model), config.ask, config.together, config.language_model)


def opened(config: Any) -> Any:
    """What answers: a bundle's ``Predictor`` (which loads no torch), a bundle's language model, or a ``Run``."""
    from weitiao.runtime.bundle import is_bundle

    if is_bundle(config.run):
        from weitiao.runtime import load

        chosen = {"engine": config.engine, "precision": config.precision, "threads": config.threads}
        few = not config.data and len(config.texts) <= FEW
        model = load(config.run, **chosen, brief=few)
        return model if hasattr(model, "task") else _Writer(model)
    from weitiao.stages._ensemble import open_run

    return open_run(config.run)


class _Writer:
    """A language model as something that answers: each text is a prompt."""

    def __init__(self, decoder: Any) -> None:
        self.decoder, self.task = decoder, None

    def predict(self, prompts: list[str]) -> list[dict[str, str]]:
        return [{"generated": self.decoder.generate(prompt)} for prompt in prompts]


def _items(texts: list[str], model: Any) -> list[Any]:
    if texts == ["-"]:
        texts = [line.rstrip("\n") for line in sys.stdin]
    if _reads_pictures(model):
        return [file for name in texts for file in _files(Path(name))]
    if model.task is None or model.task.name != "text_matching":
        return texts
    if len(texts) % 2:
        raise WeitiaoError(say(f"{len(texts)} texts do not make pairs", f"{len(texts)} 条文本无法成对"))
    return list(zip(texts[::2], texts[1::2], strict=True))


def _reads_pictures(model: Any) -> bool:
    return model.task is not None and model.task.reads == "pictures"


def _files(path: Path) -> list[str]:
    """A picture, or the pictures right in a folder."""
    from weitiao.data.images import picture_files

    found = picture_files(path) if path.is_dir() else [path]
    if not found:
        raise WeitiaoError(say(f"{path} holds no pictures", f"{path} 中没有图片"))
    return [str(file) for file in found]


def _converted(items: list[Any], model: Any) -> Iterator[Event]:
    """Say which pictures had to be made fit for the model."""
    if _reads_pictures(model):
        from weitiao.runtime.items import columns_of, records_of

        for finding in model.task.findings(columns_of(records_of(model.task, items))):
            yield NoteEvent(finding.message, "warning")


def _inverted(model: Any) -> Iterator[Event]:
    """Say how many pictures were light where the training pictures are dark, or the other way round."""
    if _reads_pictures(model) and (reader := getattr(model, "tokenizer", None)) is not None:
        count = getattr(getattr(reader, "ground", reader), "inverted", 0)
        if count:
            yield NoteEvent(
                say(
                    f"{count:,} pictures have the ground that the training pictures have not (dark on light, light on "
                    "dark): inverted",
                    f"{count:,} 张图片的底色与训练图片相反（浅底深字或深底浅字）：已反相",
                ),
                "warning",
            )


def _shown(item: Any, answer: Any, key: str = "text") -> dict[str, Any]:
    text = {key: item} if isinstance(item, str) else {"texts": list(item)}
    return {**text, **answer} if isinstance(answer, dict) else {**text, "answers": answer}


def _table(config: Config, model: Any, answers: list[Any]) -> Iterator[Event]:
    """Answers for a table's rows, part by part."""
    from weitiao.runtime.tables import record_parts

    if model.task is None:
        raise WeitiaoError(
            say("A language model answers texts, not a table", "语言模型只接受文本，不接受数据表")
        )
    parts = list(record_parts(model.task, config.data, config.columns))
    total, done = sum(map(len, parts)), 0
    for part in parts:
        yield ProgressEvent(say("predicting", "预测"), done, total)
        done += len(part)
        for record, answer in zip(part, model.answer(part), strict=True):
            answers.append({"row": record["row_number"], **_shown(model.task.shown(record), answer)})
    yield ProgressEvent(say("predicting", "预测"), total, total)
