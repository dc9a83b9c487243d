"""The peer: Hugging Face's Trainer at its honest best, over a module that computes Weitiao's function.

Same weights and token ids (``tests/test_benchmarks.py`` holds both), same pooling, head and its random start,
same AdamW, schedule, clipping and dropout. Logging, saving and evaluation are off while the clock runs.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.ours import WARM_UP, rate
from weitiao.data.encode import Encoded, Ragged, load_tokenizer


@dataclass(frozen=True)
class Way:
    """How the Trainer is set: pad to the batch's longest text or to ``max_length``; group by length; bf16."""

    padding: str = "longest"
    grouped: bool = False
    bf16: bool = False
    attention: str = "sdpa"


# Which of the two best ways is faster is measured; it depends on the model and the texts.
WAYS = {
    "dynamic": Way(),
    "best": Way(grouped=True, bf16=True),
    "best_eager": Way(grouped=True, bf16=True, attention="eager"),
    "max_length": Way(padding="max_length"),
}


class Peer(nn.Module):
    """AutoModel, pooling, dropout, a linear layer, and the loss.

    Args:
        head: ``pooled`` (an answer a text), ``token`` (one a token) or ``marker`` (one from two marked tokens).
        dropout: None for the model's own.
    """

    def __init__(
        self,
        folder: Path,
        head: str,
        outputs: int,
        pooling: str = "mean",
        dropout: float | None = None,
        way: Way = WAYS["dynamic"],
    ) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__()
        config = AutoConfig.from_pretrained(folder)
        if dropout is not None:
            config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
        self.backbone = AutoModel.from_pretrained(
            folder,
            config=config,
            attn_implementation=way.attention,
            add_pooling_layer=False,
            dtype=torch.float32,
        )
        self.kind, self.pooling = head, pooling
        self.dropout = nn.Dropout(0.1 if dropout is None else dropout)
        self.linear = nn.Linear(config.hidden_size * (2 if head == "marker" else 1), outputs)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        self.tokens: list[Tensor] = []
        self.losses: list[Tensor] = []

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        marks: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        kinds = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden_BLD = self.backbone(input_ids, attention_mask=attention_mask, **kinds).last_hidden_state
        logits = self.linear(self.dropout(self._features(hidden_BLD, attention_mask, marks)))
        if labels is None:
            return {"logits": logits}
        if labels.is_floating_point():
            loss = F.mse_loss(logits.squeeze(-1).float(), labels)
        else:
            loss = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=-100)
        if self.training:
            self.tokens.append(attention_mask.sum())
            self.losses.append(loss.detach())
        return {"loss": loss, "logits": logits}

    def _features(self, hidden_BLD: Tensor, mask_BL: Tensor, marks_B2: Tensor | None) -> Tensor:
        if self.kind == "token":
            return hidden_BLD
        if self.kind == "marker":
            assert marks_B2 is not None
            return hidden_BLD[torch.arange(len(marks_B2)).unsqueeze(1), marks_B2].flatten(1)
        if self.pooling == "cls":
            return hidden_BLD[:, 0]
        mask = mask_BL.unsqueeze(-1).to(hidden_BLD.dtype)
        return (hidden_BLD * mask).sum(1) / mask.sum(1)


@dataclass(frozen=True)
class Tables:
    """The training and test tables as a task encodes them, with what is needed to score."""

    task: Any
    answers: Any
    folder: Path
    train: Encoded
    test: Encoded
    test_records: Any


@lru_cache(2)
def read_tables(data: str, test_data: str, task: str, model: str, max_length: int) -> Tables:
    """Read and encode two tables as Weitiao does, so that both sides see the same ids and targets."""
    from weitiao.core.config import make_member
    from weitiao.models.known import resolve_model
    from weitiao.stages._prepare import read

    member = make_member("tasks", task, {})
    records = {
        name: read(member, path, {}, False)[0] for name, path in (("train", data), ("test", test_data))
    }
    labels = records["train"][member.label_key]
    answers = member.learn({member.label_key: labels})
    folder = resolve_model(model).path
    tokenizer = load_tokenizer(folder)
    encoded = {name: member.encode(part, tokenizer, max_length, answers) for name, part in records.items()}
    return Tables(member, answers, folder, encoded["train"], encoded["test"], records["test"])


def rows_of(encoded: Encoded) -> list[dict[str, Any]]:
    """An encoded table as the Trainer's data set: a list of dicts."""
    rows = []
    for i in range(len(encoded)):
        row: dict[str, Any] = {"input_ids": encoded.ids[i].tolist()}
        if encoded.types is not None:
            row["token_type_ids"] = encoded.types[i].tolist()
        if encoded.marks is not None:
            row["marks"] = encoded.marks[i].tolist()
        if encoded.targets is not None:
            target = encoded.targets[i]
            row["labels"] = target.tolist() if isinstance(encoded.targets, Ragged) else target.item()
        rows.append(row)
    return rows


