"""Mean, first-token and the architecture's own pooling under a classifier: how the default was chosen."""

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks import data, harness, ours
from benchmarks.harness import Entry

CASES = (
    ("multilingual-e5-small", "banking77", ("mean", "cls")),
    ("multilingual-e5-small", "csl", ("mean", "cls")),
    ("multilingual-e5-small", "sst2", ("mean", "cls")),
    ("all-MiniLM-L6-v2", "banking77", ("mean", "cls", "own")),
    ("all-MiniLM-L6-v2", "sst2", ("mean", "cls", "own")),
)


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Weitiao alone."""
    for model, name, poolings in CASES:
        config = {
            "model": model,
            "data": name,
            "poolings": list(poolings),
            "texts": options.texts or 1000,
            "test_texts": 1000,
            "seeds": options.seeds or [1, 2],
            "num_epochs": options.epochs or data.DATASETS[name].epochs,
            "learning_rate": 1e-4,
            "batch_size": 16,
            "warmup_ratio": 0.1,
            "weight_decay": 0.0,
            "max_length": 128,
        }
        yield Entry(f"{model}-{name}", config, lambda config=config: compare(config))


def compare(config: dict[str, Any]) -> dict[str, Any]:
    """Each pooling with each seed."""
    keys = (
        "model",
        "num_epochs",
        "learning_rate",
        "batch_size",
        "warmup_ratio",
        "weight_decay",
        "max_length",
    )
    dataset = data.DATASETS[config["data"]]
    scores: dict[str, list[float]] = {pooling: [] for pooling in config["poolings"]}
    with harness.sides("weitiao") as (weitiao,):
        for seed in config["seeds"]:
            train, test = data.tables(config["data"], config["texts"], config["test_texts"], seed)
            for pooling in config["poolings"]:
                settings = {
                    "data": str(train),
                    "test_data": str(test),
                    "task": dataset.task,
                    "seed": seed,
                    "pooling": pooling,
                }
                run = weitiao(ours.finetune, {**settings, **{key: config[key] for key in keys}})
                scores[pooling].append(run["scores"][dataset.score])
    best = max(scores, key=lambda pooling: statistics.mean(scores[pooling]))
    summary = {
        "score": dataset.score,
        **{pooling: harness.mean_sd(values) for pooling, values in scores.items()},
        "best": best,
    }
    return {"summary": summary, "scores": scores}
