"""Active selection against random texts at equal labels: 10 rounds of 50, frozen features, the head fitted anew."""

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.frozen import MODEL, features, numbered
from benchmarks.harness import Entry

ROUND = 50


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """banking77 and CSL; the pool is the whole training part. All ways begin with the same random round."""
    for name in ("banking77", "csl"):
        config = {
            "model": MODEL,
            "data": name,
            "rounds": options.rounds or 10,
            "labels_a_round": ROUND,
            "seeds": options.seeds or [1, 2, 3],
            "features": "frozen",
        }
        yield Entry(name, config, lambda config=config: measure(config))


def measure(config: dict[str, Any]) -> dict[str, Any]:
    """Each way with each seed; curves, and the differences to random ones at equal labels."""
    from weitiao.core import catalogue

    (x_NF, labels), (test_x, test_labels) = (
        features(config["data"], "train"),
        features(config["data"], "test"),
    )
    y_N, test_y = numbered(labels, test_labels)
    ways = ["random", *(name for name in catalogue.members("selection") if name != "random")]
    curves: dict[str, list[list[float]]] = {}
    right: dict[str, list[np.ndarray]] = {}
    for seed in config["seeds"]:
        for way in ways:
            part = harness.remembered(
                f"active-{config['data']}-{config['rounds']}-{way}-{seed}",
                lambda way=way, seed=seed: _curve(config, way, seed, x_NF, y_N, test_x, test_y),
            )
            curves.setdefault(way, []).append(part["curve"])
            right.setdefault(way, []).append(np.array(part["right"]))
            print(f"  {config['data']} {way} {seed}: {part['curve'][-1]:.3f}", flush=True)
    summary: dict[str, Any] = {
        "random, last round": harness.mean_sd([curve[-1] for curve in curves["random"]])
    }
    details = {}
    for way in ways[1:]:
        details[way] = compare(curves[way], curves["random"], right[way], right["random"])
        low, high = details[way]["interval"]
        summary[way] = f"{100 * details[way]['gain']:+.1f} ({100 * low:+.1f}–{100 * high:+.1f})"
    best = max(details, key=lambda way: details[way]["gain"])
    summary |= {"best": best, "its last round": harness.mean_sd([curve[-1] for curve in curves[best]])}
    summary["labels it saves of 500"] = details[best]["labels_saved"]
    summary["majority baseline"] = float(np.bincount(test_y).max() / len(test_y))
    return {"summary": summary, "curves": curves, "against_random": details}


def compare(
    ours: Any, random: Any, right: list[np.ndarray], right_random: list[np.ndarray]
) -> dict[str, Any]:
    """The mean gain over the rounds after the first, with a paired 95 % bootstrap interval.

    A resample draws seeds and, within each, test rows: the same for both ways and for all rounds.
    """
    apart = np.array(
        [(a[1:].astype(float) - b[1:]).mean(0) for a, b in zip(right, right_random, strict=True)]
    )
    draw = np.random.default_rng(0)
    means = []
    for _ in range(2000):
        seeds = draw.integers(0, len(apart), len(apart))
        rows = draw.integers(0, apart.shape[1], apart.shape[1])
        means.append(apart[seeds][:, rows].mean())
    curve, other = np.mean(ours, 0), np.mean(random, 0)
    reached = np.flatnonzero(curve >= other[-1])
    needed = len(curve) * ROUND
    if len(reached):
        at = int(reached[0])
        part = 1.0 if at == 0 else (other[-1] - curve[at - 1]) / max(curve[at] - curve[at - 1], 1e-12)
        needed = round(ROUND * (at + part)) if at else ROUND
    return {
        "gain": float(apart.mean()),
        "interval": [float(bound) for bound in np.percentile(means, [2.5, 97.5])],
        "gain_last_round": float(curve[-1] - other[-1]),
        "by_seed": [float(value) for value in apart.mean(1)],
        "labels_saved": len(curve) * ROUND - needed if len(reached) else 0,
        "sd_last_round": statistics.stdev([c[-1] for c in ours]) if len(ours) > 1 else 0.0,
    }


def _curve(
    config: dict[str, Any], way: str, seed: int, x_NF: Any, y_N: Any, test_x: Any, test_y: Any
) -> dict[str, Any]:
    """``curve``: the accuracy after each round; ``right``: the share of the rounds after the first in which each test
    row was right."""
    from weitiao.core.catalogue import member
    from weitiao.labelling.learner import Learner

    learner = Learner(x_NF, int(y_N.max()) + 1, seed=seed)
    selection = member("selection", way)()
    first = np.random.default_rng(seed).permutation(len(y_N))[:ROUND]
    labels = {int(row): int(y_N[row]) for row in first}
    curve, hits = [], []
    for number in range(config["rounds"]):
        if number:
            left = np.setdiff1d(np.arange(len(y_N)), list(labels))
            for row in learner.choose(selection, labels, left, ROUND, number).tolist():
                labels[row] = int(y_N[row])
        head = learner.fit(labels)
        assert head is not None
        hits.append(head.probabilities(test_x).argmax(1) == test_y)
        curve.append(float(hits[-1].mean()))
    return {"curve": curve, "right": np.array(hits[1:]).mean(0).round(6).tolist()}
