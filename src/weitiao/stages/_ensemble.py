"""Several runs that answer together: what ``weitiao.load`` returns for a folder that ``weitiao ensemble`` wrote."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import read_json
from weitiao.data.encode import Encoded
from weitiao.models.heads import EmbeddingHead
from weitiao.runtime.items import columns_of, records_of
from weitiao.stages._predictor import Run
from weitiao.tasks.base import sigmoid, softmax

FILE = "ensemble.json"
SMALLEST = 1e-12  # of a mean probability, before its logarithm is taken


class Ensemble:
    """Runs of one task and the same answers; each reads a text its own way, and their probabilities are averaged."""

    def __init__(self, folder: str | Path, runs: Sequence[Run] | None = None) -> None:
        self.folder = Path(folder)
        self.runs = list(runs) if runs is not None else [Run(path) for path in _members(self.folder)]
        first = self.runs[0]
        for run in self.runs[1:]:
            _same_kind(first, run)
        self.task, self.answers, self.description = first.task, first.answers, first.description

    @property
    def metrics(self) -> dict[str, Any]:
        """``metrics.json``."""
        return read_json(self.folder / "metrics.json")

    def predict(self, texts: Sequence[Any]) -> list[Any]:
        """Answers for texts, as ``Run.predict`` gives them."""
        return self.answer(records_of(self.task, texts))

    def answer(self, records: list[dict[str, Any]]) -> list[Any]:
        """Answers for records, as ``task.example`` makes them."""
        if not records:
            return []
        encoded, outputs = self.outputs(records)
        return self.task.answers(outputs, encoded, columns_of(records), self.answers)

    def outputs(self, records: Any) -> tuple[Encoded, list[Any]]:
        """The records as the first run encodes them, and the averaged outputs, which a task takes as any model's."""
        found = [run.outputs(records) for run in self.runs]
        return found[0][0], self.mean([outputs for _, outputs in found])

    def mean(self, outputs: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """The averaged outputs of each example, from those of every run."""
        return mean_outputs(outputs, self._embeds, self.answers.kind)

    @cached_property
    def _embeds(self) -> bool:
        return isinstance(self.runs[0].model.head, EmbeddingHead)


def mean_outputs(outputs: Sequence[Sequence[np.ndarray]], embeds: bool, kind: str) -> list[np.ndarray]:
    """Outputs whose probabilities are the mean of the members' (Lakshminarayanan et al. 2017, "deep ensembles").

    Args:
        outputs: for each member, each example's outputs: logits ``[C]`` or ``[tokens, C]``, or unit vectors ``[2, D]``.
        embeds: they are unit vectors: side by side, so that their products are the mean of the members' products.
        kind: ``classes``, ``labels`` or ``values`` (see ``tasks.base.Answers``).

    Raises:
        WeitiaoError: two members cut a text into other tokens.
    """
    count = len(outputs)
    found = []
    for each in zip(*outputs, strict=True):
        if not embeds and any(part.shape != each[0].shape for part in each):
            raise WeitiaoError(
                say(
                    "The runs cut texts into other tokens: runs that label tokens need the same tokenizer",
                    "各次运行对文本的切分不同：逐 token 标注的运行必须使用相同的分词器",
                )
            )
        if embeds:
            mean = np.concatenate(each, -1) / count**0.5
        elif kind == "values":
            mean = np.mean(each, 0)
        elif kind == "labels":
            p = np.mean([sigmoid(part.astype(np.float64)) for part in each], 0).clip(SMALLEST, 1 - SMALLEST)
            mean = np.log(p) - np.log1p(-p)
        else:
            p = np.mean([softmax(part.astype(np.float64)) for part in each], 0)
            mean = np.log(p.clip(SMALLEST))
        found.append(mean.astype(np.float32))
    return found


def open_run(folder: str | Path, **settings: Any) -> Any:
    """A ``Run``, or an ``Ensemble`` where the folder is one; ``settings`` as ``Run`` takes them."""
    return Ensemble(folder) if is_ensemble(folder) else Run(folder, **settings)


def is_ensemble(folder: str | Path) -> bool:
    """Whether a folder holds no model of its own but names the runs that answer together."""
    return (Path(folder) / FILE).is_file() and not (Path(folder) / "model").is_dir()


def described(folder: Path, way: str, runs: Sequence[Path], **facts: Any) -> dict[str, Any]:
    """What ``ensemble.json`` holds: the runs by their way from the folder, so that both can move together."""
    return {"format": 1, "way": way, "runs": [os.path.relpath(run, folder) for run in runs], **facts}


def _members(folder: Path) -> list[Path]:
    paths = [folder / name for name in read_json(folder / FILE)["runs"]]
    for path in paths:
        if not path.exists():
            raise WeitiaoError(
                say(
                    f"{folder} is made of runs that must stay where they were; {path} is gone",
                    f"{folder} 由若干次运行组成，它们须留在原处；{path} 已不存在",
                )
            )
    return paths


def _same_kind(first: Run, other: Run) -> None:
    """Refuse runs that answer different questions."""
    what, wrong = "", ""
    if other.task.name != first.task.name:
        what, wrong = first.task.name, other.task.name
    elif (other.answers.kind, other.answers.names) != (first.answers.kind, first.answers.names):
        what, wrong = (str(run.answers.names or run.answers.kind)[:60] for run in (first, other))
    if wrong:
        raise WeitiaoError(
            say(
                f"{other.folder} answers {wrong}, but {first.folder} answers {what}: they cannot be averaged",
                f"{other.folder} 的答案是 {wrong}，而 {first.folder} 是 {what}：无法取平均",
            )
        )
