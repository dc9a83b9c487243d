"""A cold ``weitiao predict`` of one text, whole process, from a bundle and from a run, against transformers.pipeline."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import data, harness
from benchmarks.harness import Entry, as_range, ratio, spread

TEXT = "A quiet film that stays with you long after it ends ."
SCRIPT = (
    "import json, sys; from transformers import pipeline; "
    "print(json.dumps(pipeline('text-classification', model=sys.argv[1], device='cpu')(sys.argv[2])[0]))"
)


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """One classifier whose folder opens in transformers as it is (the architecture's own pooling)."""
    for model in ("all-MiniLM-L6-v2", "multilingual-e5-small"):
        config = {
            "model": model,
            "text": TEXT,
            "rounds": options.rounds or 5,
            "script": SCRIPT,
            "pooling": "own",
        }
        yield Entry(model, config, lambda config=config: compare(config))


def compare(config: dict[str, Any]) -> dict[str, Any]:
    """All as whole processes, A B C A B C; all must give the same answer."""
    folder, bundle = trained(config["model"]), exported(config["model"])
    predict = (sys.executable, "-m", "weitiao", "predict")
    commands = {
        "bundle": (*predict, str(bundle), config["text"]),
        "run": (*predict, str(folder), config["text"]),
        "pipeline": (sys.executable, "-c", SCRIPT, str(folder / "model"), config["text"]),
    }
    for command in commands.values():  # once, so that both find their files in the system's cache
        timed(command)
    calls = {side: lambda command=command: timed(command) for side, command in commands.items()}
    found = harness.interleave(calls, config["rounds"])
    answers = {side: json.loads(runs[0][1].strip().splitlines()[-1]) for side, runs in found.items()}
    labels, scores = ([answer[key] for answer in answers.values()] for key in ("label", "score"))
    if len(set(labels)) > 1 or max(scores) - min(scores) > 1e-4:
        raise SystemExit(f"The sides answer differently: {answers}")
    seconds = {side: [one for one, _ in runs] for side, runs in found.items()}
    summary = {f"{side} seconds": as_range(spread(values)) for side, values in seconds.items()}
    for side in ("bundle", "run"):
        summary[f"{side}, times faster"] = as_range(ratio(seconds["pipeline"], seconds[side]))
    return {"summary": summary, "runs": seconds, "answers": answers}


def trained(model: str) -> Path:
    """A small classifier, trained once."""
    folder = harness.SCRATCH / f"cold-{model}"
    if not (folder / "metrics.json").exists():
        import weitiao

        train, test = data.tables("sst2", 64, 16, 1)
        weitiao.finetune(
            data=train,
            test_data=test,
            model=model,
            pooling="own",
            num_epochs=1,
            output=folder,
            dev_fraction=0.0,
            show=False,
            overwrite=True,
        )
    return folder


def exported(model: str) -> Path:
    """Its bundle."""
    folder = harness.SCRATCH / f"cold-{model}-bundle"
    if not folder.exists():
        import weitiao

        weitiao.export(trained(model), folder)
    return folder


def timed(command: Sequence[str]) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed.

    Raises:
        SystemExit: it failed.
    """
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(harness.ROOT / "src")}
    quiet.pop("PYTHONDONTWRITEBYTECODE", None)  # installed packages have theirs compiled
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=quiet)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return seconds, done.stdout
