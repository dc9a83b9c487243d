"""Going on with masked-LM pretraining on a domain's unlabelled texts: masked accuracy, and fine-tuning with 100 labels."""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import data, harness, ours
from benchmarks.few_shot import interval
from benchmarks.harness import Entry
from benchmarks.language_model import pretrain

CASES = {"sst2": "all-MiniLM-L6-v2", "csl": "multilingual-e5-small"}


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Film reviews in English, abstracts in Chinese; the texts to pretrain on are the training texts without labels."""
    for name, model in CASES.items():
        config = {
            "data": name, "model": model, "unlabelled_texts": options.texts or 3000, "labels": 100,
            "test_texts": 500, "seeds": options.seeds or [1, 2, 3, 4, 5, 6], "steps": options.steps or 200, "context": 128,
            "batch_tokens": 1024, "pretraining_rate": 5e-5, "num_epochs": options.epochs or 8, "learning_rate": 1e-4, "batch_size": 16, "max_length": 128,
        }  # fmt: skip
        yield Entry(name, config, lambda config=config: compare(config, options.again))


def compare(config: dict[str, Any], again: bool = False) -> dict[str, Any]:
    """Pretrain once on texts of which none is tested, then fine-tune with and without it, seed by seed."""
    dataset = data.DATASETS[config["data"]]
    tables = [
        data.tables(config["data"], config["unlabelled_texts"], config["test_texts"], seed)
        for seed in config["seeds"]
    ]
    corpus = harness.SCRATCH / f"domain-{config['data']}" / "texts"
    write_texts([train for train, _ in tables], [test for _, test in tables], corpus)
    if again:
        shutil.rmtree(corpus.parent / "run", ignore_errors=True)
    settings = {
        "data": str(corpus), "objective": "masked_lm", "model": config["model"], "output": str(corpus.parent / "run"),
        "max_steps": config["steps"], "num_epochs": 50, "context": config["context"], "batch_tokens": config["batch_tokens"],
        "learning_rate": config["pretraining_rate"], "held_out": 0.08, "seed": 1, "tokenizer_size": 8000, "threads": 1,
    }  # fmt: skip
    scores: dict[str, list[float]] = {"plain": [], "domain": []}
    with harness.sides("weitiao") as (weitiao,):
        run = weitiao(pretrain, settings)
        for seed, (train, test) in zip(config["seeds"], tables, strict=True):
            few = some(train, config["labels"], seed)
            for side, model in (("plain", config["model"]), ("domain", settings["output"])):
                given = {
                    key: config[key] for key in ("num_epochs", "learning_rate", "batch_size", "max_length")
                }
                done = weitiao(
                    ours.finetune,
                    given
                    | {
                        "data": str(few),
                        "test_data": str(test),
                        "task": dataset.task,
                        "seed": seed,
                        "model": model,
                    },
                )
                scores[side].append(done["scores"][dataset.score])
    masked = [event["scores"]["masked_accuracy"] for event in run["events"] if event["event"] == "evaluation"]
    summary = {
        "masked accuracy, head alone": max(masked[1:2] or masked[:1]), "after": run["scores"]["masked_accuracy"],
        "score": dataset.score, "100 labels": harness.mean_sd(scores["plain"]), "with the domain": harness.mean_sd(scores["domain"]),
        "gain in points, 95 %": interval(scores["domain"], scores["plain"]), "minutes of pretraining": round(run["seconds"] / 60, 1),
    }  # fmt: skip
    return {"summary": summary, "scores": scores, "run": run}


def write_texts(trains: list[Path], tests: list[Path], folder: Path) -> None:
    """The training texts without their labels, less those that any seed tests."""

    def texts(path: Path) -> list[str]:
        rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        return [str(next(value for value in row.values() if isinstance(value, str))) for row in rows]

    tested = {text for path in tests for text in texts(path)}
    kept = dict.fromkeys(text for path in trains for text in texts(path) if text not in tested)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in kept)
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def some(train: Path, count: int, seed: int) -> Path:
    """A table of some of the rows, every label among them."""
    path = train.with_name(f"first-{count}-{seed}-{train.name}")
    rows = [json.loads(line) for line in train.read_text("utf-8").split("\n") if line]
    return data.write(path, data.sample(rows, count, seed))
