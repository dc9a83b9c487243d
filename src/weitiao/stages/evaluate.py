"""Score a trained model on a table / 在一张表上评估已训练的模型."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import write_json

EXAMPLES = ("weitiao evaluate runs/reviews --data test.csv",)


@dataclass
class Config:
    """What to score, and on what."""

    run: str = option("", "the run's folder, or a bundle's", "运行目录或部署包目录", positional=True)
    data: str = option("", "table with texts and their true labels", "含文本与真实标签的数据表")
    columns: dict[str, str] = option(
        {}, "columns by role: text=review,label=stars", "各角色对应的列：text=评论,label=星级"
    )
    skip_bad_rows: bool = option(
        False, "count and list bad rows instead of stopping", "跳过并列出坏行，而不是停止"
    )
    output: str = option(
        "",
        "folder for metrics.json and errors.csv (default: <run>/evaluation/<data>; beside a bundle)",
        "metrics.json 与 errors.csv 的目录（默认 <运行目录>/evaluation/<数据名>；部署包则在其旁边）",
    )
    seed: int = option(42, "seed of the intervals' resampling", "置信区间重采样的种子", least=0)


def run(config: Config) -> Iterator[Event]:
    """Predict every row, score, and write ``metrics.json`` and ``errors.csv``."""
    if not config.run or not config.data:
        raise WeitiaoError(
            say(
                "Name a run and a table: weitiao evaluate RUN --data test.csv",
                "请指定运行目录和数据表：weitiao evaluate 运行目录 --data test.csv",
            )
        )
    from weitiao.core.catalogue import member
    from weitiao.data.encode import Encoded
    from weitiao.data.quality import check_labels
    from weitiao.data.splits import column
    from weitiao.evaluation.base import write_errors
    from weitiao.stages._predictor import outputs_in_parts
    from weitiao.stages._prepare import read

    trained = _opened(config.run)
    task, answers = trained.task, trained.answers
    records, table, bad = read(task, config.data, config.columns, config.skip_bad_rows)
    if bad:
        yield NoteEvent(say(f"{len(bad)} bad rows skipped", f"跳过 {len(bad)} 个坏行"), "warning")
    if task.labelled and answers.kind != "values":
        names = (
            [{"label": n[2:]} for n in answers.names if n != "O"]
            if task.name == "token_classification"
            else answers.names
        )
        check_labels(
            [[n] for n in names] if names and isinstance(names[0], dict) else [*names],
            column(records, task.label_key),
        )
    parts: list[Any] = []
    for item in outputs_in_parts(trained, records):
        if isinstance(item, Event):
            yield item
        else:
            parts.append(item)
    evaluation = member("evaluation", task.evaluation(answers))()
    encoded = Encoded.joined([encoded for encoded, _ in parts])
    outputs = [output for _, found in parts for output in found]
    predictions = task.predictions(outputs, encoded, records, answers)
    majority = _majority(trained)
    report = evaluation.report(predictions, train_majority=majority, seed=config.seed)
    folder = (
        Path(config.output)
        if config.output
        else beside(trained.folder) / Path(config.data).name.split(".")[0]
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "metrics.json",
        {"data": {"name": Path(table.name).name, "sha256": table.sha256, "rows": len(records)}, **report},
    )
    write_errors(folder / "errors.csv", evaluation.worst_errors(predictions))
    yield NoteEvent(evaluation.report_text(report))
    yield ResultEvent(str(folder), {"scores": report["scores"]})


def beside(folder: Path) -> Path:
    """Where evaluations go: into a run, but not into a bundle, which holds nothing but what it was sealed with."""
    from weitiao.runtime.bundle import is_bundle

    return folder.with_name(f"{folder.name}-evaluation") if is_bundle(folder) else folder / "evaluation"


def _opened(folder: str) -> Any:
    from weitiao.runtime.bundle import is_bundle

    if not is_bundle(folder):
        from weitiao.stages._ensemble import open_run

        return open_run(folder)
    from weitiao.runtime import load
    from weitiao.runtime.predictor import Predictor

    predictor = load(folder)
    if not isinstance(predictor, Predictor):
        raise WeitiaoError(
            say(
                f"{folder} is a language model: it has no task to score",
                f"{folder} 是语言模型，没有可评分的任务",
            )
        )
    return _Scored(predictor)


class _Scored:
    """A bundle with the parts of a run that scoring reads."""

    def __init__(self, predictor: Any) -> None:
        self.predictor, self.folder = predictor, predictor.bundle.folder
        self.task, self.answers = predictor.task, predictor.answers

    def outputs(self, records: Any) -> tuple[Any, list[Any]]:
        tokenizer, longest = self.predictor.tokenizer, self.predictor.bundle.manifest["max_length"]
        encoded = self.task.encode(records, tokenizer, longest, self.answers)
        return encoded, self.predictor.run(encoded)


def _majority(trained: Any) -> Any:
    """The training majority, as the run's own report has it."""
    if not (trained.folder / "metrics.json").exists():
        return None
    reports = trained.metrics.get("evaluation", {})
    answer = next((r["baseline"].get("answer") for r in reports.values()), None)
    return answer if trained.task.name != "token_classification" else None
