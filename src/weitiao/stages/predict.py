"""Predict texts, or a table of them / 预测若干文本，或一张文本表."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, ProgressEvent, ResultEvent
from weitiao.core.messages import say

EXAMPLES = (
    'weitiao predict runs/reviews "物流很快，包装也好" "The screen died after a week."',
    "weitiao predict runs/reviews --data new.csv --output answers.jsonl",
)


@dataclass
class Config:
    """What to predict with, and what."""

    run: str = option("", "the run's folder", "运行目录", positional=True)
    texts: list[str] = option([], "texts (for pairs, two by two; '-' reads lines from standard input)",
                              "文本（成对任务每两条一对；“-”表示从标准输入逐行读取）", positional=True)  # fmt: skip
    data: str = option("", "a table of texts instead", "改为读取一张文本表")
    columns: dict[str, str] = option({}, "columns by role: text=review", "各角色对应的列：text=评论")
    output: str = option(
        "",
        "file for the answers, JSON lines (default: standard output)",
        "结果文件，JSON Lines（默认标准输出）",
    )


def run(config: Config) -> Iterator[Event]:
    """Answers as JSON lines, in the order of the texts."""
    if not config.run or not (config.texts or config.data):
        raise WeitiaoError(
            say(
                'Name a run and a text: weitiao predict RUN "text"',
                '请指定运行目录和文本：weitiao predict 运行目录 "文本"',
            )
        )
    from weitiao.stages._predictor import Run

    trained = Run(config.run)
    if config.data:
        answers: list[Any] = []
        yield from _table(config, trained, answers)
    else:
        items = _items(config.texts, trained)
        answers = [_shown(item, answer) for item, answer in zip(items, trained.predict(items), strict=True)]
    if config.output:
        import json

        from weitiao.core.runs import atomic_file

        with atomic_file(config.output) as file:
            file.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    yield ResultEvent(config.output, {} if config.output else {"jsonl": answers})


def _items(texts: list[str], trained: Any) -> list[Any]:
    if texts == ["-"]:
        texts = [line.rstrip("\n") for line in sys.stdin]
    if trained.task.name != "text_matching":
        return texts
    if len(texts) % 2:
        raise WeitiaoError(say(f"{len(texts)} texts do not make pairs", f"{len(texts)} 条文本无法成对"))
    return list(zip(texts[::2], texts[1::2], strict=True))


def _shown(item: Any, answer: Any) -> dict[str, Any]:
    text = {"text": item} if isinstance(item, str) else {"texts": list(item)}
    return {**text, **answer} if isinstance(answer, dict) else {**text, "answers": answer}


def _table(config: Config, trained: Any, answers: list[Any]) -> Iterator[Event]:
    """Answers for a table's rows, part by part."""
    from weitiao.data.readers import read_table
    from weitiao.data.table import make_records

    task = trained.task
    table = read_table(config.data)
    wanted = [c for c in task.columns if c.role not in (task.label_key, "label")]
    records, _ = make_records(table, table.find(wanted, config.columns), task.example)
    size = 2000
    for start in range(0, len(records), size):
        yield ProgressEvent(say("predicting", "预测"), start, len(records))
        part = records.select(range(start, min(start + size, len(records))))
        encoded, outputs = trained.outputs(part)
        found = task.answers(outputs, encoded, part, trained.answers)
        for number, text, answer in zip(part["row_number"], map(task.shown, part), found, strict=True):
            answers.append({"row": number, **_shown(text, answer)})
    yield ProgressEvent(say("predicting", "预测"), len(records), len(records))
