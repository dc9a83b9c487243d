"""The rungs of a climb: which runs, with which settings, in which order; and how one is done."""

import importlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.config import build
from weitiao.core.errors import Interrupted
from weitiao.core.events import Event, NoteEvent, ProgressEvent, StepEvent
from weitiao.core.messages import say
from weitiao.stages._climb_data import DATA

if TYPE_CHECKING:
    from weitiao.stages.climb import Config

Settings = dict[str, Any]
QUESTIONS = ("name", "name_zh", "even")  # about pictures of digits
TITLES = {
    "cnn": ("a convolutional network", "卷积网络"),
    "causal": ("the next token (a decoder)", "猜下一个词元（解码器）"),
    "masked": ("hidden words (an encoder)", "猜被遮住的词（编码器）"),
    "untrained": ("the encoder after a single step", "只训练一步的编码器"),
    "without": ("without pretraining", "没有预训练"),
    "own": ("with our pretraining", "用自己的预训练"),
    "known": ("with a large pretraining", "用大规模预训练"),
    "lora": ("LoRA", "LoRA"),
    "head": ("the last layer alone", "只训练最后一层"),
    "reader": ("a bridge into our decoder", "通向自己的解码器的桥"),
    "chat": ("our decoder learns to answer", "自己的解码器学习回答"),
}


@dataclass(frozen=True)
class Step:
    """One run: of which stage, with which settings, and what people call it (English, Chinese)."""

    folder: Path
    stage: str
    title: tuple[str, str]
    values: Settings


@dataclass(frozen=True)
class Rung:
    """What is learnt at once; its name is that of its words and formulas on the page."""

    name: str
    steps: tuple[Step, ...]


def plan(config: "Config", folder: Path) -> list[Rung]:
    """All rungs, in order. A later one names folders that an earlier one makes."""
    quick, data = config.quick, folder / DATA
    sees, writes, reads, untrained = (
        str(folder / place)
        for place in (
            "1-mnist/cnn", "2-pretraining/causal", "2-pretraining/masked", "2-pretraining/untrained",
        )
    )  # fmt: skip
    texts: Settings = {"data": str(data / "texts"), "max_length": 48}
    # So few steps that a new head has to go ahead: at one rate for all, 300 texts end at the majority answer.
    texts["head_learning_rate"] = 5e-3
    own = texts | {"num_epochs": 8, "learning_rate": 1e-3}
    known = texts | {"model": config.model, "num_epochs": 5 if quick else 3}
    full = known | {"learning_rate": 2e-4 if quick else 1e-4}
    lora = known | {"tuning": "lora", "learning_rate": 1.5e-3}
    rungs: list[tuple[str, dict[str, Settings]]] = [
        ("mnist", {"cnn": {
            "task": "image_classification", "data": str(data / "pictures"), "preset": "quick",
            "num_epochs": 3 if quick else 5,
        }}),
        ("pretraining", _pretraining(config, data)),
        ("finetuning", {"without": own | {"model": untrained}, "own": own | {"model": reads}, "known": full}),
        ("efficient", {"lora": lora, "head": known | {"tuning": "head", "num_epochs": 0}}),
        ("bridge", {"reader": {
            "task": "image_to_text", "data": str(data / "pictures"), "vision": sees, "model": writes,
            "tuning": "bridge",
            "questions": ",".join(QUESTIONS), "num_epochs": 3,
        }}),
        ("generation", {"chat": {
            "task": "chat", "data": str(data / "dialogues"), "model": writes, "learning_rate": 1e-3, "max_length": 96,
            "num_epochs": 6 if quick else 8, "max_new_tokens": 12,
        }}),
    ]  # fmt: skip
    return [
        _rung(f"{number}-{name}", name, runs, config, folder) for number, (name, runs) in enumerate(rungs, 1)
    ]


def _pretraining(config: "Config", data: Path) -> dict[str, Settings]:
    """Two models from scratch, and one that is stopped at once: what fine-tuning is worth without pretraining."""
    quick = config.quick
    always: Settings = {
        "data": config.corpus or str(data / "corpus"), "model": "tiny" if quick else "small",
        "tokenizer_size": 4000 if quick else 8000, "batch_tokens": 2048, "num_epochs": 4 if quick else 12,
        "max_steps": 200 if quick else 1500, "held_out": 0.05,
    }  # fmt: skip
    masked = always | {"objective": "masked_lm"}
    untrained = masked | {"max_steps": 1, "learning_rate": 1e-5}
    return {"causal": always | {"objective": "causal_lm"}, "masked": masked, "untrained": untrained}


def _rung(place: str, name: str, runs: dict[str, Settings], config: "Config", folder: Path) -> Rung:
    always = {"threads": config.threads, "seed": config.seed}
    stage = "pretrain" if name == "pretraining" else "finetune"
    return Rung(
        name,
        tuple(
            Step(
                folder / place / run,
                stage,
                TITLES[run],
                {**always, **values, "output": str(folder / place / run)},
            )
            for run, values in runs.items()
        ),
    )


def do(step: Step, what: str, folder: Path) -> Iterator[Event]:
    """One run, or the rest of it. Its own events are in its folder."""
    stage = importlib.import_module(f"weitiao.stages.{step.stage}")
    going_on = (step.folder / "config.yaml").exists()
    try:
        for event in stage.run(build(stage.Config, {**step.values, "resume": going_on})):
            if isinstance(event, StepEvent):
                yield ProgressEvent(what, event.step, event.total_steps)
            elif isinstance(event, NoteEvent) and event.level == "warning":
                yield event
    except Interrupted:
        command = shlex.join(["weitiao", "climb", "--output", str(folder)])
        raise Interrupted(say(f"Stopped; everything is saved. Go on with: {command}",
                              f"已停止，进度已保存。继续：{command}")) from None  # fmt: skip
