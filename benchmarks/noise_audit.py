"""The audit of wrong labels: a fifth of CSL's labels corrupted; how many it finds, what reviewing them wins back."""

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.frozen import MODEL, features, numbered
from benchmarks.harness import Entry

CORRUPTED, LISTED = 0.2, 0.25


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """CSL; the head's accuracy is that of ``--tuning head``, with its own penalty and with the audit's."""
    config = {
        "model": MODEL,
        "data": "csl",
        "texts": options.texts or 2000,
        "corrupted": CORRUPTED,
        "listed": LISTED,
        "folds": 5,
        "seeds": options.seeds or [1, 2, 3],
    }
    yield Entry("csl", config, lambda: measure(config))


def measure(config: dict[str, Any]) -> dict[str, Any]:
    """Corrupt, audit, review the first rows of the list, train again."""
    (x_NF, labels), (test_x, test_labels) = features("csl", "train"), features("csl", "test")
    y_N, test_y = numbered(labels, test_labels)
    runs = [_one(config, seed, x_NF, y_N, test_x, test_y) for seed in config["seeds"]]
    found = [run["found"] for run in runs]
    summary: dict[str, Any] = {
        "corrupted rows in the first 25 % (mean ± sd)": harness.mean_sd(found),
        "at random": harness.mean_sd([run["found_at_random"] for run in runs]),
    }
    for kind in ("head", "strong"):
        clean, noisy, reviewed = ([run[kind][key] for run in runs] for key in ("clean", "noisy", "reviewed"))
        back = [(r - n) / (c - n) for c, n, r in zip(clean, noisy, reviewed, strict=True)]
        name = "--tuning head" if kind == "head" else "a strongly penalised head"
        summary[f"{name}: clean"] = harness.mean_sd(clean)
        summary[f"{name}: corrupted"] = harness.mean_sd(noisy)
        summary[f"{name}: reviewed"] = harness.mean_sd(reviewed)
        summary[f"{name}: won back"] = f"{100 * statistics.mean(back):.0f} %"
    summary["majority baseline"] = float(np.bincount(test_y).max() / len(test_y))
    return {"summary": summary, "runs": runs}


def _one(config: dict[str, Any], seed: int, x_NF: Any, y_N: Any, test_x: Any, test_y: Any) -> dict[str, Any]:
    from weitiao.core.catalogue import member
    from weitiao.labelling.noise import find
    from weitiao.stages._noise import PENALTY
    from weitiao.training.probe import held_out_probabilities, solve

    random, classes = np.random.default_rng(seed), int(y_N.max()) + 1
    rows = random.permutation(len(y_N))[: config["texts"]]
    x, y = x_NF[rows], y_N[rows]
    bad = random.permutation(len(y))[: int(config["corrupted"] * len(y))]
    noisy = y.copy()
    noisy[bad] = (y[bad] + random.integers(1, classes, len(bad))) % classes
    *_, p_NC = held_out_probabilities(x, noisy, classes, folds=config["folds"], penalty=PENALTY, seed=seed)
    first = find(p_NC, noisy).order[: int(config["listed"] * len(y))]
    reviewed = noisy.copy()
    reviewed[first] = y[first]

    def accuracy(labels: np.ndarray, penalty: float) -> float:
        head = solve(x, labels, classes, penalty=penalty, seed=seed)
        return float((head.probabilities(test_x).argmax(1) == test_y).mean())

    penalties = {"head": member("tuning", "head")().penalty, "strong": PENALTY}
    return {
        "seed": seed,
        "found": float(np.isin(bad, first).mean()),
        "found_at_random": float(np.isin(bad, random.permutation(len(y))[: len(first)]).mean()),
        **{kind: {"clean": accuracy(y, p), "noisy": accuracy(noisy, p), "reviewed": accuracy(reviewed, p)}
           for kind, p in penalties.items()},
    }  # fmt: skip
