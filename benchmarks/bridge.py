"""Digits that a language model names: in stages (classifier, words, model) and learned (a bridge into the frozen model).

All questions are put to the test digits by both sides, and an answer counts if it is right to the letter. The learned
side's answers are its likeliest tokens after the true ones before them, the end included: all of them are right just when
what it writes by itself is. In stages the model sees the classifier's word with its confidence in whole percents, after
four examples of the question; it is followed where a mistake came from. ``speech`` does the same to spoken digits.
"""

import argparse
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.data import SHARED
from benchmarks.harness import SCRATCH, Entry
from benchmarks.mnist import folder_of

KINDS = {
    "name": 10_000,
    "even": 10_000,
    "name_zh": 1_000,
    "sum": 1_000,
}  # questions, and of how many test digits
STAGED_SUMS = 500  # each pair of words is a prompt of its own
SHOTS = {  # digits that stand in the examples before a question
    "name": ("3", "8", "5", "0"), "even": ("3", "8", "5", "0"), "name_zh": ("3", "8", "5", "0"),
    "sum": ("38", "50", "14", "96"),
}  # fmt: skip
SETTINGS = {
    "model": "SmolLM2-135M-Instruct", "questions": "name,even,name_zh,sum", "examples": 3000, "num_epochs": 2,
    "batch_size": 16, "learning_rate": 2e-3, "bridge_tokens": 2, "bridge_size": 256,
}  # fmt: skip
EMOJI_QUESTION = "What kind of thing is this?"
SPOKEN_TEST = ("3", "4")  # takes held out of each speaker's five


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """MNIST, and 300 spoken digits."""
    seed = (options.seeds or [1])[0]
    settings = SETTINGS | {"seed": seed} | ({"examples": options.texts} if options.texts else {})
    settings |= {"num_epochs": options.epochs} if options.epochs else {}
    yield Entry("mnist", {**settings, "test_digits": KINDS}, lambda: mnist(settings))
    spoken = settings | {"questions": "name,even"}
    described = settings | {"image_size": 32, "color": True, "num_epochs": 3}
    yield Entry("emoji", {**described, "question": EMOJI_QUESTION}, lambda: emoji(described))
    yield Entry(
        "speech", {**spoken, "held out": "takes 3 and 4 of each speaker and digit"}, lambda: speech(spoken)
    )


# --- MNIST


def mnist(settings: dict[str, Any]) -> dict[str, Any]:
    """Both sides on the test digits."""
    vision = folder_of("standard", 1)  # the run of `benchmarks mnist`
    source = SHARED / "images" / "mnist"
    training = SCRATCH / "bridge" / "mnist-train"  # without the test part, which is asked below
    training.mkdir(parents=True, exist_ok=True)
    for path in source.glob("train-*"):
        if not (training / path.name).exists():
            (training / path.name).symlink_to(path)
    return both_sides(vision, training, source, settings, KINDS, "mnist")


def both_sides(
    vision: Path, training: Path, test: Path, settings: dict[str, Any], kinds: dict[str, int], name: str
) -> dict[str, Any]:
    """The learned and the staged side's share of right answers to each kind of question."""
    from weitiao.data.readers import read_splits

    run = trained(vision, training, settings, name)
    parts = read_splits(test)
    table = parts.get("test") or parts["train"]
    learned = {
        kind: harness.remembered(
            f"bridge-{name}-{kind}-{count}", lambda kind=kind, count=count: asked(run, table, kind, count)
        )
        for kind, count in kinds.items()
    }
    staged = harness.remembered(f"staged-{name}", lambda: in_stages(vision, table, kinds))
    summary: dict[str, Any] = {
        "vision": staged["classifier"],
        "trained parameters": run.metrics["engagement"]["trained_parameters"],
        "training seconds": run.metrics["cost"]["actual_seconds"],
    }
    for kind in kinds:
        summary |= {f"{kind} learned": learned[kind]["share"], f"{kind} staged": staged[kind]["share"]}
    return {
        "summary": summary, "learned": learned, "staged": staged,
        "engagement": run.metrics["engagement"], "losses": [e["loss"] for e in run.events if e["event"] == "step"][-20:],
    }  # fmt: skip


def trained(vision: Path, training: Path, settings: dict[str, Any], name: str) -> Any:
    """The run of a bridge, trained unless it is there."""
    import weitiao

    folder = SCRATCH / "bridge" / f"reader-{name}"
    if (folder / "metrics.json").exists():
        return weitiao.load(folder)
    if (folder / "config.yaml").exists():  # it was interrupted
        return weitiao.finetune(output=folder, resume=True)
    return weitiao.finetune(
        training, output=folder, task="image_to_text", tuning="bridge", vision=str(vision), test_fraction=0.0,
        dev_fraction=0.0, checkpoint_steps=25, **settings,
    )  # fmt: skip


def asked(run: Any, table: Any, kind: str, count: int) -> dict[str, Any]:
    """The bridge's answers to one kind of question about the first ``count`` test digits."""
    from weitiao.stages._prepare import read
    from weitiao.tasks._digit_questions import with_questions

    records, _, _ = read(run.task, with_questions(first(table, count), [kind]), {}, False)
    encoded, outputs = run.outputs(records)
    right = [bool((out[:, 0].astype(int) == encoded.targets[row]).all()) for row, out in enumerate(outputs)]
    return {
        "share": float(np.mean(right)),
        "digits": len(right),
        "wrong": np.flatnonzero(~np.array(right)).tolist(),
    }


