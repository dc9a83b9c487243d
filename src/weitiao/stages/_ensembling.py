"""From several runs to one: their held-out rows, the ways to join them, scores of the members and of the whole."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from weitiao.core import catalogue
from weitiao.core.config import build, read_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_folder, read_json, write_json
from weitiao.evaluation.base import write_errors
from weitiao.models.backbone import TextModel
from weitiao.models.saving import DESCRIPTION, save_weights, transformers_class
from weitiao.reporting.card import write_card
from weitiao.reporting.page import write_report
from weitiao.reporting.text import number
from weitiao.stages import finetune
from weitiao.stages._ensemble import FILE, Ensemble, described
from weitiao.stages._predictor import Run
from weitiao.stages._prepare import Prepared, prepare, read
from weitiao.stages._save import PROBLEMS, TOKENIZER_FILES
from weitiao.training.outputs import outputs_of

# Settings that say which rows are held out.
ROWS = ("test_fraction", "dev_fraction", "test_data", "dev_data", "columns", "skip_bad_rows")


class Ensembling:
    """One call of ``weitiao ensemble``."""

    def __init__(self, config: Any) -> None:
        self.config, self.output = config, Path(config.output)
        self.whole = Ensemble(config.runs[0], [Run(folder) for folder in config.runs])
        self.runs, self.task, self.answers = self.whole.runs, self.whole.task, self.whole.answers
        self.evaluation = catalogue.member("evaluation", self.task.evaluation(self.answers))()
        self.monitor = self.evaluation.monitor

    def events(self) -> Iterator[Event]:
        """Read the rows, score the members, join them, score the whole."""
        yield from self._read()
        parts = list(self.parts)
        chosen_by = "dev" if "dev" in self.parts else parts[0]
        found: dict[str, list[list[Any]]] = {part: [] for part in parts}  # each member's outputs of each part
        for place, run in enumerate(self.runs):
            yield ProgressEvent(say("scoring the runs", "评估各次运行"), place, len(self.runs))
            for part in parts:
                self.encoded[part], outputs = run.outputs(self.parts[part])
                found[part].append(outputs)
            run.let_go()  # one model in memory at a time
        yield ProgressEvent(say("scoring the runs", "评估各次运行"), len(self.runs), len(self.runs))
        scores = [self.score(outputs, chosen_by) for outputs in found[chosen_by]]
        order = sorted(range(len(self.runs)), key=lambda place: (-scores[place], place))
        facts: dict[str, Any] = {"member_scores": scores, "chosen_by": chosen_by}
        if self.config.way == "average":
            joined = {part: self.whole.mean(found[part]) for part in parts}
            model = None
        else:
            if self.config.way == "distil":
                model = yield from self._distilled(order[0])
            else:
                model, used = self._soup(order, scores[order[0]], chosen_by)
                facts["used"] = used
            joined = {part: outputs_of(model, self._encode(part)) for part in parts}
        yield from self._write(model, joined, order, facts)

    # --- the rows

    def _read(self) -> Iterator[Event]:
        """The held-out rows, which no run may have been trained on."""
        self.parts: dict[str, Any] = {}
        self.encoded: dict[str, Any] = {}
        self.train: Any = None
        self.sources: dict[str, Any] = {}
        if self.config.data:
            records, table, _ = read(self.task, self.config.data, self.config.columns, False)
            self.parts = {"test": records}
            self.sources = {
                "test": {"name": Path(table.name).name, "sha256": table.sha256, "rows": len(records)}
            }
            return
        settings = [self._settings(run) for run in self.runs]
        for run, other in zip(self.runs[1:], settings[1:], strict=True):
            if _rows(self.runs[0], settings[0]) != _rows(run, other):
                raise WeitiaoError(
                    say(
                        f"{run.folder} and {self.runs[0].folder} held out other rows, so one was trained on what the "
                        "other is scored on: give a labelled table with --data",
                        f"{run.folder} 与 {self.runs[0].folder} 留出的数据不同，一方的评分数据可能被另一方用于训练："
                        "请用 --data 指定一张有标注的表",
                    )
                )
        for item in prepare(self.task, settings[0]):
            if isinstance(item, Prepared):
                self.train, self.sources = item.records["train"], item.sources
                self.parts = {part: item.records[part] for part in ("dev", "test") if part in item.records}
        if not self.parts:
            raise WeitiaoError(
                say("The runs held out no rows: give a labelled table with --data",
                    "这些运行没有留出数据：请用 --data 指定一张有标注的表")
            )  # fmt: skip
        yield NoteEvent(
            say(f"Scored on {', '.join(f'{len(v):,} {k} rows' for k, v in self.parts.items())}",
                f"评分数据：{'，'.join(f'{k} {len(v):,} 行' for k, v in self.parts.items())}")
        )  # fmt: skip

    def _settings(self, run: Run) -> finetune.Config:
        path = run.folder / "config.yaml"
        if not path.exists():
            raise WeitiaoError(
                say(
                    f"{run.folder} has no config.yaml, so what it held out is not known: give a table with --data",
                    f"{run.folder} 没有 config.yaml，无法得知其留出的数据：请用 --data 指定数据表",
                )
            )
        return build(finetune.Config, read_yaml(path))

    def _encode(self, part: str) -> Any:
        """A part as the joined model reads it."""
        run = self.runs[0]
        return self.task.encode(self.parts[part], run.tokenizer, run.description["max_length"], self.answers)

    def score(self, outputs: list[Any], part: str) -> float:
        """The monitored score of some outputs of a part."""
        predictions = self.task.predictions(outputs, self.encoded[part], self.parts[part], self.answers)
        return float(self.evaluation.scores(predictions).get(self.monitor, 0.0))

    # --- one model

    def _soup(self, order: list[int], best: float, part: str) -> tuple[TextModel, list[str]]:
        """The mean of weights: of all runs, or of those that do not lower the score, best first."""
        from weitiao.stages._soup import Soup, merged

        soup = Soup(merged(self.runs[order[0]]))
        encoded, used = self._encode(part), [str(self.runs[order[0]].folder)]
        for place in order[1:]:
            run = self.runs[place]
            soup.add(merged(run), run.folder)
            score = self.score(outputs_of(soup.model, encoded), part)
            if self.config.way == "soup" and score < best:
                soup.take_back()
                continue
            best = score
            used.append(str(run.folder))
        return soup.model, used

    def _distilled(self, best: int) -> Any:
        from weitiao.stages._soup import distil

        if self.train is None:
            raise WeitiaoError(
                say("--way distil learns from the runs' own training texts: leave --data out",
                    "--way distil 使用各运行自己的训练文本：请去掉 --data")
            )  # fmt: skip
        return (yield from distil(self.whole, self.runs[best], self.train, self.config))

    # --- the result

    def _write(
        self, model: TextModel | None, outputs: dict[str, list[Any]], order: list[int], facts: dict[str, Any]
    ) -> Iterator[Event]:
        best = self.runs[order[0]]
        majority = None if self.train is None else self.task.majority(self.train, self.answers)
        reports, errors = {}, []
        for part, found in outputs.items():
            predictions = self.task.predictions(found, self.encoded[part], self.parts[part], self.answers)
            reports[part] = self.evaluation.report(
                predictions, train_majority=majority, seed=self.config.seed
            )
            errors = self.evaluation.worst_errors(predictions)
        with atomic_folder(self.output) as new:
            description = described(
                self.output.resolve(), self.config.way, [run.folder.resolve() for run in self.runs], **facts
            )
            write_json(new / FILE, description)
            if model is not None:
                save_model(new / "model", model, best)
                if (best.folder / "config.yaml").exists():  # says which rows are held out
                    shutil.copy(best.folder / "config.yaml", new / "config.yaml")
            write_json(new / "metrics.json", self._metrics(best, reports, model))
            write_errors(new / "errors.csv", errors)
        write_card(self.output)
        write_report(self.output)
        yield NoteEvent(self._table(facts, reports))
        yield NoteEvent(say(f"Folder: {self.output}", f"目录：{self.output}"))
        scores = {part: report["scores"] for part, report in reports.items()}
        yield ResultEvent(str(self.output), {"monitor": self.monitor, "scores": scores, **facts})

    def _metrics(self, best: Run, reports: dict[str, Any], model: TextModel | None) -> dict[str, Any]:
        """The best member's figures, with what is other of the whole."""
        kept = read_json(best.folder / "metrics.json") if (best.folder / "metrics.json").exists() else {}
        folder = self.output / "model" if model is not None else None
        models = [run.model_folder for run in self.runs] if folder is None else [folder]
        described_as = kept.get("model", {"name": best.description["base"]["name"]})
        way = say(
            f"{self.config.way} of {len(self.runs)} runs", f"{len(self.runs)} 次运行的 {self.config.way}"
        )
        size = sum(path.stat().st_size for each in models for path in each.glob("*.safetensors"))
        told = {**described_as, "tuning": way, "weights_bytes": size, "opens_in_transformers": ""}
        return {
            "task": self.task.name,
            "model": told,
            "data": self.sources,
            "data_findings": kept.get("data_findings", []),
            "evaluation": reports,
            "monitor": self.monitor,
            "environment": kept.get("environment", {"torch": torch.__version__}),
            "seed": self.config.seed,
        }

    def _table(self, facts: dict[str, Any], reports: dict[str, Any]) -> str:
        """The members' scores and that of the whole, a line each."""
        part = facts["chosen_by"]
        lines = [
            f"  {number(self.monitor, score):>7}  {run.folder}"
            for run, score in zip(self.runs, facts["member_scores"], strict=True)
        ]
        whole = number(self.monitor, reports[part]["scores"][self.monitor])
        title = say(f"{self.monitor} on the {part} part:", f"{part} 部分的 {self.monitor}：")
        return "\n".join([title, *lines, f"  {whole:>7}  {say('together', '合成后')} ({self.config.way})"])


def save_model(folder: Path, model: TextModel, best: Run) -> None:
    """Write a joined model as that of a run that trained everything."""
    folder.mkdir()
    described_as = best.description
    answers = described_as["answers"]
    save_weights(folder, model, answers["names"], PROBLEMS[answers["kind"]])
    for name in TOKENIZER_FILES:
        if (best.model_folder / name).exists():
            shutil.copy(best.model_folder / name, folder / name)
    description = {**described_as, "tuning": "full", "tuning_options": {}}
    write_json(folder / DESCRIPTION, {**description, "transformers_class": transformers_class(model)})


def _rows(run: Run, settings: finetune.Config) -> tuple[Any, ...]:
    """What decides which rows a run held out."""
    data = {name: source["sha256"] for name, source in run.metrics["data"].items()}
    seed = settings.seed if settings.split_seed is None else settings.split_seed
    return data, seed, [getattr(settings, name) for name in ROWS]
