"""Writes the lessons, docs/ladder/{en,zh}/*.ipynb, from docs/ladder/lessons/*.py: one source, so the code cannot drift.

A source is Python in cells: ``# %% [en]`` and ``# %% [zh]`` hold the same text in two languages as comments, ``# %% [code]``
is code, ``# %% [settings]`` the code cell whose sizes a test makes small. ``--run`` also runs the code and keeps what it
prints; without it, outputs stay where the code is unchanged. ``--check`` writes nothing and exits with 1 where a notebook
has other texts or code than its source. Names after the flags choose lessons: ``--run 1_mnist``.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "ladder"
LANGUAGES = ("en", "zh")
KINDS = (*LANGUAGES, "code", "settings")
MOST_OUTPUT = 4000  # characters of a cell


@dataclass(frozen=True)
class Cell:
    """One cell of a source; ``number`` is the line it begins at."""

    kind: str
    text: str
    number: int

    @property
    def is_code(self) -> bool:
        """Whether it runs."""
        return self.kind in ("code", "settings")


def read(path: Path) -> list[Cell]:
    """The cells of a source.

    Raises:
        ValueError: a cell of an unknown kind, or a text without its counterpart in the other language.
    """
    cells, kind, lines, begin = [], "", [], 0
    source = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate([*source, "# %% [end]"], 1):
        if not line.startswith("# %% ["):
            lines.append(line)
            continue
        if kind:
            text = "\n".join(lines).strip("\n")
            if kind in LANGUAGES:
                text = "\n".join(each.removeprefix("#").removeprefix(" ") for each in text.split("\n"))
            cells.append(Cell(kind, text, begin))
        kind, lines, begin = line[6:-1], [], number
        if kind not in (*KINDS, "end"):
            raise ValueError(f"{path.name}:{number}: a cell is one of {', '.join(KINDS)}, not {kind}")
    for place, cell in enumerate(cells):
        before = cells[place - 1].kind if place else ""
        after = cells[place + 1].kind if place + 1 < len(cells) else ""
        if (cell.kind == "en" and after != "zh") or (cell.kind == "zh" and before != "en"):
            raise ValueError(
                f"{path.name}:{cell.number}: a text in English is followed by the same in Chinese"
            )
    return cells


def run(cells: list[Cell], name: str, settings: Mapping[str, Any] | None = None) -> list[str]:
    """Run the code cells one after the other in a fresh namespace. Returns what each printed.

    Args:
        settings: values that replace those of the settings cell.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    for cell in cells:
        if not cell.is_code:
            continue
        # As many empty lines before it as in the source, so that an error names the line there.
        code = compile("\n" * cell.number + cell.text, name, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
            exec(code, namespace)
        printed.append(out.getvalue()[:MOST_OUTPUT])
        if cell.kind == "settings":
            unknown = set(settings or ()) - namespace.keys()
            assert not unknown, f"{name} has no setting {unknown}"
            namespace |= settings or {}
    return printed


def notebook(cells: list[Cell], language: str, printed: list[str]) -> dict[str, Any]:
    """The notebook of one language, in nbformat 4.5."""
    made: list[dict[str, Any]] = []
    outputs = iter(printed)
    for cell in cells:
        if cell.kind in LANGUAGES and cell.kind != language:
            continue
        entry: dict[str, Any] = {
            "cell_type": "code" if cell.is_code else "markdown",
            "id": f"cell-{len(made):02d}",
            "metadata": {"tags": ["parameters"]} if cell.kind == "settings" else {},
            "source": cell.text.splitlines(keepends=True),
        }
        if cell.is_code:
            text = next(outputs, "")
            stream = {"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)}
            entry |= {"execution_count": None, "outputs": [stream] if text else []}
        made.append(entry)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def kept(path: Path, cells: list[Cell]) -> list[str]:
    """What the code printed when the notebook on the disk was run; nothing where its code was another."""
    if not path.exists():
        return []
    found = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if "outputs" in cell]
    if ["".join(cell["source"]) for cell in found] != [cell.text for cell in cells if cell.is_code]:
        return []
    return ["".join(line for output in cell["outputs"] for line in output["text"]) for cell in found]


def sources() -> list[Path]:
    """The lessons, in order."""
    return sorted((FOLDER / "lessons").glob("*.py"))


def main(arguments: list[str]) -> int:
    """Write the notebooks, or compare them with what is there. Returns the exit code."""
    stale = []
    chosen = [word for word in arguments if not word.startswith("--")]
    for source in sources():
        if chosen and source.stem not in chosen:
            continue
        cells = read(source)
        printed = _run_aside(cells, source) if "--run" in arguments else None
        for language in LANGUAGES:
            path = FOLDER / language / f"{source.stem}.ipynb"
            made = notebook(cells, language, kept(path, cells) if printed is None else printed)
            text = json.dumps(made, ensure_ascii=False, indent=1) + "\n"
            if "--check" not in arguments:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            elif not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(f"docs/ladder/{language}/{path.name}")
    if stale:
        print(f"{' and '.join(stale)} is not up to date: run `make docs`", file=sys.stderr)
    return 1 if stale else 0


def _run_aside(cells: list[Cell], source: Path) -> list[str]:
    """Run a lesson at its own size, in a folder that is thrown away."""
    os.environ["WEITIAO_LANG"] = "en"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return run(cells, str(source))


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parents[1] / "src"))
    sys.exit(main(sys.argv[1:]))
