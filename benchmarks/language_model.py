"""A causal language model from scratch against Kneser-Ney n-grams on the same text, and the minute at which it crosses."""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.data import SHARED
from benchmarks.harness import Entry
from weitiao.core.runs import read_events, read_json
from weitiao.data import token_stream
from weitiao.data.corpus import Corpus, open_corpus
from weitiao.data.token_stream import Blocks
from weitiao.evaluation._ngram import bits
from weitiao.reporting.page import read_config
from weitiao.stages._language_scores import ngram
from weitiao.stages._pretraining import TRACKED_TOKENS

CHARACTER_ORDERS, TOKEN_ORDERS = 8, 5
FIELDS = ["en", "zh"]


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """One corpus in two languages: the smallest model for minutes, with both optimizers, a larger one for an hour."""
    for model, optimizer, steps, rate, epochs in (
        ("tiny", "adamw", 1400, 6e-3, 1), ("tiny", "muon", 1400, 6e-3, 1), ("small", "muon", 2700, 4e-3, 3),
    ):  # fmt: skip
        config = {
            "data": "corpus", "fields": FIELDS, "objective": "causal_lm", "model": model, "optimizer": optimizer, "tokenizer": "bpe",
            "tokenizer_size": 4096, "context": 256, "batch_tokens": 2048 if model == "tiny" else 8192, "micro_tokens": 4096,
            "num_epochs": epochs, "max_steps": options.steps or steps, "learning_rate": rate, "schedule": "cosine",
            "warmup_ratio": 0.03, "weight_decay": 0.05, "held_out": 0.02, "seed": (options.seeds or [1])[0],
            "evaluate_steps": 50 * epochs, "precision": "auto", "threads": 1,
        }  # fmt: skip
        yield Entry(
            f"zh-en-{model}-{optimizer}", config, lambda config=config: compare(config, options.again)
        )


def compare(config: dict[str, Any], again: bool = False) -> dict[str, Any]:
    """Train the model, count the n-grams over the same documents, compare bits per byte of the same held-out text.

    During training the beginning of the held-out text is scored: the n-gram that has to be passed there is one of tokens.
    """
    folder = harness.SCRATCH / f"language_model-{config['model']}-{config['optimizer']}"
    data = str(SHARED / config["data"])
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    ngrams = harness.remembered(
        "language_model-characters", lambda: over_characters(open_corpus(data, FIELDS), config)
    )
    with harness.sides("weitiao") as (weitiao,):
        trained = weitiao(pretrain, config | {"data": data, "output": str(folder)})
        tokens, level = weitiao(over_tokens, str(folder), trained["pieces"], config["context"])
    events, scores = trained["events"], trained["scores"]
    best = min(ngrams["bits_per_byte"].values())
    five = ngrams["bits_per_byte"]["5"]
    order = min(ngrams["bits_per_byte"], key=ngrams["bits_per_byte"].__getitem__)
    summary = {
        "bits per byte": scores["bits_per_byte"], "5-gram of characters": five, f"best, {order}-gram": best,
        "5-gram of tokens": tokens[str(TOKEN_ORDERS)],
        "minutes": round(trained["seconds"] / 60, 1), "passes the 5-gram of tokens at minute": minute(events, level), "parameters": trained["parameters"],
    }  # fmt: skip
    curve = [[round(at / 60, 2), value] for at, value in curve_of(events)]
    return {
        "summary": summary,
        "characters": ngrams,
        "tokens": tokens,
        "level_of_the_scored_part": level,
        "curve_minutes": curve,
        "run": trained | {"events": []},
    }


def pretrain(settings: dict[str, Any]) -> dict[str, Any]:
    """The run, with the encoded corpus kept for the n-grams of tokens; one that is there with these settings is taken."""
    from weitiao.core.config import build
    from weitiao.stages import pretrain as stage

    folder = Path(settings["output"])
    same = {
        key: value for key, value in settings.items() if key != "precision"
    }  # a run keeps what "auto" was
    if not (folder / "metrics.json").exists() or not same.items() <= read_config(folder).items():
        shutil.rmtree(folder, ignore_errors=True)
        for event in stage.run(build(stage.Config, settings)):
            kind = type(event).__name__
            if kind == "EvaluationEvent":
                print(f"  step {event.step}: {event.scores}", flush=True)
            if kind == "EvaluationEvent" and event.step == 0:
                shutil.copytree(
                    folder / "corpus", folder.with_name(folder.name + "-corpus"), dirs_exist_ok=True
                )
    metrics = read_json(folder / "metrics.json")
    kept = [event for event in read_events(folder) if event["event"] in ("step", "evaluation")]
    return {
        "events": kept, "scores": metrics["evaluation"]["held_out"]["scores"], "seconds": metrics["cost"]["actual_seconds"],
        "intervals": metrics["evaluation"]["held_out"]["intervals"], "parameters": metrics["model"]["parameters"],
        "tokens_per_second": metrics["cost"]["tokens_per_second"], "environment": metrics["environment"],
        "pieces": settings["tokenizer_size"],
    }  # fmt: skip


def curve_of(events: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """(seconds of training, bits per byte of the tracked held-out text) at each evaluation."""
    seconds, found = 0.0, []
    for event in events:
        if event["event"] == "step":
            seconds += event["tokens"] / event["tokens_per_second"]
        else:
            found.append((seconds, event["scores"]["bits_per_byte"]))
    return found


def minute(events: list[dict[str, Any]], level: float) -> Any:
    """The minute of the first evaluation below a level; "never" where there is none."""
    at = next((seconds for seconds, value in curve_of(events) if value < level), None)
    return "never" if at is None else round(at / 60, 1)


def over_characters(corpus: Corpus, config: dict[str, Any]) -> dict[str, Any]:
    """Bits per byte of n-grams of characters, by order; a character that training lacks is one of the symbols."""
    parts = list(corpus.parts(config["held_out"], config["seed"]))
    train, held = (
        "".join(text + "\n" for text, is_held in parts if is_held == wanted) for wanted in (False, True)
    )
    codes = [np.frombuffer(text.encode("utf-32-le"), np.uint32) for text in (train, held)]
    alphabet = np.unique(codes[0])
    rows = [np.searchsorted(alphabet, code) for code in codes]
    known = [np.isin(code, alphabet) for code in codes]
    unknown = len(alphabet)
    rows = [np.where(is_known, row, unknown) for row, is_known in zip(rows, known, strict=True)]
    size = len(held.encode("utf-8"))
    found = {}
    for order, cost in bits(rows[0], rows[1], unknown + 1, CHARACTER_ORDERS):
        found[str(order)] = float(cost.sum() / size)
        print(f"  {order}-gram of characters: {found[str(order)]:.4f} bits per byte", flush=True)
    return {"bits_per_byte": found, "symbols": unknown + 1, "train_symbols": len(rows[0]), "held_bytes": size}


def over_tokens(folder: str, pieces: int, context: int) -> tuple[dict[str, float], float]:
    """The same over the model's own tokens; and of the part that is scored during training."""
    rows, about = token_stream.read(Path(folder + "-corpus"))
    train, held = rows["train"], Blocks(rows["held_out"], context, 1, about["parts"]["held_out"]["bytes"])
    scored = held.first(TRACKED_TOKENS // context)
    found = {str(order): ngram(train, held, scored, pieces, order) for order in range(1, TOKEN_ORDERS + 1)}
    return {order: each["bits_per_byte"] for order, each in found.items()}, found[str(TOKEN_ORDERS)][
        "tracked"
    ]
