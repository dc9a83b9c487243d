"""Training speed of a decoder against the Trainer over packed blocks (as run_clm does), equal losses, in one run."""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Entry, as_range, ratio, spread
from benchmarks.ours import WARM_UP, rate

# layers, hidden, heads, feed-forward
DIMENSIONS = {"small": (4, 256, 4, 704), "medium": (8, 512, 8, 1376)}


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Two sizes; each side in fp32 and, where the processor has bf16 products, in bf16 too."""
    from weitiao.core.device import pick_precision

    precisions = sorted({"fp32", pick_precision("auto", "cpu")})
    for size in DIMENSIONS:
        config = {
            "model": size, "dimensions": list(DIMENSIONS[size]), "pieces": 8000, "context": 256, "blocks_a_step": 8,
            "steps": options.steps or 4, "rounds": options.rounds or 3, "learning_rate": 1e-3, "precisions": precisions,
            "attention": ["sdpa", "eager"], "warm_up_steps": WARM_UP, "tokens": "predicted ones; the same blocks in the same order",
        }  # fmt: skip
        yield Entry(size, config, lambda config=config: compare(config))


def compare(config: dict[str, Any]) -> dict[str, Any]:
    """Weitiao and the Trainer with each attention, one after the other in each round; each in every precision."""
    folder = harness.SCRATCH / f"decoder-{config['model']}"
    with harness.sides("weitiao", "trainer") as (weitiao, trainer):
        weitiao(make, str(folder), config)
        calls = {}
        for precision in config["precisions"]:
            how = config | {"precision": precision}
            calls[f"weitiao {precision}"] = lambda how=how: weitiao(ours, str(folder), how)
            for attention in config["attention"]:
                calls[f"{attention} {precision}"] = lambda how=how, attention=attention: trainer(
                    theirs, str(folder), how, attention
                )
        found = harness.interleave(calls, config["rounds"])
    rates = {side: [one["tokens_per_second"] for one in runs] for side, runs in found.items()}
    summary: dict[str, Any] = {}
    peers = [side for side in rates if not side.startswith("weitiao")]
    best = max(peers, key=lambda side: spread(rates[side])["median"])
    summary["Trainer's best, tokens/s"] = f"{as_range(spread(rates[best]))} ({best})"
    for precision in config["precisions"]:
        mine = f"weitiao {precision}"
        same = max(
            (p for p in peers if p.endswith(precision)), key=lambda side: spread(rates[side])["median"]
        )
        apart = max(
            abs(a - b) for one, other in zip(found[mine], found[same], strict=True)
            for a, b in zip(one["losses"], other["losses"], strict=True)
        )  # fmt: skip
        summary |= {
            f"weitiao {precision}, tokens/s": as_range(spread(rates[mine])),
            f"{precision}, x its best": as_range(ratio(rates[mine], rates[best])),
            f"{precision}, x its best in {precision}": as_range(ratio(rates[mine], rates[same])),
            f"{precision}, largest difference of a step's loss": apart,
        }
    return {"summary": summary, "runs": found}


def make(folder: str, config: dict[str, Any]) -> None:
    """The model's folder, the same weights for both."""
    import torch

    from weitiao.models import sizes
    from weitiao.models.decoder import Decoder

    torch.manual_seed(0)
    layers, hidden, heads, inner = config["dimensions"]
    changes = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }
    changes |= {"num_key_value_heads": heads, "head_dim": hidden // heads}
    Path(folder).mkdir(parents=True, exist_ok=True)
    Decoder(sizes.decoder_config("tiny", config["pieces"], config["context"], {}) | changes).save(
        Path(folder)
    )


def blocks(config: dict[str, Any]) -> np.ndarray:
    """Random blocks of one token more than the context: [steps x blocks a step, context + 1]."""
    count = (config["steps"] + WARM_UP) * config["blocks_a_step"]
    # Frequencies as of words, so that there is something to learn.
    weights = 1 / np.arange(10, config["pieces"] + 10)
    random = np.random.default_rng(0)
    return random.choice(config["pieces"], (count, config["context"] + 1), p=weights / weights.sum())


def ours(folder: str, config: dict[str, Any]) -> dict[str, Any]:
    """The loop that ``weitiao pretrain`` runs, over these blocks in their order."""
    from weitiao.core.device import keep_freed_memory
    from weitiao.models.kernels import Dropout
    from weitiao.pretraining._composed import compose
    from weitiao.pretraining.base import Vocabulary
    from weitiao.stages import _language_model
    from weitiao.training.corpus_batches import CorpusBatches
    from weitiao.training.loop import Parts, make_accelerator, train
    from weitiao.training.optimizer import make_optimizer, make_schedule

    keep_freed_memory()
    model = _language_model.existing(Path(folder), "", True, False, None).model
    composed, none = compose("causal_lm", {}), np.zeros(config["pieces"], bool)
    composed.vocabulary = Vocabulary(none, none, none, np.arange(1), 0)
    batches = CorpusBatches(
        _Rows(blocks(config)),
        composed,
        0,
        batch_tokens=config["blocks_a_step"] * config["context"],
        micro_tokens=1 << 20,
    )  # type: ignore[arg-type]
    batches.epoch = lambda number: np.split(np.arange(len(batches.encoded)), batches.steps_per_epoch)  # type: ignore[method-assign]
    total = batches.steps_per_epoch
    parts = Parts(
        model, batches, model.head.loss_sum, make_optimizer(model, config["learning_rate"], 0.0, 1.0, None),  # type: ignore[arg-type]
        make_schedule("constant", total, 0.0), make_accelerator("cpu", config["precision"]), Dropout(0), total,
    )  # fmt: skip
    times, tokens, losses = [], [], []
    for event in train(parts):
        times.append(time.perf_counter())
        tokens.append(event.tokens)
        losses.append(event.loss)
    return rate(times, tokens) | {"losses": losses}


class _Rows:
    """Blocks in memory, as ``CorpusBatches`` reads them."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.size = rows, rows.shape[1] - 1
        self.lengths = np.full(len(rows), self.size)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.rows[row]


def theirs(folder: str, config: dict[str, Any], attention: str) -> dict[str, Any]:
    """The Trainer over the same blocks in the same order; labels are the inputs, which the model shifts."""
    import torch
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    rows = blocks(config)
    data = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in rows]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    times: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            times.append(time.perf_counter())

        def on_log(self, arguments: Any, state: Any, control: Any, logs: Any = None, **named: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    class InOrder(Trainer):
        def _get_train_sampler(self, *arguments: Any) -> Any:
            return SequentialSampler(data)

    with tempfile.TemporaryDirectory() as output:
        settings = TrainingArguments(
            output, per_device_train_batch_size=config["blocks_a_step"], num_train_epochs=1, learning_rate=config["learning_rate"],
            lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, save_strategy="no", report_to=[], logging_steps=1,
            disable_tqdm=True, use_cpu=True, bf16=config["precision"] == "bf16", seed=0, remove_unused_columns=False,
        )  # fmt: skip
        InOrder(model=model, args=settings, train_dataset=data, callbacks=[Clock()]).train()
    return rate(times, [config["blocks_a_step"] * config["context"]] * len(times)) | {"losses": losses}
