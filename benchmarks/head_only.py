"""Head-only training on cached embeddings: the whole command, on all of banking77."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.cold_predict import timed
from benchmarks.harness import Entry, as_range, spread


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Weitiao alone: reading, checking, encoding, the frozen pass, the regression, the report."""
    for model in ("multilingual-e5-small", "all-MiniLM-L6-v2"):
        config = {
            "model": model,
            "data": "banking77",
            "texts": options.texts,
            "rounds": options.rounds or 3,
            "max_length": 128,
        }
        yield Entry(model, config, lambda config=config: measure(config))


def measure(config: dict[str, Any]) -> dict[str, Any]:
    """Seconds of ``weitiao finetune --tuning head``, and its test accuracy."""
    train, test = data.tables(config["data"], config["texts"], 0, 1)
    seconds, accuracy = [], 0.0
    for _ in range(config["rounds"]):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "run"
            command = (
                sys.executable,
                "-m",
                "weitiao",
                "finetune",
                "--data",
                str(train),
                "--test-data",
                str(test),
                "--task",
                "text-classification",
                "--model",
                config["model"],
                "--tuning",
                "head",
                "--max-length",
                str(config["max_length"]),
                "--output",
                str(output),
            )
            seconds.append(timed(command)[0])
            metrics = json.loads((output / "metrics.json").read_text("utf-8"))
            accuracy = metrics["evaluation"]["test"]["scores"]["accuracy"]
    rows = {split: metrics["data"][split]["rows"] for split in ("train", "test")}
    return {"summary": {"seconds": as_range(spread(seconds)), "accuracy": accuracy, **rows}, "runs": seconds}
