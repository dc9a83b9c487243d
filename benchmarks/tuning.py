"""Every tuning method on e5-small with 1,000 texts: score, trained parameters, bytes, seconds, peak memory."""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import data, harness
from benchmarks.harness import Entry

TEXTS, TEST_TEXTS, PILOT_SEED = 1000, 500, 101
EPOCHS = {"banking77": 5, "csl": 3, "cluener": 5}
# Peak rates tried on CSL's pilot texts, the one used first; the new head has a rate of its own for all (LAB_LOG.md).
RATES: dict[str, tuple[float, ...]] = {
    "full": (1e-4, 3e-4),
    "head": (1e-3,),
    "lora": (1.5e-3, 5e-4),
    "dora": (1.5e-3, 5e-4),
    "adalora": (5e-3, 2e-3),
    "adapter": (3e-3, 1e-3),
    "ia3": (5e-3, 1.5e-2),
    "bitfit": (5e-3, 2e-3),
    "prefix": (1e-2, 3e-2),
    "prompt": (1e-2, 3e-2),
    "p_tuning": (5e-3, 2e-2),
}
HEAD_RATE = 5e-3


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Data set x method; before them, the rates tried on other texts, which choose nothing by themselves."""
    for method, rates in RATES.items():
        config = _config("csl", method, options) | {"rates": list(rates), "seeds": [PILOT_SEED]}
        yield Entry(f"rates-{method}", config, lambda config=config: pilot(config))
    for dataset in EPOCHS:
        for method, rates in RATES.items():
            config = _config(dataset, method, options) | {"learning_rate": rates[0]}
            yield Entry(f"{dataset}-{method}", config, lambda config=config: measure(config))


def _config(dataset: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": "multilingual-e5-small",
        "data": dataset,
        "task": data.DATASETS[dataset].task,
        "tuning": method,
        "texts": options.texts or TEXTS,
        "test_texts": TEST_TEXTS,
        "score": data.DATASETS[dataset].score,
        "seeds": options.seeds or [1, 2, 3],
        "num_epochs": 0 if method == "head" else options.epochs or EPOCHS[dataset],
        "head_learning_rate": HEAD_RATE,
        "batch_size": 16,
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "max_length": 128,
        "precision": "auto",
        "threads": 1,
    }


def one(config: dict[str, Any], seed: int, rate: float, tables: tuple[Path, Path]) -> dict[str, Any]:
    """A run in a process of its own, remembered: an interrupted benchmark goes on where it was."""
    keys = ("model", "task", "tuning", "num_epochs", "head_learning_rate", "batch_size", "warmup_ratio",
            "weight_decay", "max_length", "precision", "threads")  # fmt: skip
    settings = {key: config[key] for key in keys}
    settings |= {"data": str(tables[0]), "test_data": str(tables[1]), "seed": seed, "learning_rate": rate}
    name = "-".join(str(part) for part in ("tuning", config["data"], config["tuning"], config["texts"],
                                           config["num_epochs"], rate, seed))  # fmt: skip

    def call() -> dict[str, Any]:
        with harness.sides("weitiao") as (weitiao,):
            return weitiao(costs, settings)

    return harness.remembered(name, call)


def costs(settings: dict[str, Any]) -> dict[str, Any]:
    """Train once. ``memory_bytes``: the most held resident between the first step and the last; without steps, in all."""
    from weitiao.core.config import build
    from weitiao.core.device import forget_peak_memory, peak_memory_bytes
    from weitiao.core.runs import read_json
    from weitiao.stages import finetune as stage

    memory = 0
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        for event in stage.run(build(stage.Config, {**settings, "dev_fraction": 0.0, "output": str(run)})):
            if event.as_json()["event"] == "step":
                if not memory:
                    forget_peak_memory()
                memory = peak_memory_bytes()
        metrics = read_json(run / "metrics.json")
    test = metrics["evaluation"]["test"]
    return {
        "scores": test["scores"],
        "baseline": test["baseline"],
        "trained_parameters": metrics["model"]["trained_parameters"],
        "weights_bytes": metrics["model"]["weights_bytes"],
        "seconds": metrics["cost"]["actual_seconds"],
        "memory_bytes": memory or metrics["cost"]["actual_memory_bytes"],
        "precision": metrics["environment"]["precision"],
    }


def measure(config: dict[str, Any]) -> dict[str, Any]:
    """A method on a data set, with each seed; its texts are another sample each time."""
    score, runs = config["score"], []
    for seed in config["seeds"]:
        tables = data.tables(config["data"], config["texts"], config["test_texts"], seed)
        runs.append(one(config, seed, config["learning_rate"], tables))
    values = [run["scores"][score] for run in runs]
    summary = {
        "score": score,
        "mean ± sd": harness.mean_sd(values),
        "seeds": len(values),
        "majority": runs[0]["baseline"].get(score, 0.0),
        "trained parameters": f"{runs[0]['trained_parameters']:,}",
        "MB on disk": runs[0]["weights_bytes"] / 1e6,
        "seconds": statistics.median(run["seconds"] for run in runs),
        "peak MB": max(run["memory_bytes"] for run in runs) / 1e6,
        "rate": f"{config['learning_rate']:g}",
    }
    return {"summary": summary, "runs": runs}


def pilot(config: dict[str, Any]) -> dict[str, Any]:
    """Each rate once, scored on 500 training texts that the pilot does not train on."""
    rows = data.sample(data.DATASETS[config["data"]].read("train"), config["texts"] + 500, PILOT_SEED)
    folder = harness.SCRATCH / "data"
    name = f"{config['data']}-pilot-{config['texts']}"
    tables = (
        data.write(folder / f"{name}-train.jsonl", rows[: config["texts"]]),
        data.write(folder / f"{name}-dev.jsonl", rows[config["texts"] :]),
    )
    runs = {rate: one(config, PILOT_SEED, rate, tables) for rate in config["rates"]}
    scores = {f"{rate:g}": run["scores"][config["score"]] for rate, run in runs.items()}
    tried = ", ".join(f"{rate}: {100 * score:.1f}" for rate, score in scores.items())
    return {"summary": {"score": config["score"], "rates tried": tried}, "scores": scores}
