"""Which learning rate is best for the Trainer on each data set (one seed); `accuracy` then uses it."""

import argparse
from collections.abc import Iterator
from typing import Any

from benchmarks import accuracy, data, harness, peer
from benchmarks.harness import Entry

RATES = (5e-5, 1e-4)
SEED = 101  # of a sample that the comparison does not use
PEER = "best"  # quicker; the choice between two rates does not hang on bf16


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """The accuracy comparison's data sets. Scored on test rows: the choice favours the Trainer, if anyone."""
    for name, dataset in data.DATASETS.items():
        config = {
            "model": "multilingual-e5-small",
            "data": name,
            "task": dataset.task,
            "texts": options.texts or accuracy.TEXTS,
            "test_texts": accuracy.TEST_TEXTS,
            "score": dataset.score,
            "rates": list(RATES),
            "peer": PEER,
            "seed": SEED,
            "num_epochs": options.epochs or dataset.epochs,
            "batch_size": 16,
            "warmup_ratio": 0.1,
            "weight_decay": 0.0,
            "max_length": 128,
            "dropout": None,
            "pooling": "mean",
        }
        yield Entry(name, config, lambda config=config: choose(config))


def choose(config: dict[str, Any]) -> dict[str, Any]:
    """Train the peer at each rate."""
    scores: dict[float, float] = {}
    with harness.sides("trainer") as (trainer,):
        for rate in config["rates"]:
            settings = accuracy.settings_for({**config, "learning_rate": rate}, config["seed"])
            scores[rate] = trainer(peer.finetune, settings, config["peer"])["scores"][config["score"]]
    best = max(scores, key=lambda rate: scores[rate])
    return {
        "summary": {f"{rate:g}": score for rate, score in scores.items()} | {"best": f"{best:g}"},
        "best_rate": best,
    }
