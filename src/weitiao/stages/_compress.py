"""A compression from its config to its bundle: makes the candidates, measures each step, picks, writes."""

import copy
import dataclasses
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from weitiao.compression.base import Compression, Subject
from weitiao.core.catalogue import member
from weitiao.core.config import make_member, options, settings_of
from weitiao.core.device import set_threads
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file
from weitiao.reporting.pareto import page, table_text
from weitiao.runtime.bundle import open_bundle
from weitiao.stages import _ladder
from weitiao.stages._certificate import Certificate
from weitiao.stages._compress_data import gather
from weitiao.stages._compressed import Compressed, write_bundle, write_trainable
from weitiao.stages._held_out import chosen_rows
from weitiao.stages._measure import Point, measure
from weitiao.stages._predictor import text_run
from weitiao.stages._proof import Proof
from weitiao.stages._target import read_target, speedup

Step = tuple[str, dict[str, Any]]  # a member's name and its settings
PROVED_ROWS = 200  # of those measured on, compared with the trained model


class Compressing:
    """One call of ``weitiao compress``."""

    def __init__(self, config: Any) -> None:
        self.config, self.output = config, Path(config.output)
        self.points: list[Point] = []  # the model as it was, then every candidate measured
        self.trained = text_run(config.run)

    def events(self) -> Iterator[Event]:
        """Read, compress, measure, write."""
        target = read_target(self.config.target) if self.config.target else None
        steps = [] if target else self._steps()
        set_threads(self.config.threads)
        for item in gather(self.config, self.trained):
            if isinstance(item, Event):
                yield item
            else:
                self.rows, self.texts, self.measured = item.rows, item.texts, item.measured
                yield ProgressEvent(say("comparing", "比对"), 0, PROVED_ROWS)
                self.proof = self._proof(item.source)
        with tempfile.TemporaryDirectory(prefix="weitiao-") as scratch:
            self.scratch = Path(scratch)
            if target is None:
                yield from self._one(steps)
            else:
                yield from self._ladder(target)

    def _steps(self) -> list[Step]:
        """The steps named, or those of a bundle, with their settings."""
        if self.config.recipe:
            recipe = open_bundle(self.config.recipe).manifest.get("recipe") or []
            if not recipe:
                raise WeitiaoError(
                    say(
                        f"{self.config.recipe} has no steps in its recipe",
                        f"{self.config.recipe} 的配方中没有步骤",
                    )
                )
            return _in_order(
                [(e["step"], {k: v for k, v in e["settings"].items() if k in options(member("compression", e["step"]))})
                 for e in recipe]
            )  # fmt: skip
        names = self.config.steps.split("+")
        return _in_order([(name, settings_of(self.config, "compression", name)) for name in names])

    def _proof(self, source: dict[str, Any]) -> Proof:
        """The trained model on some rows, and with its adapter merged, as it is from now on."""
        trained, config = self.trained, self.config
        rows = chosen_rows(trained.task, self.measured, PROVED_ROWS, source)
        description = trained.description
        certificate = Certificate(
            trained.task,
            trained.answers,
            lambda records: trained.task.encode(records, trained.tokenizer, description["max_length"], None),
            rows.items,
            rows.row_numbers,
            data=rows.data,
        )
        certificate.compare("trained", lambda _: trained.outputs(certificate.records)[1])
        tuning = make_member("tuning", description["tuning"], description["tuning_options"])
        tuning.merge(trained.model)
        if tuning.merges:
            certificate.compare(
                "merged adapter", lambda _: trained.outputs(certificate.records)[1], must=False
            )
        engine = "" if config.engine == "auto" else config.engine
        return Proof(certificate, rows.labels, False, engine, config.threads, config.service)

    # --- candidates

    def _subject(self) -> Subject:
        """A fresh copy of the trained model, to be changed."""
        description, teacher = self.trained.description, self.trained.model
        return Subject(
            copy.deepcopy(teacher), self.trained.tokenizer, self.trained.task, self.trained.answers,
            description["max_length"], self.rows, self.texts, teacher, self.trained.tokenizer, self.config.seed,
        )  # fmt: skip

    def _start(self, subject: Subject) -> Point:
        """The model as it was, measured once."""
        if not self.points:
            folder = self.scratch / "start"
            write_bundle(folder, Compressed.of(subject, self.trained), self.trained.folder.name, [])
            self.points.append(self._measure(folder, say("as trained", "原模型"), None))
            shutil.rmtree(folder)
        return self.points[0]

    def _measure(self, folder: Path, name: str, exact: Point | None) -> Point:
        return measure(folder, name, self.measured, self.config.engine, self.config.threads, exact)

    def candidate(self, steps: list[Step], folder: Path) -> Generator[Event, None, Point]:
        """Take some steps one after the other, measure after each; the last bundle stays in ``folder``."""
        subject = self._subject()
        start = last = self._start(subject)
        recipe: list[dict[str, Any]] = []
        for number, (name, settings) in enumerate(steps):
            step: Compression = make_member("compression", name, settings)
            if step.on == "graph" and subject.graph is None:
                subject.graph = Compressed.of(subject, self.trained).graph()
            yield NoteEvent(say(f"step {number + 1}: {name}", f"第 {number + 1} 步：{name}"))
            facts = yield from step.apply(subject)
            compressed = Compressed.of(subject, self.trained)
            recipe.append({"step": name, "settings": settings, "facts": facts, "before": last.as_json()})
            shutil.rmtree(folder, ignore_errors=True)
            write_bundle(folder, compressed, self.output.name, recipe)
            shown = " + ".join(done for done, _ in steps[: number + 1])
            last = self._measure(folder, shown, start)
            recipe[-1]["after"] = last.as_json()
            self.points.append(last)
            yield NoteEvent(_line(last, start))
        last.recipe = recipe
        self._last = (subject, recipe)
        return last

    # --- what is asked for

    def _one(self, steps: list[Step]) -> Iterator[Event]:
        folder = self.scratch / "bundle"
        yield from self.candidate(steps, folder)
        yield from self._finish(*self._last)

    def _ladder(self, target: Any) -> Iterator[Event]:
        """Candidates, the cheapest to make first; of those that fulfil the target the smallest is taken."""
        best: tuple[Point, Any] | None = None
        for number, steps in enumerate(_ladder.rungs(self.trained, bool(self.texts or self.rows))):
            if best is not None and _ladder.trains(steps):
                break  # what needs no training is enough
            point = yield from self.candidate(_in_order(steps), self.scratch / f"rung{number}")
            if target.shortfall(point, self.points[0]) == 0 and (best is None or point.bytes < best[0].bytes):
                best = point, self._last
            shutil.rmtree(self.scratch / f"rung{number}", ignore_errors=True)
        if best is None:
            raise self._out_of_reach(target)
        yield NoteEvent(say(f"Picked: {best[0].name}", f"选定：{best[0].name}"))
        yield from self._finish(*best[1])

    def _out_of_reach(self, target: Any) -> WeitiaoError:
        """Keeps the picture, and says which candidate came nearest."""
        start = self.points[0]
        near = min(self.points[1:], key=lambda point: target.shortfall(point, start))
        picture = self.output.with_name(self.output.name + ".html")
        with atomic_file(picture) as file:
            file.write(page(self.output.name, [point.as_json() for point in self.points]))
        said = _line(near, start)
        return WeitiaoError(
            say(
                f"No candidate reaches the target '{self.config.target}'; nearest: {said}. All are in {picture}. "
                "Ask for less, or give more texts with --corpus",
                f"没有候选达到目标“{self.config.target}”；最接近的是：{said}。全部结果见 {picture}。"
                "请放宽目标，或用 --corpus 提供更多文本",
            )
        )

    def _finish(self, subject: Subject, recipe: list[dict[str, Any]]) -> Iterator[Event]:
        """Write the bundle whole or not at all, with the picture and the table."""
        points = [point.as_json() for point in self.points]
        extra = {"compression.html": page(self.output.name, points)}
        compressed = Compressed.of(subject, self.trained)
        if self.config.keep_trainable:
            write_trainable(Path(f"{self.output}-trainable"), compressed)
        table = table_text(points)
        proof = dataclasses.replace(self.proof, table=table)
        yield ProgressEvent(say("comparing", "比对"), 0, len(proof.certificate.items))
        write_bundle(self.output, compressed, self.output.name, recipe, extra, proof)
        yield ProgressEvent(
            say("comparing", "比对"), len(proof.certificate.items), len(proof.certificate.items)
        )
        yield NoteEvent(table)
        yield from proof.notes()
        yield NoteEvent(
            say(
                f"Bundle: {self.output}   picture: {self.output / 'compression.html'}",
                f"部署包：{self.output}   图：{self.output / 'compression.html'}",
            )
        )
        found = {"points": points, "recipe": recipe, "certificate": proof.certificate.as_json()}
        yield ResultEvent(str(self.output), found)


def _in_order(steps: list[Step]) -> list[Step]:
    """The steps, unless one on the model follows one on the graph.

    Raises:
        WeitiaoError: it does; the graph's changes could not be carried back.
    """
    graph = ""
    for name, _ in steps:
        if member("compression", name).on == "graph":
            graph = name
        elif graph:
            raise WeitiaoError(
                say(
                    f"{name} changes the model and cannot follow {graph}, which changes the graph: put it first",
                    f"{name} 修改模型，不能排在修改计算图的 {graph} 之后：请把它放到前面",
                )
            )
    return steps


def _line(point: Point, start: Point) -> str:
    """A candidate on one line."""
    change = 100 * (point.score - start.score)
    return say(
        f"{point.name}: {start.bytes / point.bytes:.1f}x smaller, {speedup(point, start):.1f}x faster, "
        f"{change:+.2f} points, {100 * point.agreement:.2f} % of decisions the same",
        f"{point.name}：体积缩小 {start.bytes / point.bytes:.1f} 倍，速度 {speedup(point, start):.1f} 倍，"
        f"分数变化 {change:+.2f} 个点，{100 * point.agreement:.2f}% 的决策一致",
    )
