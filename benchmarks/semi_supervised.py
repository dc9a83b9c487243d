"""500 labelled and many unlabelled texts against the same labels alone: pseudo-labels, paired over seeds."""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import data, harness
from benchmarks.few_shot import interval
from benchmarks.harness import Entry

LABELLED, TEST_TEXTS = 500, 500


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Both Chinese data sets; the model is the same, and so are its settings."""
    for name in ("online_shopping", "thucnews"):
        config = {
            "data": name,
            "model": "multilingual-e5-small",
            "tuning": "head",
            "labelled": LABELLED,
            "unlabelled": options.texts or 1000,
            "unlabelled_threshold": 0.95,
            "test_texts": TEST_TEXTS,
            "max_length": 128,
            "threads": 1,
            "seeds": options.seeds or [1, 2, 3],
        }
        yield Entry(name, config, lambda config=config: compare(config, options.again))


def compare(config: dict[str, Any], again: bool = False) -> dict[str, Any]:
    """Each seed draws its own labelled and unlabelled texts; both sides see the same."""
    runs: dict[str, list[dict[str, Any]]] = {"labels alone": [], "with unlabelled": []}
    for seed in config["seeds"]:
        for side, found in runs.items():
            name = f"semi-{config['data']}-{config['tuning']}-{config['unlabelled']}-{side.split()[0]}-{seed}"
            if again:
                harness.forget([name])
            more = side == "with unlabelled"
            found.append(
                harness.remembered(name, lambda more=more, seed=seed: train(config, seed, more))  # type: ignore[misc]
            )
    accuracy = {side: [run["accuracy"] for run in found] for side, found in runs.items()}
    summary = {
        **{f"{side}, %": harness.mean_sd(values) for side, values in accuracy.items()},
        "majority, %": round(100 * runs["labels alone"][0]["majority"], 2),
        "gain, points": interval(accuracy["with unlabelled"], accuracy["labels alone"]),
        "labelled": config["labelled"],
        "unlabelled": config["unlabelled"],
        "tuning": config["tuning"],
        "seeds": len(config["seeds"]),
    }
    return {"summary": summary, "runs": runs}


def train(config: dict[str, Any], seed: int, more: bool) -> dict[str, Any]:
    """One run, with or without the unlabelled texts."""
    import weitiao

    name, labelled = config["data"], config["labelled"]
    rows = data.sample(data.FEW_LABELS[name]("train"), labelled + config["unlabelled"], seed)
    folder = harness.SCRATCH / "data"
    known = data.write(folder / f"{name}-semi-{labelled}-{seed}.jsonl", rows[:labelled])
    texts = [{"text": row["text"]} for row in rows[labelled:]]
    others = data.write(folder / f"{name}-semi-others-{len(texts)}-{seed}.jsonl", texts)
    test = data.sample(data.FEW_LABELS[name]("test"), config["test_texts"], 0, every_label=False)
    settings = {key: config[key] for key in ("model", "tuning", "max_length", "threads")}
    if more:
        settings |= {"unlabelled": str(others), "unlabelled_threshold": config["unlabelled_threshold"]}
    with tempfile.TemporaryDirectory() as scratch:
        run = weitiao.finetune(
            str(known),
            test_data=str(data.write(folder / f"{name}-semi-test-{config['test_texts']}.jsonl", test)),
            dev_fraction=0.0,
            output=Path(scratch) / "run",
            show=False,
            seed=seed,
            **settings,
        )
        report = run.metrics["evaluation"]["test"]
        notes = [event["text"] for event in run.events if event["event"] == "note"]
    return {
        "accuracy": report["scores"]["accuracy"],
        "majority": report["baseline"]["accuracy"],
        "labels given": [note for note in notes if "got a label" in note],
    }
