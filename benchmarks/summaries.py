"""Titles of Chinese abstracts (CSL) and one line of English papers (SciTLDR): ROUGE against lead-1 and no training."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from benchmarks import data, harness
from benchmarks.harness import Entry

MODEL = "SmolLM2-135M-Instruct"
TEXTS, TEST_TEXTS = 200, 40
FILES = {"csl": ("csl_title_dev", "csl_title_test"), "scitldr": ("scitldr_train", "scitldr_test")}
SCORES = ("rouge_1", "rouge_2", "rouge_l")


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Both data sets, cut to what a small machine trains on in minutes."""
    for name in FILES:
        config = {
            "model": MODEL,
            "data": f"summaries/{FILES[name][0]}, {FILES[name][1]}",
            "texts": options.texts or TEXTS,
            "test_texts": TEST_TEXTS,
            "task": "summarization",
            "tuning": "full",
            "learning_rate": 1e-4,
            "num_epochs": options.epochs or 1,
            "batch_size": 8,
            "max_length": 256,
            "max_new_tokens": 40,
            "precision": "bf16",
            "seed": (options.seeds or [1])[0],
            "compared": "Chinese by characters, English by words; the best of several references",
        }
        yield Entry(
            f"{name}-{config['texts']}-texts", config, lambda name=name, config=config: compare(name, config)
        )


def compare(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """One run; its report has the baselines beside it."""
    from weitiao import api

    folder = harness.SCRATCH / "summaries" / f"{name}-{config['texts']}"
    train, test = (table(file, count, folder.parent) for file, count in zip(
        FILES[name], (config["texts"], config["test_texts"]), strict=True))  # fmt: skip
    keys = ("model", "task", "tuning", "learning_rate", "num_epochs", "batch_size", "max_length", "max_new_tokens",
            "precision", "seed")  # fmt: skip
    settings = {key: config[key] for key in keys} | {
        "dev_fraction": 0.0,
        "test_answers": config["test_texts"],
    }
    run = api.finetune(train, test_data=test, output=folder, overwrite=True, **settings)
    report = run.metrics["evaluation"]["test"]
    summary = {}
    for score in SCORES:
        low, high = report["intervals"][score]
        summary[score] = f"{100 * report['scores'][score]:.1f} ({100 * low:.1f}–{100 * high:.1f})"
        summary[f"{score} lead-1"] = f"{100 * report['baseline']['lead_1'][score]:.1f}"
        summary[f"{score} untrained"] = f"{100 * report['baseline']['untrained'][score]:.1f}"
    summary["training s"] = run.metrics["cost"]["actual_seconds"]
    keep = ("scores", "intervals", "baseline", "rows", "worst_errors")
    return {"summary": summary, "report": {key: report[key] for key in keep}, "cost": run.metrics["cost"]}


def table(file: str, count: int, folder: Any) -> str:
    """The first texts of a file as a table of their own."""
    path = folder / f"{file}-{count}.jsonl"
    rows = [
        json.loads(line)
        for _, line in zip(range(count), data.lines(f"summaries/{file}.jsonl.gz"), strict=False)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [json.dumps({key: row[key] for key in ("text", "summary")}, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(kept) + "\n", "utf-8")
    return str(path)
