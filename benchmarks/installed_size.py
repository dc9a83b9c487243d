"""Megabytes of an environment that only predicts from bundles, against torch with transformers."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from benchmarks import harness
from benchmarks.harness import Entry

LIMIT_MB = 250
TEXT = "A quiet film that stays with you long after it ends ."


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """One comparison: a fresh environment in which a bundle predicts, and the packages of the other side here."""
    config = {"ours": "pip install weitiao", "peer": ["torch", "transformers"], "limit_mb": LIMIT_MB}
    yield Entry("runtime-only", config, lambda: compare(config))


def compare(config: dict[str, Any]) -> dict[str, Any]:
    """Sizes of the packages with all they require: what was installed, not what Python compiles from it on either side."""
    environment = harness.SCRATCH / "runtime-only"
    python = fresh(environment)
    found = json.loads(run(python, "-c", SIZES))
    peers = {one.metadata["Name"]: bytes_of(one) for one in closure(config["peer"])}
    ours, theirs = sum(found.values()) / 1e6, sum(peers.values()) / 1e6
    answer = None
    bundle = harness.SCRATCH / "inference" / "all-MiniLM-L6-v2-bundle"
    if bundle.exists():
        answer = json.loads(run(python, "-m", "weitiao", "predict", str(bundle), TEXT))["label"]
    summary = {
        "runtime-only MB": ours,
        "torch + transformers MB": theirs,
        "share": ours / theirs,
        "predicts": "yes" if answer else "not tried",
    }
    return {"summary": summary, "packages": found, "peer_packages": peers}


# What is installed apart from the installer, as the environment itself lists it.
SIZES = """
import json
from importlib.metadata import distributions
found = {}
for one in distributions():
    if one.metadata["Name"] not in ("pip", "setuptools"):
        files = [one.locate_file(file) for file in one.files or ()]
        found[one.metadata["Name"]] = sum(
            path.stat().st_size for path in files if path.is_file() and path.suffix != ".pyc"
        )
print(json.dumps(found))
"""


def fresh(folder: Path) -> Path:
    """A new virtual environment with Weitiao and what it requires, nothing optional. Returns its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        constraints = str(harness.ROOT / "constraints.txt")
        install = [str(python), "-m", "pip", "install", "-q", "-c", constraints]
        with tempfile.TemporaryDirectory() as copy:  # building leaves files beside the sources
            for name in ("pyproject.toml", "README.md", "LICENSE"):
                shutil.copy(harness.ROOT / name, copy)
            shutil.copytree(harness.ROOT / "src", Path(copy) / "src")
            subprocess.run([*install, copy], check=True)
    return python


def run(python: Path, *arguments: str) -> str:
    """What a command printed, without the repository on its path.

    Raises:
        SystemExit: it failed.
    """
    quiet = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(python), *arguments], capture_output=True, text=True, env=quiet, cwd="/")
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


def closure(names: list[str]) -> list[Distribution]:
    """Packages and all that they require here, without extras."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        name = wanted.name.lower().replace("_", "-")
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found[name] = distribution(wanted.name)
        waiting += [Requirement(text) for text in found[name].requires or ()]
    return list(found.values())


def bytes_of(one: Distribution) -> int:
    """The bytes of a package's installed files, without compiled copies."""
    paths = [Path(str(one.locate_file(file))) for file in one.files or () if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.is_file())
