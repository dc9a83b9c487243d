"""Texts a second and the latency of one text, from a bundle against transformers.pipeline, on the same weights."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import data, harness
from benchmarks.harness import Entry, as_range, ratio, spread
from weitiao.core import catalogue

# model -> (kind of texts, texts to train on, texts a round, rounds, rows of the certificate)
MODELS = {
    "all-MiniLM-L6-v2": ("long", 2000, 256, 3, 1000),
    "multilingual-e5-small": ("long-bilingual", 1200, 160, 3, 500),
    "bert-base-dims": ("long-bilingual", 400, 64, 3, 150),
}
BATCH = 32
PIPELINE_BATCHES = (1, 8, 32)
ENGINES = ("onnxruntime", "openvino")
CALLS = 60
TOKENS = {"short": 12, "90 tokens": 90}
_OPEN: dict[str, Any] = {}  # in each side's process: what it has opened


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """A trained classifier of each size, at fp32, bf16 and, where bundles of it were made, int8.

    ``MODEL-int8`` is one by ``compress --steps int8``; ``MODEL-all-int8`` has ``--int8-budget 0``: nothing stays in
    floating point, whatever that costs in decisions.
    """
    for model, (kind, texts, measured, rounds, rows) in MODELS.items():
        config = {
            "model": model,
            "texts": kind,
            "training_texts": texts,
            "measured_texts": options.texts or measured,
            "rounds": options.rounds or rounds,
            "certificate_rows": rows,
            "batch": BATCH,
            "pipeline_batches": list(PIPELINE_BATCHES),
            "max_length": 128,
            "pooling": "own",
            "threads": harness.environment()["cores"],
        }
        yield Entry(model, config, lambda config=config: compare(config))


def compare(config: dict[str, Any]) -> dict[str, Any]:
    """Each form and the pipeline in processes of their own, one after the other in each round."""
    run, bundle = made(config)
    usable = [(name, one) for name in ENGINES for one in catalogue.member("engines", name).usable()]
    forms = {f"{engine} {precision}": (bundle, engine, precision) for engine, precision in usable}
    for kind in ("int8", "all int8"):
        small = run.with_name(f"{run.name}-{kind.replace(' ', '-')}")
        if small.exists():
            forms |= {f"{engine} {kind}": (small, engine, "fp32") for engine in ENGINES}
            if ("openvino", "bf16") in usable:  # a processor without bf16 products would only imitate them
                forms[f"openvino {kind}, rest bf16"] = (small, "openvino", "bf16")
    texts = _texts(config)
    certificate = json.loads((bundle / "certificate.json").read_text("utf-8"))
    with harness.sides("pipeline", *forms) as (pipeline, *ours):
        sides: dict[str, Callable[[], Any]] = {
            f"pipeline {size}": lambda size=size: pipeline(pipeline_run, str(run / "model"), texts, size)
            for size in config["pipeline_batches"]
        }
        for call, (name, form) in zip(ours, forms.items(), strict=True):
            sides[name] = lambda call=call, form=form: call(bundle_run, *map(str, form), texts)
        for call in sides.values():
            call()
        found = harness.interleave(sides, config["rounds"])
        one = {length: _pick(texts, run, tokens) for length, tokens in TOKENS.items()}
        calls: dict[str, Callable[[], Any]] = {}
        for length, text in one.items():
            calls[f"pipeline, {length}"] = lambda text=text: pipeline(
                pipeline_latency, str(run / "model"), text
            )
            for call, (name, form) in zip(ours, forms.items(), strict=True):
                calls[f"{name}, {length}"] = lambda call=call, form=form, text=text: call(
                    bundle_latency, *map(str, form), text
                )
        latencies = harness.interleave(calls, 2)
    return summarise(found, latencies, list(forms), config, certificate)


def summarise(
    found: dict[str, list[Any]],
    latencies: dict[str, list[Any]],
    forms: list[str],
    config: dict[str, Any],
    certificate: dict[str, Any],
) -> dict[str, Any]:
    """Medians, ratios of neighbours to the best of the pipeline's batch sizes, decisions, and percentiles."""
    rates = {name: [len(one["labels"]) / one["seconds"] for one in runs] for name, runs in found.items()}
    peers = [name for name in rates if name.startswith("pipeline")]
    best = max(peers, key=lambda name: spread(rates[name])["median"])
    expected = found[f"pipeline {config['batch']}"][0]["labels"]
    same = {
        name: sum(a == b for a, b in zip(found[name][0]["labels"], expected, strict=True)) / len(expected)
        for name in forms
    }
    certified = {entry["name"]: entry["agreement"] for entry in certificate["compared"]}
    ms = {
        name: {
            "p50": 1000 * statistics.median(t for times in runs for t in times),
            "p99": 1000 * sorted(t for times in runs for t in times)[int(0.99 * sum(map(len, runs)))],
        }
        for name, runs in latencies.items()
    }
    summary = {"pipeline texts/s (best batch size)": f"{as_range(spread(rates[best]))} ({best.split()[-1]})"}
    for name in forms:
        summary[name] = f"x {as_range(ratio(rates[name], rates[best]))}, decisions {100 * same[name]:.2f} %"
    for length in TOKENS:
        peer = ms[f"pipeline, {length}"]["p50"]
        cells = [f"pipeline {peer:.1f}"]
        for name in forms:
            mine = ms[f"{name}, {length}"]
            cells.append(f"{name} {mine['p50']:.1f} (x {peer / mine['p50']:.1f}, p99 {mine['p99']:.1f})")
        summary[f"ms, {length}"] = "; ".join(cells)
    return {
        "summary": summary,
        "texts_per_second": rates,
        "milliseconds": ms,
        "decisions_as_pipeline": same,
        "decisions_certified": certified,
        "certificate_rows": certificate["rows"],
        "sample_trained_accuracy": config.get("accuracy"),
    }


