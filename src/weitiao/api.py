"""The Python API: the same stages as the command line, called as functions."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.config import build
from weitiao.core.events import Event

if TYPE_CHECKING:
    from weitiao.runtime.predictor import Predictor
    from weitiao.stages._predictor import Run


def finetune(data: Any = "", *, output: str | Path = "", show: bool = True, **settings: Any) -> "Run":
    """Fine-tune on a table and return the run.

    Args:
        data: a path, a pandas DataFrame, a ``datasets.Dataset`` or a list of dicts. What is not a path is kept in the
            run folder as ``data/train.parquet``, so that the run can be reproduced.
        output: the run folder; ``runs/<data>`` if not given.
        show: print progress.
        settings: the settings of ``weitiao finetune --help``, with underscores; ``test_data`` may be a table too.

    Raises:
        WeitiaoError: an unknown setting, or anything wrong with the data.
    """
    from weitiao.stages import finetune as stage
    from weitiao.stages._predictor import Run

    folder = Path(output or _free_folder(data))
    _consume(stage.run(build(stage.Config, _values(data, folder, settings))), show)
    return Run(folder)


def compare(data: Any = "", *, output: str | Path = "", show: bool = True, **settings: Any) -> dict[str, Any]:
    """Compare ways to fine-tune on one table, over several seeds.

    Args:
        data: as in ``finetune``.
        output: the comparison's folder; ``runs/compare-<data>`` if not given.
        show: print progress and the table.
        settings: the settings of ``weitiao compare --help``, with underscores.

    Returns:
        what ``comparison.json`` holds: ``methods``, each with its score, the interval over seeds, and its costs.

    Raises:
        WeitiaoError: an unknown method or setting, or anything wrong with the data.
    """
    from weitiao.stages import compare as stage

    folder = (
        Path(output) if output else stage.default_folder(data if isinstance(data, str | Path) else "data")
    )
    events = _consume(stage.run(build(stage.Config, _values(data, folder, settings))), show)
    return events[-1].as_json()["result"]["comparison"]


def tune(data: Any = "", *, output: str | Path = "", show: bool = True, **settings: Any) -> dict[str, Any]:
    """Search for the best settings on one table; the best trial's run is in ``<output>/best``.

    Args:
        data: as in ``finetune``.
        output: the search's folder; ``runs/tune-<data>`` if not given.
        show: print progress and the table.
        settings: the settings of ``weitiao tune --help``, with underscores; ``search`` is a dict of ranges and choices.

    Returns:
        what ``tune.json`` holds: ``trials``, ``best`` (its place), ``importance``, and the best one's ``test`` score.

    Raises:
        WeitiaoError: an unknown setting, a range that cannot be searched, or anything wrong with the data.
    """
    from weitiao.stages import tune as stage

    folder = (
        Path(output) if output else stage.default_folder(data if isinstance(data, str | Path) else "data")
    )
    events = _consume(stage.run(build(stage.Config, _values(data, folder, settings))), show)
    return events[-1].as_json()["result"]["tune"]


def ensemble(
    runs: "Sequence[str | Path | Run]", output: str | Path, *, show: bool = False, **settings: Any
) -> Any:
    """Make one answer of several runs, and return what answers.

    Args:
        settings: the settings of ``weitiao ensemble --help``: ``way`` is average, soup, uniform_soup or distil.

    Raises:
        WeitiaoError: the runs answer different questions, held out other rows, or began from different models.
    """
    from weitiao.stages import ensemble as stage

    values = {"runs": [str(getattr(run, "folder", run)) for run in runs], "output": str(output), **settings}
    _consume(stage.run(build(stage.Config, values)), show)
    return load(output)


def evaluate(run: "str | Path | Run", data: Any, *, show: bool = False, **settings: Any) -> dict[str, Any]:
    """Score a run or a bundle on a table. Returns the scores by name."""
    from weitiao.stages import evaluate as stage
    from weitiao.stages.evaluate import beside

    folder = Path(run) if isinstance(run, str | Path) else run.folder
    path = _as_path(data, beside(folder), "data")
    events = _consume(stage.run(build(stage.Config, {"run": str(folder), "data": path, **settings})), show)
    return events[-1].as_json()["result"]["scores"]


def predict(run: "str | Path | Run | Predictor", texts: Sequence[Any]) -> list[Any]:
    """Answers for some texts; see ``Run.predict``."""
    return (load(run) if isinstance(run, str | Path) else run).predict(texts)


def generate(
    run: "str | Path | Run", prompts: Sequence[str], *, show: bool = False, **settings: Any
) -> list[str]:
    """What a language model writes for some prompts: a run, a bundle's folder, or a model's name.

    Args:
        settings: the settings of ``weitiao generate --help``, with underscores.
    """
    from weitiao.stages import generate as stage

    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    values = {"run": str(getattr(run, "folder", run)), "prompts": prompts, **settings}
    result = _consume(stage.run(build(stage.Config, values)), show)[-1].as_json()["result"]
    return [one["generated_text"] for one in result.get("jsonl", [result])]


def load(folder: str | Path | Sequence[str | Path], **settings: Any) -> Any:
    """A run that was trained before; or a bundle, which needs no torch.

    Args:
        folder: its folder; or a list of runs' folders, for a list of runs: adapters of one base, as lora's or
            prefix's, then hold the base's weights in memory once.
        settings: for a bundle: ``engine``, ``precision``, ``threads`` (see ``weitiao.runtime.load``).
    """
    from weitiao.runtime.bundle import is_bundle

    if not isinstance(folder, str | Path):
        from weitiao.stages._predictor import open_together

        return open_together(folder)
    if is_bundle(folder):
        from weitiao.runtime import load as load_bundle

        return load_bundle(folder, **settings)
    from weitiao.stages._ensemble import open_run

    return open_run(folder, **settings)


def export(
    run: "str | Path | Run", output: str | Path, *, show: bool = False, **settings: Any
) -> dict[str, Any]:
    """Export a run as a bundle. Returns its certificate.

    Args:
        settings: the settings of ``weitiao export --help``, with underscores.

    Raises:
        WeitiaoError: the exported model is not the trained one within the tolerance; nothing is left then.
    """
    from weitiao.stages import export as stage

    values = {"run": str(getattr(run, "folder", run)), "output": str(output), **settings}
    events = _consume(stage.run(build(stage.Config, values)), show)
    return events[-1].as_json()["result"].get("certificate", {})


def _consume(events: Iterator[Event], show: bool) -> list[Event]:
    if not show:
        return list(events)
    from weitiao.reporting.terminal import show as show_events

    kept: list[Event] = []

    def keep() -> Iterator[Event]:
        for event in events:
            kept.append(event)
            yield event

    show_events(keep())
    return kept


def _values(data: Any, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with every table as a path: those that are in memory are kept in the folder."""
    values = {"output": str(folder), "data": data, **settings}
    for role in ("data", "test_data", "dev_data"):
        if role in values:
            name = "train" if role == "data" else role.removesuffix("_data")
            values[role] = _as_path(values[role], folder, name)
    return {key: value for key, value in values.items() if value != ""}


def _as_path(source: Any, folder: Path, name: str) -> str:
    if isinstance(source, str | Path):
        return str(source)
    path = folder / "data" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, list):
        import pandas

        source = pandas.DataFrame(source)
    source.to_parquet(path)
    return str(path)


def _free_folder(data: Any) -> Path:
    """``runs/<data>``, or with a number behind it where that is taken."""
    stem = Path(data).name.split(".")[0] if isinstance(data, str | Path) else "run"
    folder, number = Path("runs") / (stem or "run"), 2
    while (folder / "config.yaml").exists():
        folder, number = Path("runs") / f"{stem}-{number}", number + 1
    return folder
