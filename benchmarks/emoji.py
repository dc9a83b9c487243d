"""Emoji by their names in Chinese and English: one space of pictures and words against captions of look-alikes.

200 emoji are held out. A phrase (a held-out name) must find its picture among the 200. The baseline is staged: a held-out
picture gets the name of the training emoji that looks most like it, and the phrase is compared with that name by the same
frozen text encoder; of pixels and of the trained network's own features, and of plain and centred text vectors, it takes
what is best on the test emoji themselves, which flatters it. The settings of the trained side were chosen on 200 emoji of
the training part.
"""

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.data import SHARED
from benchmarks.harness import Entry

HELD_OUT, CELL, SIDE = 200, 66, 64
LANGUAGES = ("en", "zh")


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """One entry: the default settings of ``--task image-text-matching``, five seeds."""
    config = {
        "data": "emoji_zh_en",
        "held_out": HELD_OUT,
        "seeds": options.seeds or [1, 2, 3, 4, 5],
        "num_epochs": options.epochs or 60,
        "width": 48,
        "image_size": 32,
        "text_model": "multilingual-e5-small",
    }
    yield Entry("zh-en", config, lambda: measure(config, options.again))


def tables() -> tuple[Path, Path]:
    """The training and the test table, and the pictures cut out of their sheet, in the scratch folder."""
    from PIL import Image

    source, folder = SHARED / "images" / "emoji_zh_en", harness.SCRATCH / "emoji"
    paths = folder / "train.csv", folder / "test.csv"
    if all(path.exists() for path in paths):
        return paths
    lines = (source / "emoji_zh_en.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    sheet = Image.open(source / "google_sheet_64_256colors.png").convert("RGBA")
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        left, top = row["sheet_x"] * CELL + 1, row["sheet_y"] * CELL + 1
        row["image"] = str(folder / f"{row['hex']}.png")
        sheet.crop((left, top, left + SIDE, top + SIDE)).save(row["image"])
    order = np.random.default_rng(0).permutation(len(rows))
    for path, part in zip(paths, (order[HELD_OUT:], order[:HELD_OUT]), strict=True):
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "en", "zh", "group"])
            writer.writerows(
                [rows[i][key] for key in ("image", *LANGUAGES, "group_en")] for i in sorted(part)
            )
    return paths


def measure(config: dict[str, Any], again: bool) -> dict[str, Any]:
    """Each seed's hits on the held-out phrases, and the baseline's."""
    names = [f"emoji-{config['num_epochs']}-{config['width']}-{seed}" for seed in config["seeds"]]
    if again:
        harness.forget(names)
    runs = [
        harness.remembered(name, lambda seed=seed: finetune(config, seed))
        for name, seed in zip(names, config["seeds"], strict=True)
    ]
    summary: dict[str, Any] = {"chance": 1 / HELD_OUT}
    for language in LANGUAGES:
        ours = np.array([run["ranks"][language] for run in runs]) == 1
        best = max(
            runs[0]["baseline"], key=lambda kind: np.mean(np.array(runs[0]["baseline"][kind][language]) == 1)
        )
        theirs = np.array([run["baseline"][best][language] for run in runs]) == 1
        low, high = bootstrap(ours.mean(0))
        summary |= {
            f"{language} top 1 (mean ± sd)": harness.mean_sd(ours.mean(1).tolist()),
            f"{language} 95 %": f"{100 * low:.1f}–{100 * high:.1f}",
            f"{language} top 5": float((np.array([run["ranks"][language] for run in runs]) <= 5).mean()),
            f"{language} staged": f"{100 * theirs.mean():.1f} ({best})",
        }
        low, high = bootstrap(ours.mean(0) - theirs.mean(0))
        summary[f"{language} gain 95 %"] = f"{100 * low:.1f}–{100 * high:.1f}"
    summary["seconds"] = harness.as_range(harness.spread([run["seconds"] for run in runs]))
    return {"summary": summary, "runs": runs}


def bootstrap(values: np.ndarray, resamples: int = 4000) -> tuple[float, float]:
    """The 95 % interval of the mean over phrases, which are what is drawn anew."""
    rows = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[rows].mean(1), [2.5, 97.5])
    return float(low), float(high)


def finetune(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run of ``weitiao finetune --task image-text-matching``, and the ranks of the held-out pictures."""
    import weitiao
    from weitiao.stages._prepare import read
    from weitiao.tasks.image_text_matching import CAPTION_KEYS

    train, test = tables()
    folder = harness.SCRATCH / "emoji" / f"run-{seed}"
    run = weitiao.finetune(
        train, test_data=test, output=folder, task="image_text_matching", dev_fraction=0.0, seed=seed, show=False,
        overwrite=True, **{key: config[key] for key in ("num_epochs", "width", "image_size", "text_model")},
    )  # fmt: skip
    parts = {name: read(run.task, path, {}, False)[0] for name, path in (("train", train), ("test", test))}
    encoded = {name: run.task.encode(part, run.tokenizer, 64, None) for name, part in parts.items()}
    outputs = np.stack(run.outputs(parts["test"])[1])
    ranks = {
        language: ranks_of(outputs[:, place] @ outputs[:, 0].T, parts["test"][key])
        for place, (language, key) in enumerate(zip(LANGUAGES, CAPTION_KEYS, strict=True), 1)
    }
    return {
        "seed": seed,
        "ranks": ranks,
        "baseline": staged(run, encoded, parts["test"]),
        "seconds": run.metrics["cost"]["actual_seconds"],
        "scores": run.metrics["evaluation"]["test"]["scores"],
    }


def ranks_of(cosines: np.ndarray, captions: list[str]) -> list[int]:
    """The rank of the right picture for each phrase; pictures of the same name are all right."""
    from weitiao.tasks.image_text_matching import _ranks, _same

    return [int(rank) for rank in _ranks(cosines, _same(captions))]


def staged(run: Any, encoded: dict[str, Any], test: Any) -> dict[str, dict[str, list[int]]]:
    """Ranks by the names of look-alikes: ``{kind: {language: ranks}}``."""
    from weitiao.tasks.image_text_matching import CAPTION_KEYS
    from weitiao.training.batches import Batches

    looks: dict[str, dict[str, np.ndarray]] = {"pixels": {}, "features": {}}
    for name, part in encoded.items():
        batch = Batches(part, 1, 0).batch(np.arange(len(part)))
        looks["pixels"][name] = batch.packed.pixels_BCHW.flatten(1).numpy()
        looks["features"][name] = run.model.hidden(batch.packed, None, None).detach().numpy()
    found: dict[str, dict[str, list[int]]] = {}
    for look, parts in looks.items():
        middle = parts["train"].mean(0)
        near = (unit(parts["test"] - middle) @ unit(parts["train"] - middle).T).argmax(1)
        for centred in (False, True):
            kind = f"{look}, {'centred' if centred else 'plain'}"
            found[kind] = {}
            for place, (language, key) in enumerate(zip(LANGUAGES, CAPTION_KEYS, strict=True)):
                known, asked = encoded["train"].features[:, place], encoded["test"].features[:, place]
                mean = known.mean(0) if centred else 0.0
                cosines = unit(asked - mean) @ unit(known[near] - mean).T
                found[kind][language] = ranks_of(cosines, test[key])
    return found


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
