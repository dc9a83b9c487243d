"""What adversarial training buys: clean accuracy, accuracy under perturbed texts, and cost in time."""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import data, harness
from benchmarks.harness import Entry

TEXTS, TEST_TEXTS = 800, 300
# data set -> model, epochs, learning rate, and the perturbations of an attack: those that its script knows
CASES = {
    "csl": ("multilingual-e5-small", 3, 2e-4, ("homophone", "look_alike", "typo")),
    "sst2": ("all-MiniLM-L6-v2", 3, 1e-4, ("typo",)),
}
OBJECTIVES = ("none", "fgm", "pgd", "freelb", "smart", "r_drop", "fgm+r_drop", "augment")
DRAWS, RATE = 6, 0.15


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Data set x what is added to cross-entropy; ``augment`` adds one rewritten copy of each text instead."""
    for name, (model, epochs, rate, attacks) in CASES.items():
        for added in OBJECTIVES:
            config = {
                "model": model,
                "data": name,
                "added": added,
                "texts": options.texts or TEXTS,
                "test_texts": TEST_TEXTS,
                "seeds": options.seeds or [1, 2, 3],
                "num_epochs": options.epochs or epochs,
                "learning_rate": rate,
                "head_learning_rate": 5e-3,
                "max_length": 128,
                "precision": "auto",
                "threads": 1,
                "attack": f"a text is right only if it and its {DRAWS} perturbed forms are",
                "perturbations": list(attacks),
                "share_of_words": RATE,
            }
            yield Entry(f"{name}-{added}", config, lambda config=config: measure(config))


def attacked(texts: Sequence[str], attacks: Sequence[str]) -> list[list[str]]:
    """``DRAWS`` perturbed forms of each text, the same for every method: the perturbations take turns."""
    from weitiao.core.config import make_member

    members = [make_member("augmentation", name, {}) for name in attacks]
    for member in members:
        member.rate = RATE
        member.prepare()
    random = Random(0)
    return [[members[i % len(members)].apply(text, [], random)[0] for i in range(DRAWS)] for text in texts]


def one(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """A run and its accuracies, remembered."""
    keys = ("adversarial", config["data"], config["added"], config["texts"], config["num_epochs"], seed)

    def call() -> dict[str, Any]:
        with harness.sides("weitiao") as (weitiao,):
            return weitiao(accuracies, config, seed)

    return harness.remembered("-".join(map(str, keys)), call)


def accuracies(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train, then answer the test texts as they are and perturbed."""
    import weitiao

    train, test = data.tables(config["data"], config["texts"], config["test_texts"], seed)
    settings = harness.training_settings(config) | {"seed": seed, "dev_fraction": 0.0}
    if config["added"] == "augment":
        settings |= {"augment": ",".join(config["perturbations"]), "augment_rate": RATE}
    else:
        settings["objective"] = "cross_entropy" + ("" if config["added"] == "none" else f"+{config['added']}")
    rows = [json.loads(line) for line in test.read_text("utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        run = weitiao.finetune(train, test_data=test, output=Path(folder) / "run", show=False, **settings)
        seconds = run.metrics["cost"]["actual_seconds"]
        texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
        forms = attacked(texts, config["perturbations"])
        flat = [form for text, others in zip(texts, forms, strict=True) for form in (text, *others)]
        answers = [answer["label"] for answer in run.predict(flat)]
    each = DRAWS + 1
    right = [
        [answer == label for answer in answers[i * each : (i + 1) * each]] for i, label in enumerate(labels)
    ]
    return {
        "clean": statistics.mean(one[0] for one in right),
        "perturbed": statistics.mean(statistics.mean(one[1:]) for one in right),
        "attacked": statistics.mean(all(one) for one in right),
        "majority": max(labels.count(label) for label in set(labels)) / len(labels),
        "seconds": seconds,
    }


def measure(config: dict[str, Any]) -> dict[str, Any]:
    """A method over the seeds, beside plain cross-entropy with the same seeds."""
    runs = [one(config, seed) for seed in config["seeds"]]
    plain = [one({**config, "added": "none"}, seed) for seed in config["seeds"]]

    def gain(what: str) -> str:
        return harness.mean_sd([a[what] - b[what] for a, b in zip(runs, plain, strict=True)])

    summary = {
        kind: harness.mean_sd([run[kind] for run in runs]) for kind in ("clean", "attacked", "perturbed")
    }
    summary |= {
        "clean against none": gain("clean"),
        "attacked against none": gain("attacked"),
        "time against none": statistics.median(
            a["seconds"] / b["seconds"] for a, b in zip(runs, plain, strict=True)
        ),
        "majority": runs[0]["majority"],
        "seeds": len(runs),
    }
    return {"summary": summary, "runs": runs}
