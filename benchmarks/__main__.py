"""``python -m benchmarks [NAME ... | all] [options]``: measure, and keep the results under comparisons/."""

import argparse
import ast
import importlib
import sys
from pathlib import Path

from benchmarks import harness

HERE = Path(__file__).resolve().parent


def names() -> dict[str, str]:
    """The benchmarks and what each measures: the files here that define ``entries``."""
    found = {}
    for path in sorted(HERE.glob("[!_]*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "entries" for node in module.body):
            found[path.stem] = (ast.get_docstring(module) or "").splitlines()[0]
    return found


def parser() -> argparse.ArgumentParser:
    """The options; a benchmark reads those it has a use for."""
    new = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    new.add_argument("names", nargs="*", help="which benchmarks, or 'all'; none: list them")
    new.add_argument("--only", nargs="*", default=[], help="only entries whose name holds one of these words")
    new.add_argument("--again", action="store_true", help="measure entries that have a result already")
    new.add_argument("--output", type=Path, default=HERE.parent / "comparisons", help="where the results go")
    new.add_argument("--rounds", type=int, default=0, help="rounds A B A B ... (default: the benchmark's)")
    new.add_argument(
        "--steps", type=int, default=0, help="optimizer steps a round (default: the benchmark's)"
    )
    new.add_argument("--seeds", type=int, nargs="*", default=[], help="default: the benchmark's")
    new.add_argument("--texts", type=int, default=0, help="training texts (default: the benchmark's)")
    new.add_argument("--epochs", type=int, default=0, help="default: the benchmark's")
    new.add_argument(
        "--peer",
        choices=("dynamic", "best"),
        default="dynamic",
        help="the peer of quality: fp32 with dynamic padding, or grouped by length in bf16",
    )
    return new


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks named. Returns the exit code."""
    options, known = parser().parse_args(arguments), names()
    if not options.names:
        print("\n".join(f"{name:14} {summary}" for name, summary in known.items()))
        return 0
    wanted = list(known) if options.names == ["all"] else options.names
    if strange := [name for name in wanted if name not in known]:
        print(f"No benchmark '{strange[0]}'. There are: {', '.join(known)}, all", file=sys.stderr)
        return 2
    for name in wanted:
        for entry in importlib.import_module(f"benchmarks.{name}").entries(options):
            harness.measure(name, entry, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