def first(table: Any, count: int) -> Any:
    """A table's first rows."""
    from dataclasses import replace

    return replace(table, rows=table.rows.select(range(min(count, len(table.rows)))))


# --- in stages


def in_stages(vision: Path, table: Any, kinds: dict[str, int]) -> dict[str, Any]:
    """The classifier's words go to the language model; where each mistake came from."""
    import weitiao
    from weitiao.stages._asking import Teller
    from weitiao.stages._prepare import read

    run = weitiao.load(vision)
    run.task.top = 1
    records, _, _ = read(run.task, table, {}, False)
    encoded, outputs = run.outputs(records)
    seen = run.task.answers(outputs, encoded, records, run.answers)
    truth = [str(label) for label in records["label"]]
    teller = Teller(SETTINGS["model"])
    found: dict[str, Any] = {
        "classifier": float(np.mean([s["label"] == t for s, t in zip(seen, truth, strict=True)]))
    }
    for kind, count in kinds.items():
        found[kind] = staged(teller, seen, truth, kind, min(count, STAGED_SUMS if kind == "sum" else count))
    return found


def staged(
    teller: Any, seen: Sequence[dict[str, Any]], truth: Sequence[str], kind: str, count: int
) -> dict[str, Any]:
    """One kind of question: right answers, and how the classifier's mistakes went on."""
    from weitiao.stages._asking import prompt_of
    from weitiao.tasks._digit_questions import KINDS as ASKED
    from weitiao.tasks._digit_questions import answered

    pictures = ASKED[kind][1]
    shots = [(list(digits), *answered(kind, list(digits))) for digits in SHOTS[kind]]
    rows = [[row, row - 1][:pictures] for row in range(min(count, len(seen)))]
    question = ASKED[kind][0]
    words = [prompt_of([(seen[i]["label"], seen[i]["score"]) for i in row], question, shots) for row in rows]
    clean = [prompt_of([(truth[i], 1.0) for i in row], question, shots) for row in rows]
    wanted = [answered(kind, [truth[i] for i in row])[1] for row in rows]
    told, had_it_seen = ([plain(text) for text in teller.answer(prompts)] for prompts in (words, clean))
    right = np.array([a == b for a, b in zip(told, wanted, strict=True)])
    misread = np.array([any(seen[i]["label"] != truth[i] for i in row) for row in rows])
    changed = np.array([a != b for a, b in zip(told, had_it_seen, strict=True)])
    return {
        "share": float(right.mean()), "digits": len(rows), "prompts": len(set(words)),
        "classifier wrong": int(misread.sum()), "of these the answer changed": int((misread & changed).sum()),
        "wrong though the classifier was right": int((~misread & ~right).sum()),
        "right with the true words": float(np.mean([a == b for a, b in zip(had_it_seen, wanted, strict=True)])),
    }  # fmt: skip


def plain(text: str) -> str:
    """An answer without case and punctuation, as it is compared."""
    return text.strip().strip(".。!！\"'").lower()


# --- emoji


def emoji(settings: dict[str, Any]) -> dict[str, Any]:
    """Which of ten groups an emoji belongs to, in words; the vision encoder is that of ``benchmarks emoji``, first seed."""
    import csv

    from benchmarks.emoji import tables

    folder = SCRATCH / "bridge" / "emoji"
    folder.mkdir(parents=True, exist_ok=True)
    for path, name in zip(tables(), ("train", "test"), strict=True):
        with (
            open(path, encoding="utf-8") as old,
            open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as new,
        ):
            writer = csv.writer(new)
            writer.writerow(["image", "question", "answer"])
            writer.writerows([row["image"], EMOJI_QUESTION, row["group"]] for row in csv.DictReader(old))
    run = trained(SCRATCH / "emoji" / "run-1", folder, settings, "emoji")
    test = run.metrics["evaluation"]["test"]
    summary = {
        "training seconds": run.metrics["cost"]["actual_seconds"], "group learned": test["scores"]["accuracy"],
        "group majority": test["baseline"]["accuracy"],
    }  # fmt: skip
    return {"summary": summary, "evaluation": test["scores"], "intervals": test["intervals"]}


# --- speech


def speech(settings: dict[str, Any]) -> dict[str, Any]:
    """Spoken digits: a spectrogram is a picture, and all goes the same way."""
    import weitiao

    folder = SCRATCH / "bridge" / "spoken"
    with zipfile.ZipFile(SHARED / "speech" / "fsdd_testsplit.zip") as archive:
        for name in archive.namelist():
            digit, _, take = Path(name).stem.partition("_")[0], "", Path(name).stem.rpartition("_")[2]
            path = folder / ("test" if take in SPOKEN_TEST else "train") / digit / Path(name).name
            if name.endswith(".wav") and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))
    vision = SCRATCH / "bridge" / "spoken-vision"
    if not (vision / "metrics.json").exists():
        weitiao.finetune(
            folder, output=vision, task="image_classification", width=16, num_epochs=60, batch_size=32, dev_fraction=0.0,
            rotation_degrees=0.0, shear_degrees=0.0, shift=0.1, scale=0.1, seed=1, show=False, overwrite=True,
        )  # fmt: skip
    training = SCRATCH / "bridge" / "spoken-train"
    if not training.exists():
        training.symlink_to(folder / "train")
    return both_sides(
        vision, training, folder, settings | {"num_epochs": 6}, {"name": 120, "even": 120}, "spoken"
    )