# --- what a side's process runs


def bundle_run(folder: str, engine: str, precision: str, texts: list[str]) -> dict[str, Any]:
    """Seconds for all texts, 32 at a time, and their labels."""
    predictor = _bundle(folder, engine, precision)
    start = time.perf_counter()
    answers = [
        answer for at in range(0, len(texts), BATCH) for answer in predictor.predict(texts[at : at + BATCH])
    ]
    return {"seconds": time.perf_counter() - start, "labels": [answer["label"] for answer in answers]}


def pipeline_run(folder: str, texts: list[str], size: int) -> dict[str, Any]:
    """The same through the pipeline, all texts at once in batches of ``size``."""
    pipe = _pipeline(folder)
    start = time.perf_counter()
    answers = pipe(texts, batch_size=size, truncation=True, max_length=128)
    return {"seconds": time.perf_counter() - start, "labels": [answer["label"] for answer in answers]}


def bundle_latency(folder: str, engine: str, precision: str, text: str) -> list[float]:
    """Seconds of one text, many times."""
    predictor = _bundle(folder, engine, precision)
    return _timed(lambda: predictor.predict([text]))


def pipeline_latency(folder: str, text: str) -> list[float]:
    """The same through the pipeline."""
    pipe = _pipeline(folder)
    return _timed(lambda: pipe(text, truncation=True, max_length=128))


def _timed(call: Callable[[], Any]) -> list[float]:
    for _ in range(5):
        call()
    found = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


def _bundle(folder: str, engine: str, precision: str) -> Any:
    from weitiao.runtime import load

    key = f"{folder} {engine} {precision}"
    if key not in _OPEN:
        _OPEN[key] = load(folder, engine=engine, precision=precision)
    return _OPEN[key]


def _pipeline(folder: str) -> Any:
    if folder not in _OPEN:
        from transformers import pipeline

        _OPEN[folder] = pipeline("text-classification", model=folder, device="cpu")
    return _OPEN[folder]


# --- what is measured


def _texts(config: dict[str, Any]) -> list[str]:
    """Held-out texts: from the end of the table whose beginning was trained on."""
    lines = data.speed_table(config["texts"], 4000).read_text("utf-8").split("\n")
    return [json.loads(line)["text"] for line in lines[2000 : 2000 + config["measured_texts"]]]


