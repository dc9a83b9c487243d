"""Does a finance lexicon help? Titles of news with the lexicon's words written before them, and without."""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import data, harness
from benchmarks.harness import Entry

LEXICON = "lexicons/THUOCL_caijing.txt"


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Few and more labelled titles of ten topics, two of which are finance and stocks."""
    for texts in (100, 400):
        config = {
            "model": "multilingual-e5-small",
            "data": "thucnews titles",
            "lexicon": LEXICON,
            "texts": options.texts or texts,
            "test_texts": 500,
            "seeds": options.seeds or [1, 2, 3],
            "num_epochs": options.epochs or 5,
            "learning_rate": 2e-4,
            "head_learning_rate": 5e-3,
            "max_length": 64,
            "precision": "auto",
            "threads": 1,
        }
        yield Entry(f"thucnews-{config['texts']}", config, lambda config=config: measure(config))


def one(config: dict[str, Any], seed: int, known: bool) -> dict[str, Any]:
    """A run with or without the lexicon, remembered."""

    def call() -> dict[str, Any]:
        with harness.sides("weitiao") as (weitiao,):
            return weitiao(scores, config, seed, known)

    return harness.remembered(f"knowledge-{config['texts']}-{config['num_epochs']}-{known}-{seed}", call)


def scores(config: dict[str, Any], seed: int, known: bool) -> dict[str, Any]:
    """Accuracy over all topics, and over the titles in which the lexicon knows a word."""
    import weitiao
    from weitiao.data.knowledge import read_knowledge

    source = (data.SHARED / LEXICON).read_text("utf-8").splitlines()
    lexicon = "".join(f"{line.split()[0]},财经\n" for line in source if line.split())
    knowledge = read_knowledge(lexicon, "")
    rows = {split: data.FEW_LABELS["thucnews"](split) for split in ("train", "test")}
    train = data.sample(rows["train"], config["texts"], seed)
    test = data.sample(rows["test"], config["test_texts"], 0)
    settings = harness.training_settings(config) | {"seed": seed, "dev_fraction": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lexicon.csv"
        path.write_text(lexicon, "utf-8")
        run = weitiao.finetune(train, test_data=test, output=Path(folder) / "run", show=False,
                               **settings, **({"lexicon": str(path)} if known else {}))  # fmt: skip
        seconds = run.metrics["cost"]["actual_seconds"]
        answers = run.predict([row["text"] for row in test])
    right = [answer["label"] == row["label"] for answer, row in zip(answers, test, strict=True)]
    found = [any(knowledge.mentions(row["text"])) for row in test]
    labels = [row["label"] for row in test]
    return {
        "accuracy": statistics.mean(right),
        "accuracy with words found": statistics.mean(r for r, f in zip(right, found, strict=True) if f),
        "share with words found": statistics.mean(found),
        "majority": max(map(labels.count, set(labels))) / len(labels),
        "seconds": seconds,
    }


def measure(config: dict[str, Any]) -> dict[str, Any]:
    """Pairs of runs on the same texts."""
    runs = {known: [one(config, seed, known) for seed in config["seeds"]] for known in (False, True)}
    pairs = list(zip(runs[True], runs[False], strict=True))
    summary = {
        "without": harness.mean_sd([run["accuracy"] for run in runs[False]]),
        "with": harness.mean_sd([run["accuracy"] for run in runs[True]]),
        "gain": harness.mean_sd([a["accuracy"] - b["accuracy"] for a, b in pairs]),
        "gain where words are found": harness.mean_sd(
            [a["accuracy with words found"] - b["accuracy with words found"] for a, b in pairs]
        ),
        "share with words found": runs[True][0]["share with words found"],
        "majority": runs[True][0]["majority"],
        "seeds": len(pairs),
    }
    return {"summary": summary, "runs": {str(known): found for known, found in runs.items()}}
