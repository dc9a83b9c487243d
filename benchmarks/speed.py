"""Fine-tuning speed against the Trainer, in real tokens a second, and the share of the GEMM rate used."""

import argparse
import json
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import data, harness, ours, peer
from benchmarks.harness import Entry, as_range, ratio, spread

# Enough that grouping by length works as it does on a real table (it sorts 50 batches of 16 at a time).
TEXTS = 4000
# model -> (steps a round, rounds); bounded to about a quarter of an hour on two quiet cores.
SIZES = {"all-MiniLM-L6-v2": (12, 3), "multilingual-e5-small": (8, 3), "bert-base-dims": (8, 3)}
KINDS = {"long": ("dynamic", "best", "best_eager"), "short": ("max_length", "dynamic", "best")}


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Model x texts x pooling x dropout. Where a head reads one token a text (``cls``), Weitiao's last layer does less."""
    for model, (steps, rounds) in SIZES.items():
        for kind, ways in KINDS.items():
            if model == "bert-base-dims" and kind == "short":
                continue
            poolings = ("mean",) if kind == "short" or model == "multilingual-e5-small" else ("mean", "cls")
            for pooling, dropout in product(poolings, (None, 0.0)):
                config = {
                    "model": model,
                    "texts": kind,
                    "ways": list(ways),
                    "pooling": pooling,
                    "dropout": dropout,
                    "batch_size": 16,
                    "steps": options.steps or steps,
                    "rounds": options.rounds or rounds,
                    "table_texts": options.texts or TEXTS,
                    "max_length": 128,
                    "warm_up_steps": ours.WARM_UP,
                    "precision": "bf16",
                    "useful_flops": "6 x parameters of the layers (no embeddings, no head) x real tokens; cls pooling: "
                    "of the last layer just query, key and value",
                }
                name = f"{model}-{kind}-dropout-{'on' if dropout is None else 'off'}"
                name += "-cls" if pooling == "cls" else ""
                yield Entry(name, config, lambda config=config: compare(config))


def compare(config: dict[str, Any]) -> dict[str, Any]:
    """Weitiao and each way of the Trainer, one after the other in each round."""
    kind = (
        "long-bilingual"
        if (config["model"], config["texts"]) == ("multilingual-e5-small", "long")
        else config["texts"]
    )
    table = data.speed_table(kind, config["table_texts"])
    folder = model_folder(config["model"])
    settings = {
        "data": str(table),
        "test_data": str(few(table)),
        "task": "text_classification",
        "model": str(folder),
        "pooling": config["pooling"],
        "batch_size": config["batch_size"],
        "learning_rate": 5e-5,
        "warmup_ratio": 0.1,
        "weight_decay": 0.0,
        "max_length": config["max_length"],
        "dropout": config["dropout"],
        "steps": config["steps"],
        "seed": 1,
    }
    size = json.loads((folder / "config.json").read_text("utf-8"))
    with harness.sides("weitiao", "trainer") as (weitiao, trainer):
        calls = {"gemm": lambda: weitiao(ours.gemm, size)}
        calls["weitiao"] = lambda: weitiao(ours.speed, {**settings, "precision": config["precision"]})
        for way in config["ways"]:
            calls[way] = lambda way=way: trainer(peer.speed, settings, way)
        found = harness.interleave(calls, config["rounds"])
    gemm = found.pop("gemm")
    return summarise(
        {side: [one["tokens_per_second"] for one in runs] for side, runs in found.items()},
        gemm,
        layer_parameters(size, config["pooling"]),
        found,
    )


def summarise(
    rates: dict[str, list[float]], gemm: list[float], parameters: int, runs: dict[str, Any]
) -> dict[str, Any]:
    """Medians, ratios of neighbours, and useful FLOPs over the GEMM rate of the same round."""
    best = [way for way in ("best", "best_eager") if way in rates]
    if len(best) == 2:  # the faster of the two attentions is the honest best
        slower = min(best, key=lambda way: spread(rates[way])["median"])
        attention = {"best": "sdpa", "best_eager": "eager"}[next(way for way in best if way != slower)]
        rates = {("best" if way in best else way): rate for way, rate in rates.items() if way != slower}
    else:
        attention = "sdpa"
    mine = rates["weitiao"]
    fraction = [6 * parameters * rate / flops for rate, flops in zip(mine, gemm, strict=True)]
    against = {way: ratio(mine, rate) for way, rate in rates.items() if way != "weitiao"}
    summary = {"weitiao tokens/s": as_range(spread(mine))}
    summary |= {f"x {way}": as_range(value) for way, value in against.items()}
    summary |= {"best attention": attention, "of the bf16 GEMM rate": as_range(spread(fraction))}
    return {
        "summary": summary,
        "against": against,
        "gemm_flops_per_second": gemm,
        "gemm_fraction": fraction,
        "runs": runs,
    }


def layer_parameters(size: dict[str, Any], pooling: str = "mean") -> int:
    """The parameters of a BERT's layers: 4 D^2 + 2 D F weights, their biases, and two norms.

    With ``cls`` pooling, those of the last layer that every token meets: query, key and value.
    """
    width, inner = size["hidden_size"], size["intermediate_size"]
    layer = 4 * width * width + 2 * width * inner + 9 * width + inner
    last = 3 * width * (width + 1) if pooling == "cls" else layer
    return (size["num_hidden_layers"] - 1) * layer + last


def few(table: Path) -> Path:
    """A test table of some training rows: it must be given, and is not read in the measured part."""
    path = table.with_name("few-" + table.name)
    if not path.exists():
        data.write(path, [json.loads(line) for line in table.read_text("utf-8").split("\n")[:16]])
    return path


def model_folder(name: str) -> Path:
    """A model's folder. ``bert-base-dims``: random weights of BERT-base's size, MiniLM's tokenizer."""
    from weitiao.models.known import resolve_model

    if name != "bert-base-dims":
        return resolve_model(name).path
    folder = harness.SCRATCH / name
    if not (folder / "config.json").exists():
        import torch
        from transformers import BertConfig, BertModel

        from weitiao.core.runs import atomic_folder

        torch.manual_seed(0)
        source = resolve_model("all-MiniLM-L6-v2").path
        with atomic_folder(folder) as new:
            BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(new)
            for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
                shutil.copy(source / file, new / file)
    return folder