def _pick(texts: list[str], run: Path, tokens: int) -> str:
    """A text cut to about so many tokens."""
    from weitiao.data.encode import load_tokenizer

    tokenizer = load_tokenizer(run / "model")
    text = next(one for one in texts if len(tokenizer.encode(one).ids) > tokens + 2)
    words = text.split(" ")
    while len(tokenizer.encode(" ".join(words)).ids) > tokens:
        words.pop()
    return " ".join(words)


def made(config: dict[str, Any]) -> tuple[Path, Path]:
    """The classifier's run and its bundle, made once."""
    folder = harness.SCRATCH / "inference"
    run, bundle = folder / config["model"], folder / f"{config['model']}-bundle"
    if not (run / "model").exists():
        if config["model"] == "bert-base-dims":
            widen(made({**config, "model": "multilingual-e5-small"})[0], run)
        else:
            _train(config, run)
    if not bundle.exists():
        from weitiao.cli import main

        table = folder / f"{config['texts']}-test.jsonl"
        command = ["export", str(run), "--output", str(bundle), "--data", str(table)]
        if main([*command, "--rows", str(config["certificate_rows"])]):
            raise SystemExit("the export failed")
    return run, bundle


def _train(config: dict[str, Any], run: Path) -> None:
    import weitiao

    lines = data.speed_table(config["texts"], 4000).read_text("utf-8").strip("\n").split("\n")
    tables = {}
    for split, rows in (("train", lines[: config["training_texts"]]), ("test", lines[2000:])):
        tables[split] = data.write(
            run.parent / f"{config['texts']}-{split}.jsonl", [json.loads(r) for r in rows]
        )
    weitiao.finetune(
        data=tables["train"], test_data=tables["test"], task="text_classification", model=config["model"],
        pooling="own", num_epochs=1, learning_rate=1e-4, batch_size=16, dropout=0.0,
        dev_fraction=0.0, output=run, show=False, overwrite=True,
    )  # fmt: skip


def widen(source: Path, run: Path) -> None:
    """A classifier of BERT-base's size with the decisions of one half as wide: every state stands in it twice.

    Weights are halved where doubled states add up, and queries made up for the longer heads, so that the function stays
    the same; an engine cannot know, and multiplies as for any other weights.
    """
    import torch

    from weitiao.core.runs import atomic_folder, read_json, write_json
    from weitiao.models.backbone import read_tensors

    config = read_json(source / "model" / "config.json")
    tensors = read_tensors(source / "model")
    heads = config["num_attention_heads"]
    wide = {}
    for name, tensor in tensors.items():
        if name.startswith("classifier.bias"):
            wide[name] = tensor
        elif tensor.dim() == 1:
            wide[name] = _doubled(tensor, 0, heads if ".self." in name else 1)
        elif "embeddings." in name:
            wide[name] = _doubled(tensor, 1, 1)
        else:
            from_heads = heads if "attention.output" in name else 1
            to_heads = heads if ".self." in name else 1
            new = _doubled(tensor, 1, from_heads) / 2
            wide[name] = new if name == "classifier.weight" else _doubled(new, 0, to_heads)
        if ".self.query." in name:
            wide[name] = wide[name] / torch.sqrt(torch.tensor(2.0))
    with atomic_folder(run) as new_folder:
        import shutil

        shutil.copytree(source / "model", new_folder / "model")
        shutil.copy(source / "metrics.json", new_folder / "metrics.json")
        config |= {
            "hidden_size": 2 * config["hidden_size"],
            "intermediate_size": 2 * config["intermediate_size"],
        }
        write_json(new_folder / "model" / "config.json", config)
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in wide.items()}, new_folder / "model" / "model.safetensors",
                  metadata={"format": "pt"})  # fmt: skip


def _doubled(tensor: Any, axis: int, heads: int) -> Any:
    """Each head's part of an axis twice in a row; with one head the whole axis."""
    import torch

    parts = torch.chunk(tensor, heads, axis)
    return torch.cat([part for one in parts for part in (one, one)], axis)
