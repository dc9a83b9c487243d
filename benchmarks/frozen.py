"""Frozen features of a data set's texts, read once and kept: for benchmarks that fit heads by the hundred."""

import numpy as np

from benchmarks import data
from benchmarks.harness import SCRATCH

MODEL = "multilingual-e5-small"


def features(
    name: str, split: str, model: str = MODEL, max_length: int = 128
) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 ``[N, F]`` and labels (text) ``[N]`` of a data set's ``train`` or ``test`` part."""
    path = SCRATCH / "features" / f"{name}-{split}.npz"
    if not path.exists():
        from weitiao.core.config import make_member
        from weitiao.labelling.features import pretrained, read_all
        from weitiao.tasks.base import Answers

        rows, found = data.DATASETS[name].read(split), []
        task = make_member("tasks", "text_classification", {})
        reader = pretrained(task, model, Answers("classes", ["a", "b"]), max_length)
        list(read_all(reader, rows, found))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, x=found[0], y=np.array([row["label"] for row in rows]))
    held = np.load(path)
    return held["x"], held["y"]


def numbered(*labels: np.ndarray) -> list[np.ndarray]:
    """Labels as class numbers, int, the same for all parts."""
    number = {name: i for i, name in enumerate(sorted(set(np.concatenate(labels).tolist())))}
    return [np.array([number[name] for name in part.tolist()], np.int64) for part in labels]
