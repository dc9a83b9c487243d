"""What a language model wrote before it was trained: the baseline that shows what training did."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.events import EvaluationEvent, Event, ProgressEvent
from weitiao.core.messages import say
from weitiao.core.runs import read_json, write_json

if TYPE_CHECKING:
    from weitiao.stages._training import Training

FILE = "untrained.json"


def measure(run: "Training") -> Iterator[Event]:
    """Let the model write for the held-out parts that are scored at the end, and keep that in the run's folder."""
    texts: dict[str, Any] = {}
    splits = [name for name in run.scored if name in run.data.encoded]
    for number, split in enumerate(splits):
        yield ProgressEvent(say("writing before training", "训练前生成"), number, len(splits))
        encoded, records = run.data.encoded[split], run.data.records[split]
        outputs = run.outputs(encoded, records)
        texts[split] = run.task.predictions(outputs, encoded, records, run.answers).predicted
        if split == "dev":
            yield EvaluationEvent(0, split, run.scores(outputs, encoded, records), run.monitor)
    write_json(run.folder / FILE, texts)
    yield ProgressEvent(say("writing before training", "训练前生成"), len(splits), len(splits))


def kept(folder: Path, split: str) -> Any:
    """The texts of a held-out part; None where they are not known."""
    return read_json(folder / FILE).get(split) if (folder / FILE).is_file() else None
