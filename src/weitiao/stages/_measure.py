"""What a bundle is worth here: bytes, latency, speed, scores, calibration; through the runtime, as it will be used."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from weitiao.core.catalogue import member
from weitiao.data.encode import Ragged
from weitiao.evaluation._calibration import expected_calibration_error
from weitiao.tasks.base import softmax

ONE_BY_ONE = 40  # texts whose latency is taken, after as many for warming up
TOGETHER = 256  # texts of the batch measurement


@dataclass
class Point:
    """One candidate: what it took and what it gives. ``outputs`` are kept in memory only."""

    name: str
    bytes: int
    latency_ms: float
    texts_per_second: float
    score: float
    monitor: str
    calibration_error: float | None
    agreement: float
    engine: str
    rows: int
    outputs: list[Any] = field(default_factory=list, repr=False)
    recipe: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The numbers."""
        return {key: value for key, value in asdict(self).items() if key not in ("outputs", "recipe")}


def measure(folder: Path, name: str, records: Any, engine: str, threads: int, exact: Point | None) -> Point:
    """Measure a bundle on labelled records.

    Args:
        engine: ``auto`` or an engine's name.
        exact: the point whose decisions are those to agree with; None: this one.
    """
    from weitiao.compression.int8 import agreement
    from weitiao.runtime import load

    predictor = load(folder, engine=engine, threads=threads)
    try:
        task, answers = predictor.task, predictor.answers
        encoded = task.encode(records, predictor.tokenizer, predictor.bundle.manifest["max_length"], answers)
        outputs = predictor.run(encoded)
        predictions = task.predictions(outputs, encoded, records, answers)
        evaluation = member("evaluation", task.evaluation(answers))()
        scores = evaluation.scores(predictions)
        return Point(
            name,
            sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
            *_speed(predictor, records),
            float(scores.get(evaluation.monitor, 0.0)),
            evaluation.monitor,
            scores.get("expected_calibration_error", _token_calibration(outputs, encoded)),
            agreement(exact.outputs if exact else outputs, outputs),
            predictor.engine.name,
            len(records),
            outputs,
        )
    finally:
        predictor.close()


def _speed(predictor: Any, records: Any) -> tuple[float, float]:
    """Milliseconds of one text, the median; texts a second in batches, the better of two passes."""
    some = records.select(range(min(len(records), TOGETHER)))
    rows = [
        dict(zip(some.column_names, cells, strict=True))
        for cells in zip(*some.to_dict().values(), strict=True)
    ]
    singles = [predictor.encode([row]) for row in rows[:ONE_BY_ONE]]
    for one in singles:
        predictor.run(one)
    seconds = []
    for row in rows[:ONE_BY_ONE]:
        start = time.perf_counter()
        predictor.run(predictor.encode([row]))
        seconds.append(time.perf_counter() - start)
    together = []
    for _ in range(2):
        start = time.perf_counter()
        predictor.run(predictor.encode(some))
        together.append(len(rows) / (time.perf_counter() - start))
    return 1000 * median(seconds), max(together)


def _token_calibration(outputs: list[np.ndarray], encoded: Any) -> float | None:
    """Expected calibration error over tokens, for a task that has a class for each; else None."""
    if not isinstance(encoded.targets, Ragged):
        return None
    probabilities, gold = softmax(np.concatenate(outputs)), encoded.targets.values
    scored = gold >= 0
    best = probabilities.argmax(-1)
    return expected_calibration_error(probabilities.max(-1)[scored], (best == gold)[scored])
