"""Full fine-tuning of e5-small against the Trainer: same texts and settings, scores over three seeds."""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import data, harness, ours, peer
from benchmarks.harness import Entry

TEXTS, TEST_TEXTS = 1000, 1000


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Each data set with 1,000 training texts; and banking77 with all of its texts and test texts."""
    for name, dataset in data.DATASETS.items():
        yield _entry(name, name, dataset.epochs, options.texts or TEXTS, TEST_TEXTS, options)
    yield _entry("banking77-all", "banking77", 3, 0, 0, options)


def _entry(
    name: str, dataset: str, epochs: int, texts: int, test_texts: int, options: argparse.Namespace
) -> Entry:
    config = {
        "model": "multilingual-e5-small",
        "data": dataset,
        "task": data.DATASETS[dataset].task,
        "texts": texts,
        "test_texts": test_texts,
        "score": data.DATASETS[dataset].score,
        "seeds": options.seeds or [1, 2, 3],
        "peer": options.peer,
        "learning_rate": piloted_rate(dataset, options.output),
        "num_epochs": options.epochs or epochs,
        "batch_size": 16,
        "warmup_ratio": 0.1,
        "weight_decay": 0.0,
        "max_length": 128,
        "dropout": None,
        "pooling": "mean",
    }
    return Entry(name, config, lambda: compare(name, config, options.again))


def piloted_rate(dataset: str, comparisons: Path) -> float:
    """The learning rate that was best for the Trainer in the pilot, else the data set's."""
    path = comparisons / "pilot" / dataset / "result.json"
    return json.loads(path.read_text("utf-8"))["best_rate"] if path.exists() else data.DATASETS[dataset].rate


def settings_for(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run's settings, the same for both sides."""
    train, test = data.tables(config["data"], config["texts"], config["test_texts"], seed)
    keys = (
        "task",
        "model",
        "learning_rate",
        "num_epochs",
        "batch_size",
        "warmup_ratio",
        "weight_decay",
        "max_length",
        "dropout",
        "pooling",
    )
    return {"data": str(train), "test_data": str(test), "seed": seed, **{key: config[key] for key in keys}}


def compare(name: str, config: dict[str, Any], again: bool = False) -> dict[str, Any]:
    """A B for each seed. Finished runs are remembered: an interrupted entry goes on where it was."""
    hyper = "-".join(str(config[key]) for key in ("texts", "num_epochs", "learning_rate"))
    sides = ("weitiao", config["peer"])
    parts = {(side, seed): f"{name}-{hyper}-{side}-{seed}" for seed in config["seeds"] for side in sides}
    if again:
        harness.forget(list(parts.values()))
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with harness.sides(*sides) as (weitiao, trainer):
        for seed in config["seeds"]:
            settings = settings_for(config, seed)
            calls = (
                lambda settings=settings: weitiao(ours.finetune, settings),
                lambda settings=settings: trainer(peer.finetune, settings, config["peer"]),
            )
            for side, call in zip(sides, calls, strict=True):
                runs[side].append(harness.remembered(parts[side, seed], call))
    mine, theirs = ([run["scores"][config["score"]] for run in runs[side]] for side in sides)
    difference = 100 * (statistics.mean(mine) - statistics.mean(theirs))
    seconds = {f"{side} seconds": statistics.median(run["seconds"] for run in runs[side]) for side in sides}
    summary = {
        "score": config["score"],
        "weitiao (mean ± sd)": harness.mean_sd(mine),
        "trainer (mean ± sd)": harness.mean_sd(theirs),
        "difference, points": difference,
        "no lower than -0.5": "yes" if difference >= -0.5 else "no",
        "trainer": f"{config['peer']}, {runs[config['peer']][0]['precision']}",
        "weitiao precision": "/".join(sorted({run["precision"] for run in runs["weitiao"]})),
    }
    for run in (run for side in sides for run in runs[side]):
        run["final_loss"] = statistics.mean(run.pop("losses")[-10:])
    return {"summary": summary, "difference": difference, **seconds, "runs": runs}
