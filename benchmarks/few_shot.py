"""Few labels: contrastive few-shot training against setfit and against a logistic probe, on the same draws.

Times are those of training alone, in seconds of one thread's processor time: what else the machine does hardly counts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import data, harness
from benchmarks.harness import Entry
from weitiao.core.errors import WeitiaoError

SETFIT = "SETFIT_PYTHON"  # names the interpreter that has setfit: its pins are not ours
ENGLISH, CHINESE = "all-MiniLM-L6-v2", "multilingual-e5-small"
# Data, backbone, draws, test texts, and the steps that setfit may take (-1: its default, all of its pairs once).
CASES = (
    ("sst2", ENGLISH, 5, 1000, -1),
    ("online_shopping", CHINESE, 5, 500, -1),
    ("csl", CHINESE, 5, 500, 150),
    ("banking77", ENGLISH, 2, 1000, 300),
    ("clinc150", ENGLISH, 1, 1000, 300),
)


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Each data set with 8 and 16 texts a class."""
    for name, model, draws, test_texts, max_steps in CASES:
        for shots in (8, 16):
            config = {
                "data": name,
                "model": model,
                "shots": shots,
                "draws": options.seeds or list(range(1, draws + 1)),
                "test_texts": test_texts,
                "max_length": 128,
                "threads": 1,
                "setfit_max_steps": max_steps,
            }
            yield Entry(f"{name}-{shots}", config, lambda config=config: compare(config, options.again))


def compare(config: dict[str, Any], again: bool = False) -> dict[str, Any]:
    """The sides one after the other on each draw; finished parts are remembered."""
    sides = {"weitiao": weitiao, "probe": probe, "setfit": setfit}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for seed in config["draws"]:
        for side, call in sides.items():
            name = f"few-{config['data']}-{config['shots']}-{side}-{seed}"
            if again and side != "setfit":  # its runs take the longest and do not change
                harness.forget([name])
            runs[side].append(
                harness.remembered(name, lambda call=call, seed=seed: call(config, seed))  # type: ignore[misc]
            )
    accuracy = {side: [run["accuracy"] for run in found] for side, found in runs.items()}
    seconds = {side: statistics.median(run["cpu_seconds"] for run in found) for side, found in runs.items()}
    majority = runs["weitiao"][0]["majority"]
    summary: dict[str, Any] = {
        **{f"{side}, %": harness.mean_sd(values) for side, values in accuracy.items()},
        "majority, %": round(100 * majority, 2),
        "over setfit": interval(accuracy["weitiao"], accuracy["setfit"]),
        "over the probe": interval(accuracy["weitiao"], accuracy["probe"]),
        "cpu seconds": round(seconds["weitiao"], 2),
        "setfit cpu seconds": round(seconds["setfit"], 1),
        "its time / ours": round(seconds["setfit"] / seconds["weitiao"], 1),
        "setfit steps": runs["setfit"][0]["steps"],
        "draws": len(config["draws"]),
    }
    return {"summary": summary, "runs": runs}


def interval(ours: list[float], theirs: list[float]) -> str:
    """The mean difference over the draws, in points, and its 95 % interval by Student's t."""
    from weitiao.stages._compared import t_interval

    differences = [100 * (a - b) for a, b in zip(ours, theirs, strict=True)]
    found = t_interval(differences)
    mean = statistics.fmean(differences)
    return f"{mean:+.2f}" + (f" ({found[0]:+.2f} … {found[1]:+.2f})" if found else "")


def weitiao(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """``--few-shot contrastive``: the command's training time, reading and writing left out, as of setfit."""
    return _ours(config, seed, "contrastive")


def probe(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """``--few-shot probe``."""
    return _ours(config, seed, "probe")


def _ours(config: dict[str, Any], seed: int, method: str) -> dict[str, Any]:
    import weitiao as package

    train, test = data.shots(config["data"], config["shots"], config["test_texts"], seed)
    with tempfile.TemporaryDirectory() as folder:
        run = package.finetune(
            str(train),
            test_data=str(test),
            task="text_classification",
            few_shot=method,
            output=Path(folder) / "run",
            show=False,
            seed=seed,
            **{key: config[key] for key in ("model", "max_length", "threads")},
        )
        metrics = run.metrics
    report = metrics["evaluation"]["test"]
    return {
        "accuracy": report["scores"]["accuracy"],
        "majority": report["baseline"]["accuracy"],
        "seconds": metrics["cost"]["actual_seconds"],
        "cpu_seconds": metrics["cost"]["actual_cpu_seconds"],
        "precision": metrics["environment"]["precision"],
    }


def setfit(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """setfit with its defaults, in fp32, in a process of its own.

    Raises:
        WeitiaoError: no interpreter with setfit was named, or it failed.
    """
    from weitiao.models.known import resolve_model

    python = os.environ.get(SETFIT)
    if not python:
        raise WeitiaoError(f"Name an interpreter that has setfit in the environment variable {SETFIT}")
    train, test = data.shots(config["data"], config["shots"], config["test_texts"], seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "data": str(train),
            "test_data": str(test),
            "folder": str(resolve_model(config["model"]).path),
            "max_steps": config["setfit_max_steps"],
            "seed": seed,
            "scratch": folder,
            "result": str(Path(folder) / "result.json"),
            **{key: config[key] for key in ("max_length", "threads")},
        }
        script = str(Path(__file__).with_name("setfit_side.py"))
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [python, script],
            input=json.dumps(settings),
            text=True,
            env=environment | {"OMP_NUM_THREADS": str(config["threads"]), "HF_HUB_OFFLINE": "1"},
            stdout=sys.stderr,
        )
        if done.returncode:
            raise WeitiaoError(f"setfit ended with exit code {done.returncode}")
        return json.loads(Path(settings["result"]).read_text("utf-8"))
