"""LoRA's speed against peft under the Trainer, with the same targets, in real tokens a second."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import data, harness, ours, peer, speed
from benchmarks.harness import Entry, as_range, ratio, spread

TEXTS, STEPS, ROUNDS, EPOCHS = 1500, 6, 3, 3
# With dynamic padding and grouped by length, both in fp32; and grouped in bf16, where the processor has it.
WAYS = {"dynamic": peer.Way(), "grouped": peer.Way(grouped=True), "best_eager": peer.WAYS["best_eager"]}


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """All layers, or the two at the top: there Weitiao begins at the kept states below them, which peft computes anew."""
    from weitiao.core.device import pick_precision

    precision = pick_precision("auto", "cpu")
    ways = [way for way in WAYS if precision == "bf16" or not WAYS[way].bf16]
    for layers in (0, 2):
        config = {
            "model": "multilingual-e5-small",
            "texts": "long-bilingual",
            "table_texts": options.texts or TEXTS,
            "lora_rank": 8,
            "lora_alpha": 16,
            "lora_targets": "every linear layer",
            "lora_layers": layers,
            "batch_size": 16,
            "steps": options.steps or STEPS,
            "rounds": options.rounds or ROUNDS,
            "warm_up_steps": ours.WARM_UP,
            "max_length": 128,
            "dropout": "the model's own",
            "precision": precision,
            "ways": ways,
            "epochs_that_share_the_kept_states": EPOCHS,
        }
        name = f"top-{layers}" if layers else "all-layers"
        yield Entry(f"{name}-{precision}", config, lambda config=config: compare(config))


def compare(config: dict[str, Any]) -> dict[str, Any]:
    """Weitiao and each way of the Trainer, one after the other in each round."""
    table = data.speed_table(config["texts"], config["table_texts"])
    settings = {
        "data": str(table),
        "test_data": str(speed.few(table)),
        "task": "text_classification",
        "model": str(speed.model_folder(config["model"])),
        "pooling": "mean",
        "batch_size": config["batch_size"],
        "learning_rate": 5e-4,
        "warmup_ratio": 0.1,
        "weight_decay": 0.0,
        "max_length": config["max_length"],
        "dropout": None,
        "steps": config["steps"],
        "seed": 1,
    }
    lora = {key: config[key] for key in ("lora_rank", "lora_alpha", "lora_layers")}
    with harness.sides("weitiao", "peft") as (weitiao, peft):
        mine = {**settings, **lora, "tuning": "lora", "precision": config["precision"]}
        calls = {"weitiao": lambda: weitiao(kept_and_speed, mine)}
        for way in config["ways"]:
            calls[way] = lambda way=way: peft(peft_speed, settings, lora, way)
        runs = harness.interleave({side: told(side, call) for side, call in calls.items()}, config["rounds"])
    rates = {side: [run["tokens_per_second"] for run in found] for side, found in runs.items()}
    best = max(config["ways"], key=lambda way: spread(rates[way])["median"])
    whole = [whole_rate(run, EPOCHS) for run in runs["weitiao"]]
    summary = {"weitiao tokens/s": as_range(spread(rates["weitiao"]))}
    for side, name in (
        (rates["weitiao"], ""),
        *([(whole, ", kept states included")] if lora["lora_layers"] else []),
    ):
        summary |= {f"x {way}{name}": as_range(ratio(side, rates[way])) for way in config["ways"]}
    summary["trained"] = f"{runs['weitiao'][0]['trained']:,} / {runs['dynamic'][0]['trained']:,}"
    return {"summary": summary, "best": best, "runs": runs}


def told(side: str, call: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The call, with a line for each result: a side takes a minute."""

    def run() -> dict[str, Any]:
        start, found = time.perf_counter(), call()
        print(
            f"  {side}: {found['tokens_per_second']:.0f} tokens/s, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        return found

    return run


def whole_rate(run: dict[str, Any], epochs: int) -> float:
    """Tokens a second over some epochs, with the pass that fills the kept states before them."""
    tokens = run["table_tokens"] * epochs
    return tokens / (run["kept_seconds"] + tokens / run["tokens_per_second"])


def kept_and_speed(settings: dict[str, Any]) -> dict[str, Any]:
    """As ``ours.speed``; and what keeping the states below the lowest adapter took."""
    from weitiao.stages import _training
    from weitiao.training.engagement import count_parameters
    from weitiao.training.frozen import FrozenCache

    seen: dict[str, Any] = {"kept_seconds": 0.0}

    class Clocked(FrozenCache):
        def __init__(self, *given: Any) -> None:
            start = time.perf_counter()
            super().__init__(*given)
            seen["kept_seconds"] = time.perf_counter() - start

    class Watched(_training.Training):
        def _parts(self) -> Any:
            seen["trained"] = count_parameters(self.model)[1]
            seen["table_tokens"] = int(self.data.encoded["train"].lengths.sum())
            return super()._parts()

    whole = _training.FrozenCache, _training.Training
    _training.FrozenCache, _training.Training = Clocked, Watched  # type: ignore[misc]
    try:
        return ours.speed(settings) | seen
    finally:
        _training.FrozenCache, _training.Training = whole  # type: ignore[misc]


def peft_speed(settings: dict[str, Any], lora: dict[str, Any], way: str) -> dict[str, Any]:
    """The peer's model with peft's adapters on the same layers, under the Trainer."""
    from peft import LoraConfig, get_peft_model
    from torch import nn

    tables = peer._tables(settings)
    model = peer.make(settings, WAYS[way], tables)
    layers = model.backbone.config.num_hidden_layers
    first = layers - lora["lora_layers"] if lora["lora_layers"] else 0
    config = LoraConfig(
        r=lora["lora_rank"],
        lora_alpha=lora["lora_alpha"],
        target_modules=[
            name
            for name, module in model.backbone.named_modules()
            if isinstance(module, nn.Linear) and int(name.split("layer.")[1].split(".")[0]) >= first
        ],
    )
    bare = model.backbone.config
    model.backbone = get_peft_model(model.backbone, config)
    model.backbone.config = bare
    with tempfile.TemporaryDirectory() as folder:
        times = peer.fit(model, tables.train, settings, WAYS[way], folder)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return ours.rate(times, [int(count) for count in model.tokens]) | {"trained": trained}
