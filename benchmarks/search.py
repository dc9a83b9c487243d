"""Settings that a search found against the defaults: test scores over seeds that the search did not see."""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import weitiao
from benchmarks import data
from benchmarks.harness import Entry
from weitiao.core.config import build
from weitiao.core.runs import read_json
from weitiao.stages import tune
from weitiao.stages._compared import t_interval

SEARCH = {
    "learning_rate": "1e-5..1e-3 log",
    "batch_size": "8|16|32",
    "num_epochs": "2..8",
    "layer_decay": "0.6..1",
}


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """One search; then its best settings and the defaults, trained anew with the same seeds."""
    config = {
        "model": "all-MiniLM-L6-v2",
        "data": "banking77",
        "texts": options.texts or 600,
        "test_texts": 1000,
        "trials": options.rounds or 12,
        "search": SEARCH,
        "search_seed": 1,
        "seeds": options.seeds or [11, 12, 13],
        "max_length": 64,
        "threads": 1,
    }
    yield Entry("all-MiniLM-L6-v2-banking77", config, lambda: measure(config))


def measure(config: dict[str, Any]) -> dict[str, Any]:
    """Mean test accuracies with Student's interval over the seeds, the baseline, and what the search cost."""
    train, test = data.tables(config["data"], config["texts"], config["test_texts"], 1)
    same = {"data": str(train), "test_data": str(test), "model": config["model"], "max_length": config["max_length"],
            "threads": config["threads"], "split_seed": 1}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            **same,
            "search": config["search"],
            "trials": config["trials"],
            "seed": config["search_seed"],
        }
        *_, last = tune.run(build(tune.Config, {**settings, "output": f"{folder}/search"}))
        found = last.result["tune"]
        best = found["trials"][found["best"]]["settings"]
        scores: dict[str, list[float]] = {"default": [], "tuned": []}
        baseline = 0.0
        for seed in config["seeds"]:
            for name, more in (("default", {}), ("tuned", best)):
                output = Path(folder) / f"{name}-{seed}"
                weitiao.finetune(output=output, seed=seed, show=False, **same, **more)
                report = read_json(output / "metrics.json")["evaluation"]["test"]
                scores[name].append(report["scores"]["accuracy"])
                baseline = report["baseline"]["accuracy"]
    gains = [tuned - default for default, tuned in zip(scores["default"], scores["tuned"], strict=True)]
    return {
        "summary": {
            **{name: shown(values) for name, values in scores.items()},
            "gain": shown(gains),
            "baseline": f"{100 * baseline:.1f}",
            "trials": ", ".join(
                f"{sum(row['state'] == state for row in found['trials'])} {state}"
                for state in ("complete", "pruned", "failed")
            ),
        },
        "best": best,
        "importance": found["importance"],
        "scores": scores,
        "search": [
            {key: row[key] for key in ("settings", "score", "state", "seconds")} for row in found["trials"]
        ],
    }


def shown(values: list[float]) -> str:
    """A mean in points with its interval."""
    mean, bounds = sum(values) / len(values), t_interval(values)
    interval = f" ({100 * bounds[0]:.1f} – {100 * bounds[1]:.1f})" if bounds else ""
    return f"{100 * mean:.1f}{interval}"