class Collator:
    """Pads a batch to its longest text, or to ``max_length``."""

    def __init__(self, pad: int, padding: str, max_length: int) -> None:
        self.pad, self.padding, self.max_length = pad, padding, max_length

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        lengths = [len(row["input_ids"]) for row in rows]
        width = self.max_length if self.padding == "max_length" else max(lengths)
        batch = {"attention_mask": torch.tensor([[1] * n + [0] * (width - n) for n in lengths])}
        for key, fill in (("input_ids", self.pad), ("token_type_ids", 0), ("marks", 0), ("labels", -100)):
            if key in rows[0]:
                values = [row[key] for row in rows]
                if isinstance(values[0], list) and key != "marks":
                    values = [value + [fill] * (width - len(value)) for value in values]
                batch[key] = torch.tensor(values)
        return batch


def fit(peer: Peer, encoded: Encoded, settings: dict[str, Any], way: Way, output: str) -> list[float]:
    """Train with the Trainer; returns the time at the end of each step.

    Args:
        settings: as of ``weitiao finetune``; with ``steps``, only so many of a whole epoch's batches.
    """
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    rows, size, steps = rows_of(encoded), settings["batch_size"], settings.get("steps", 0)
    strategy = "group_by_length" if way.grouped else "random"
    if steps:
        rows, strategy = (
            some_batches(rows, size, steps + WARM_UP, way.grouped, settings["seed"]),
            "sequential",
        )
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    arguments = TrainingArguments(
        output_dir=output,
        per_device_train_batch_size=size,
        num_train_epochs=settings.get("num_epochs", 1),
        learning_rate=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        warmup_steps=settings["warmup_ratio"],
        lr_scheduler_type="linear",
        seed=settings["seed"],
        bf16=way.bf16,
        use_cpu=True,
        train_sampling_strategy=strategy,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    collator = Collator(peer.backbone.config.pad_token_id or 0, way.padding, settings["max_length"])
    trainer = Trainer(peer, arguments, train_dataset=rows, data_collator=collator, callbacks=[Clock()])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return times


def some_batches(
    rows: list[dict[str, Any]], size: int, batches: int, grouped: bool, seed: int
) -> list[dict[str, Any]]:
    """Some of the batches of a whole epoch, drawn at random, one after the other.

    Grouping sorts 50 batches at a time: on a table of just a few batches it would hardly group, and the first
    batches of a long table are its longest.
    """
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator = torch.Generator().manual_seed(seed)
    if grouped:
        order = get_length_grouped_indices([len(row["input_ids"]) for row in rows], size, generator=generator)
    else:
        order = torch.randperm(len(rows), generator=generator).tolist()
    whole = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    chosen = torch.randperm(len(whole), generator=generator)[:batches].tolist()
    return [rows[i] for batch in chosen for i in whole[batch]]


def make(settings: dict[str, Any], way: Way, tables: Tables) -> Peer:
    """The peer's model, with the head's random start drawn from the seed."""
    from transformers import set_seed
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    set_seed(settings["seed"])
    kind = tables.task.head(tables.answers, settings["pooling"])
    return Peer(tables.folder, kind["type"], kind["outputs"], settings["pooling"], settings["dropout"], way)


def _tables(settings: dict[str, Any]) -> Tables:
    return read_tables(*(settings[key] for key in ("data", "test_data", "task", "model", "max_length")))


def speed(settings: dict[str, Any], way: str) -> dict[str, float]:
    """Train for some steps; as ``ours.speed``."""
    tables = _tables(settings)
    peer = make(settings, WAYS[way], tables)
    with tempfile.TemporaryDirectory() as folder:
        times = fit(peer, tables.train, settings, WAYS[way], folder)
    return rate(times, [int(count) for count in peer.tokens])


def finetune(settings: dict[str, Any], way: str) -> dict[str, Any]:
    """A whole run, scored by the evaluation member of the task: as ``ours.finetune``."""
    from weitiao.core.catalogue import member

    tables = _tables(settings)
    peer = make(settings, WAYS[way], tables)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fit(peer, tables.train, settings, WAYS[way], folder)
    seconds = time.perf_counter() - start
    outputs = outputs_of(peer, tables.test)
    predictions = tables.task.predictions(outputs, tables.test, tables.test_records, tables.answers)
    scores = member("evaluation", tables.task.evaluation(tables.answers))().scores(predictions)
    losses = [float(loss) for loss in peer.losses]
    return {
        "scores": scores,
        "losses": losses,
        "seconds": seconds,
        "precision": "bf16" if WAYS[way].bf16 else "fp32",
    }


@torch.inference_mode()
def outputs_of(peer: Peer, encoded: Encoded, size: int = 32) -> list[np.ndarray]:
    """Logits of each text in fp32: ``[C]``, or ``[tokens, C]`` where each token has an answer."""
    peer.eval()
    rows, collate = rows_of(encoded), Collator(peer.backbone.config.pad_token_id or 0, "longest", 0)
    order = np.argsort([len(row["input_ids"]) for row in rows], kind="stable")
    found: list[np.ndarray] = [np.empty(0)] * len(rows)
    for start in range(0, len(rows), size):
        chosen = order[start : start + size]
        batch = collate([rows[i] for i in chosen])
        batch.pop("labels", None)
        logits = peer(**batch)["logits"].float().numpy()
        for i, row in zip(chosen, logits, strict=True):
            found[i] = row[: len(rows[i]["input_ids"])] if peer.kind == "token" else row
    return found
