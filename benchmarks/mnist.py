"""MNIST, one small CNN from scratch: test accuracy and seconds of training over seeds, and the digits it got wrong."""

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.data import SHARED
from benchmarks.harness import Entry

WANTED = {"standard": 0.9965, "best": 0.9975}


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """``--preset standard`` over three seeds, ``--preset best`` with one: it takes about four times as long."""
    for preset, seeds in (("standard", [1, 2, 3]), ("best", [1])):
        config = {
            "data": "mnist",
            "preset": preset,
            "dev_fraction": 0.0,
            "seeds": options.seeds or seeds,
            "num_epochs": options.epochs or None,
        }
        name = f"{preset}-{options.epochs}-epochs" if options.epochs else preset
        yield Entry(name, config, lambda name=name, config=config: measure(name, config, options.again))


def folder_of(name: str, seed: int) -> Path:
    """The run folder of a seed, which other benchmarks take their vision encoder from."""
    return harness.SCRATCH / "mnist" / f"{name}-{seed}"


def measure(name: str, config: dict[str, Any], again: bool) -> dict[str, Any]:
    """A whole run for each seed. Finished runs are remembered; the run folders stay for their reports."""
    if again:
        harness.forget([f"mnist-{name}-{seed}" for seed in config["seeds"]])
    runs = [
        harness.remembered(
            f"mnist-{name}-{seed}", lambda seed=seed: finetune(folder_of(name, seed), config, seed)
        )
        for seed in config["seeds"]
    ]
    accuracies = [run["accuracy"] for run in runs]
    low, high = runs[0]["interval"]
    summary = {
        "accuracy (mean ± sd)": harness.mean_sd(accuracies),
        "95 % interval, first seed": f"{100 * low:.2f}–{100 * high:.2f}",
        "wanted": f"{100 * WANTED[config['preset']]:.2f}",
        "errors": "/".join(str(run["wrong"]) for run in runs),
        "majority": runs[0]["majority"],
        "training seconds": harness.as_range(harness.spread([run["seconds"] for run in runs])),
        "threads": runs[0]["threads"],
        "precision": "/".join(sorted({run["precision"] for run in runs})),
    }
    return {"summary": summary, "runs": runs}


def finetune(folder: Path, config: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run of ``weitiao finetune --task image-classification --data mnist``."""
    import weitiao

    epochs = {"num_epochs": config["num_epochs"]} if config["num_epochs"] else {}
    run = weitiao.finetune(
        str(SHARED / "images" / "mnist"), output=folder, task="image_classification", preset=config["preset"],
        dev_fraction=config["dev_fraction"], seed=seed, show=False, resume=(folder / "config.yaml").exists(), **epochs,
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    test = metrics["evaluation"]["test"]
    with open(folder / "errors.csv", encoding="utf-8-sig") as file:
        errors = list(csv.DictReader(file))
    return {
        "seed": seed,
        "accuracy": test["scores"]["accuracy"],
        "interval": test["intervals"]["accuracy"],
        "majority": test["baseline"]["accuracy"],
        "wrong": round(test["rows"] * (1 - test["scores"]["accuracy"])),
        "seconds": metrics["cost"]["actual_seconds"],
        "threads": metrics["environment"]["threads"],
        "precision": metrics["environment"]["precision"],
        "parameters": metrics["model"]["parameters"],
        "worst_errors": errors,
        "last_losses": [event["loss"] for event in run.events if event["event"] == "step"][-10:],
    }
