"""Two processes that share a model against one that holds it: the largest difference of their losses, and the cost."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.harness import Entry


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """The same run with one process and with two, each on one thread; without dropout, whose masks would differ."""
    for tuning in ("full", "lora"):
        config = {
            "model": "all-MiniLM-L6-v2",
            "data": "banking77",
            "tuning": tuning,
            "texts": options.texts or 320,
            "num_epochs": options.epochs or 1,
            "batch_size": 16,
            "dropout": 0.0,
            "precision": "fp32",
            "max_length": 64,
            "threads": 1,
        }
        yield Entry(f"{config['model']}-banking77-{tuning}", config, lambda config=config: measure(config))


def measure(config: dict[str, Any]) -> dict[str, Any]:
    """Losses step by step of both; seconds of their steps, which say little where processes share a core."""
    train, test = data.tables(config["data"], config["texts"], 200, 1)
    found: dict[int, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            output = Path(folder) / str(processes)
            settings = {key: value for key, value in config.items() if key not in ("data", "texts")}
            settings |= {"data": train, "test_data": test, "processes": processes, "output": output}
            settings |= {"task": "text-classification", "dev_fraction": 0.0}
            flags = [
                str(part) for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", value)
            ]
            subprocess.run(
                [sys.executable, "-m", "weitiao", "finetune", *flags], check=True, capture_output=True
            )
            events = [json.loads(line) for line in (output / "events.jsonl").read_text("utf-8").splitlines()]
            found[processes] = [event for event in events if event["event"] == "step"]
    pairs = [(one["loss"], two["loss"]) for one, two in zip(found[1], found[2], strict=True)]
    seconds = {
        count: sum(event["tokens"] / event["tokens_per_second"] for event in steps)
        for count, steps in found.items()
    }
    return {
        "summary": {
            "steps": len(pairs),
            "first loss": pairs[0][0],
            "last loss": pairs[-1][0],
            "largest difference": f"{max(abs(a - b) for a, b in pairs):.1e}",
            "seconds, one": seconds[1],
            "seconds, two": seconds[2],
            "cores": len(os.sched_getaffinity(0)),
        },
        "losses": pairs,
    }
