"""What compression costs: bytes, speed, accuracy, decisions; each against the trained model it began with."""

import argparse
import csv
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.harness import SCRATCH, Entry
from weitiao.core.events import ResultEvent
from weitiao.core.runs import atomic_file

E5, MINILM = "multilingual-e5-small", "all-MiniLM-L6-v2"
LONGEST = 100  # characters of a review: training on a CPU stays short
# What is trained on each: what two cores with bf16 products train in some minutes.
TRAINED: dict[str, dict[str, Any]] = {
    "sst2": {"model": MINILM, "texts": 4000, "num_epochs": 2, "learning_rate": 5e-5},
    "banking77": {"model": MINILM, "texts": 6000, "num_epochs": 5, "learning_rate": 2e-4},
    "csl": {"model": E5, "texts": 4000, "num_epochs": 4, "learning_rate": 1e-4},
    "cluener": {"model": E5, "texts": 5000, "num_epochs": 6, "learning_rate": 2e-4},
    "shop": {"model": E5, "texts": 3000, "num_epochs": 2, "learning_rate": 5e-5},
}


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """int8 on four test sets; a trimmed vocabulary and int8; four layers of twelve, distilled."""
    for name in ("sst2", "banking77", "csl", "cluener"):
        yield _entry(f"int8-{name}", name, {"steps": "int8"}, options)
    small = {"steps": "vocabulary,int8"}
    yield _entry("e5-small-vocabulary-int8", "shop", small, options)
    layers = {
        "steps": "layers,distillation", "keep_layers": 4, "layer_choice": "even", "distil_epochs": 3.0,
        "distil_learning_rate": 2e-4, "most_texts": 6000,
    }  # fmt: skip
    yield _entry("e5-small-4-layers", "shop", layers, options)


def _entry(name: str, source: str, settings: dict[str, Any], options: argparse.Namespace) -> Entry:
    config = TRAINED[source] | {"data": source, "max_length": 64, **settings}
    config["texts"] = options.texts or config["texts"]
    if options.epochs:
        config["num_epochs"] = options.epochs
    return Entry(name, config, lambda: compare(name, source, config, settings))


def compare(name: str, source: str, config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Train once, compress, and set what it gives beside the start."""
    from weitiao.core.config import build
    from weitiao.stages import compress

    run, corpus = trained(source, config), unlabelled(source, config["texts"])
    values = {"run": str(run), "output": str(SCRATCH / "compressed" / name), "overwrite": True, **settings}
    values |= {"corpus": [str(corpus)], "measure_rows": 10_000}
    *_, last = compress.run(build(compress.Config, values))
    assert isinstance(last, ResultEvent)
    points = last.result["points"]
    start, end = points[0], points[-1]
    summary = {
        "rows": end["rows"],
        "smaller": f"{start['bytes'] / end['bytes']:.1f}x ({start['bytes'] / 1e6:.0f} -> {end['bytes'] / 1e6:.1f} MB)",
        "texts/s": f"{end['texts_per_second'] / start['texts_per_second']:.2f}x",
        "one text": f"{start['latency_ms'] / end['latency_ms']:.2f}x",
        end["monitor"]: f"{100 * start['score']:.2f} -> {100 * end['score']:.2f}",
        "same decisions": f"{100 * end['agreement']:.2f} %",
    }
    return {"summary": summary, "points": points, "recipe": last.result["recipe"]}


def trained(source: str, config: dict[str, Any]) -> Path:
    """The run that is compressed, trained once for its settings."""
    import weitiao

    folder = SCRATCH / "compression" / f"{source}-{config['texts']}-{config.get('num_epochs', 'head')}"
    if not (folder / "metrics.json").exists():
        train, test = tables(source, config["texts"])
        task = data.DATASETS[source].task if source in data.DATASETS else "text_classification"
        how = {key: config[key] for key in TRAINED[source] if key != "texts"}
        weitiao.finetune(
            data=str(train), test_data=str(test), task=task, output=folder, max_length=config["max_length"],
            batch_size=32, dev_fraction=0.0, show=False, overwrite=True, **how,
        )  # fmt: skip
    return folder


def tables(source: str, texts: int) -> tuple[Path, Path]:
    """Training and test table."""
    if source in data.DATASETS:
        return data.tables(source, texts, 0, 0)
    reviews = _reviews()
    folder = SCRATCH / "data"
    return (
        data.write(folder / f"shop-train-{texts}.jsonl", reviews[2000 : 2000 + texts]),
        data.write(folder / "shop-test-2000.jsonl", reviews[:2000]),
    )


def unlabelled(source: str, texts: int) -> Path:
    """Texts that are in neither table: the rest of the training part; for reviews also pages in both languages."""
    path = SCRATCH / "data" / f"{source}-unlabelled-{texts}.txt"
    if path.exists():
        return path
    if source in data.DATASETS:
        train, _ = tables(source, texts)
        used = train.read_text(encoding="utf-8")
        lines = [row["text"] for row in data.DATASETS[source].read("train") if row["text"] not in used]
    else:
        lines = [row["text"] for row in _reviews()[2000 + texts :]]
        lines += [row["text"] for row in data.DATASETS["sst2"].read("train")]
    with atomic_file(path) as file:
        file.writelines(" ".join(line.split()) + "\n" for line in lines)
    return path


def _reviews() -> list[dict[str, Any]]:
    """Short Chinese reviews without duplicates, in a fixed random order."""
    rows = csv.DictReader(data.lines("text/online_shopping_10_cats.csv.gz"))
    names = {"0": "negative", "1": "positive"}
    found = {row["review"].strip("\ufeff "): names[row["label"]] for row in rows}
    reviews = [{"text": t, "label": label} for t, label in found.items() if t and len(t) <= LONGEST]
    return random.Random(0).sample(reviews, len(reviews))
