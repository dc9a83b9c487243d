"""Equal final loss: the mean training loss of the last epoch on both sides, over three seeds."""

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks import data, harness, ours, peer
from benchmarks.harness import Entry


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """MiniLM and e5-small, dropout on and off."""
    for model in ("all-MiniLM-L6-v2", "multilingual-e5-small"):
        for dropout in (None, 0.0):
            config = {
                "model": model,
                "data": "sst2",
                "texts": options.texts or 480,
                "num_epochs": options.epochs or 2,
                "seeds": options.seeds or [1, 2, 3],
                "peer": options.peer,
                "dropout": dropout,
                "learning_rate": 1e-4,
                "batch_size": 16,
                "warmup_ratio": 0.1,
                "weight_decay": 0.0,
                "max_length": 128,
                "pooling": "mean",
                "precision": "bf16",
            }
            name = f"{model}-dropout-{'on' if dropout is None else 'off'}"
            yield Entry(name, config, lambda config=config: compare(config))


def compare(config: dict[str, Any]) -> dict[str, Any]:
    """Whole runs, A B for each seed. The last epoch's mean does not depend on the order of its texts."""
    keys = (
        "model",
        "num_epochs",
        "dropout",
        "learning_rate",
        "batch_size",
        "warmup_ratio",
        "weight_decay",
        "max_length",
        "pooling",
    )
    pairs = []
    with harness.sides("weitiao", "trainer") as (weitiao, trainer):
        for seed in config["seeds"]:
            train, test = data.tables(config["data"], config["texts"], 16, seed)
            settings = {key: config[key] for key in keys}
            settings |= {
                "data": str(train),
                "test_data": str(test),
                "task": data.DATASETS[config["data"]].task,
                "seed": seed,
            }
            runs = (
                weitiao(ours.finetune, {**settings, "precision": config["precision"]}),
                trainer(peer.finetune, settings, config["peer"]),
            )
            pairs.append([last_epoch(run["losses"], config["num_epochs"]) for run in runs])
    mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    difference = [a - b for a, b in pairs]
    summary = {
        "weitiao loss": statistics.mean(mine),
        "trainer loss": statistics.mean(theirs),
        "difference": statistics.mean(difference),
        "sd of trainer over seeds": _sd(theirs),
    }
    return {"summary": summary, "weitiao": mine, "trainer": theirs, "difference": difference}


def last_epoch(losses: list[float], epochs: int) -> float:
    """The mean loss of a run's last epoch."""
    return statistics.mean(losses[-(len(losses) // epochs) :])


def _sd(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
