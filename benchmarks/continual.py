"""Continual learning: five tasks of 15 banking77 intents one after the other, against training on all at once."""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import data, harness
from benchmarks.harness import SCRATCH, Entry

TASKS, INTENTS = 5, 15
METHODS = ("naive", "replay", "ewc", "lwf", "orthogonal_lora")


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """MiniLM; which intents are learnt when is drawn by the seed."""
    config = {
        "model": "all-MiniLM-L6-v2",
        "data": "banking77",
        "tasks": TASKS,
        "intents_a_task": INTENTS,
        "texts_an_intent": options.texts or 30,
        "test_texts_an_intent": 10,
        "methods": list(METHODS),
        "memory": 10,
        "num_epochs": options.epochs or 6,
        "learning_rate": 1e-4,
        "lora_learning_rate": 1e-3,
        "batch_size": 16,
        "max_length": 64,
        "seeds": options.seeds or [1, 2],
    }
    yield Entry("banking77-minilm", config, lambda: measure(config, options.again))


def measure(config: dict[str, Any], again: bool = False) -> dict[str, Any]:
    """Every method with every seed, and joint training."""
    key = f"continual-{config['texts_an_intent']}-{config['num_epochs']}-{config['learning_rate']}"
    ways = ["joint", *config["methods"]]
    if again:
        harness.forget([f"{key}-{way}-{seed}" for way in ways for seed in config["seeds"]])
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for seed in config["seeds"]:
        for way in ways:
            make = (lambda seed=seed: _joint(config, seed)) if way == "joint" else (
                lambda seed=seed, way=way: _sequence(config, way, seed))  # fmt: skip
            runs[way].append(harness.remembered(f"{key}-{way}-{seed}", make))
            print(f"  {way} {seed}: {runs[way][-1]['final']:.3f}", flush=True)
    joint = statistics.mean(run["final"] for run in runs["joint"])
    summary: dict[str, Any] = {"joint": harness.mean_sd([run["final"] for run in runs["joint"]])}
    for way in config["methods"]:
        final = [run["final"] for run in runs[way]]
        forgot = statistics.mean(run["average_forgetting"] for run in runs[way])
        summary[way] = f"{harness.mean_sd(final)}; forgot {100 * forgot:.1f}"
    best = max(config["methods"], key=lambda way: statistics.mean(run["final"] for run in runs[way]))
    kept = statistics.mean(run["final"] for run in runs[best]) / joint
    summary |= {
        "best": best,
        "keeps of joint": f"{100 * kept:.1f} %",
        "majority baseline": 1 / (TASKS * INTENTS),
    }
    return {"summary": summary, "runs": runs}


def _tables(config: dict[str, Any], seed: int) -> list[tuple[Path, Path]]:
    """Training and test table of each task, and of all together at the end."""
    import random

    dataset, draw = data.DATASETS["banking77"], random.Random(seed)
    rows = {split: dataset.read(split) for split in ("train", "test")}
    intents = sorted({row["label"] for row in rows["train"]})
    draw.shuffle(intents)
    groups = [intents[i * INTENTS : (i + 1) * INTENTS] for i in range(TASKS)]
    found = []
    for number, group in enumerate([*groups, intents[: TASKS * INTENTS]]):
        paths = []
        for split, count in (("train", config["texts_an_intent"]), ("test", config["test_texts_an_intent"])):
            kept = []
            for intent in group:
                kept += [row for row in rows[split] if row["label"] == intent][:count]
            name = f"continual-{seed}-{number}-{count}-{split}.jsonl"
            paths.append(data.write(SCRATCH / "data" / name, kept))
        found.append((paths[0], paths[1]))
    return found


def _settings(config: dict[str, Any], seed: int) -> dict[str, Any]:
    keys = ("model", "num_epochs", "learning_rate", "batch_size", "max_length")
    return {**{key: config[key] for key in keys}, "seed": seed, "precision": "auto", "dev_fraction": 0.0}


def _joint(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """All tasks at once: the accuracy on all test rows."""
    import weitiao

    train, test = _tables(config, seed)[-1]
    with tempfile.TemporaryDirectory() as folder:
        run = weitiao.finetune(
            str(train),
            test_data=str(test),
            output=Path(folder) / "run",
            show=False,
            **_settings(config, seed),
        )
        return {"final": run.metrics["evaluation"]["test"]["scores"]["accuracy"]}


def _sequence(config: dict[str, Any], method: str, seed: int) -> dict[str, Any]:
    """One task after the other: the mean accuracy over the tasks' test rows after the last, and the ledger."""
    import weitiao
    from weitiao.core.config import build
    from weitiao.core.runs import read_json
    from weitiao.stages import update

    first, *rest = _tables(config, seed)[:-1]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        weitiao.finetune(
            str(first[0]), test_data=str(first[1]), output=run, show=False, **_settings(config, seed)
        )
        rate = config["lora_learning_rate" if method == "orthogonal_lora" else "learning_rate"]
        own = {"memory": config["memory"]} if method == "replay" else {}
        for train, test in rest:
            values = {"run": str(run), "data": str(train), "test_data": str(test), "method": method, "seed": seed,
                      "most_loss": 100, "learning_rate": rate, "num_epochs": config["num_epochs"],
                      "batch_size": config["batch_size"], **own}  # fmt: skip
            list(update.run(build(update.Config, values)))
        ledger = read_json(run / "ledger.json")
    last = list(ledger["times"][-1]["scores"].values())
    return {"final": statistics.mean(last), **ledger}
