"""A labelling project on the disk: which table, which labels, and every answer as it came in.

``project.json`` says what is labelled; ``answers/<annotator>.jsonl`` has a line for each thing an annotator did, only
ever added to, on the disk before the next text is shown. It holds row numbers, never texts. ``labels.csv`` is made
from them for training; ``rounds.jsonl`` has a line for each time the head was fitted anew.
"""

import csv
import json
import os
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, read_json, sync_folder, write_json

RANDOM, CHECK = "random", "agreement"  # how a text was drawn, beside the names of selections
NAME = re.compile(r"[\w-]{1,40}")


@dataclass
class Given:
    """An annotator's answer to one row (its number as a person counts in the table). No label: the row was passed."""

    row: int
    label: str
    note: str = ""
    drawn: str = ""
    seconds: float = 0.0


@dataclass
class Journal:
    """What one annotator did, in order; ``answers`` is what holds now, by row."""

    path: Path
    done: list[Given] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, annotator: str) -> "Journal":
        """Read an annotator's file, if there is one. A last line cut short by a crash is left out."""
        journal = cls(folder / "answers" / f"{annotator}.jsonl")
        text = journal.path.read_text("utf-8", "replace") if journal.path.exists() else ""
        for line in text.split("\n"):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("undo"):
                journal.done = journal.done[:-1]
            else:
                journal.done.append(
                    Given(**{key: entry[key] for key in Given.__annotations__ if key in entry})
                )
        return journal

    @property
    def answers(self) -> dict[int, Given]:
        """The last answer to each row."""
        return {given.row: given for given in self.done}

    @property
    def labels(self) -> dict[int, str]:
        """The labels given, without rows that were passed."""
        return {row: given.label for row, given in self.answers.items() if given.label}

    def add(self, given: Given) -> None:
        """Keep an answer; it is on the disk when this returns."""
        self._write({**vars(given), "time": time.strftime("%Y-%m-%dT%H:%M:%S")})
        self.done.append(given)

    def undo(self) -> Given | None:
        """Take the last answer back; None where there is none."""
        if not self.done:
            return None
        self._write({"undo": True, "row": self.done[-1].row})
        return self.done.pop()

    def _write(self, entry: dict[str, Any]) -> None:
        append(self.path, entry)


def append(path: Path, entry: dict[str, Any]) -> None:
    """Add one JSON line to a file; it is on the disk when this returns, and a line cut short before stays apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    cut = not new and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    line = ("\n" if cut else "") + json.dumps(entry, ensure_ascii=False) + "\n"
    with open(path, "ab") as file:
        file.write(line.encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync_folder(path.parent)


class Project:
    """A project's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def settle(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Begin the project, or make sure that it is this one; returns what it was begun with, labels united.

        Args:
            facts: ``data`` (name), ``sha256``, ``labels`` and whatever else is to be kept.

        Raises:
            WeitiaoError: the folder's project is about another table, or the folder holds something else.
        """
        file = self.folder / "project.json"
        if not file.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise WeitiaoError(
                    say(
                        f"{self.folder} is not empty and holds no labelling project: choose another --output",
                        f"{self.folder} 不是空目录，也不是标注项目：请换一个 --output",
                    )
                )
            write_json(file, facts)
            return facts
        held = read_json(file)
        if held.get("sha256") != facts["sha256"]:
            raise WeitiaoError(
                say(
                    f"{self.folder} holds labels of {held.get('data')}, whose content is not that of {facts['data']}: "
                    "rows would be mixed up. Choose another --output",
                    f"{self.folder} 中是 {held.get('data')} 的标注，其内容与 {facts['data']} 不同，行号会错位。"
                    "请换一个 --output",
                )
            )
        labels = list(dict.fromkeys([*held["labels"], *facts["labels"]]))
        settled = {**held, "labels": labels}
        if settled != held:
            write_json(file, settled)
        return settled

    def journal(self, annotator: str) -> Journal:
        """One annotator's answers.

        Raises:
            WeitiaoError: the name can't be a file's.
        """
        if not NAME.fullmatch(annotator):
            raise WeitiaoError(
                say(
                    f"--annotator '{annotator}': use letters, digits, - and _ (at most 40)",
                    f"--annotator “{annotator}”：请只用文字、数字、- 和 _（至多 40 个）",
                )
            )
        return Journal.open(self.folder, annotator)

    def annotators(self) -> list[str]:
        """Who has answered."""
        return sorted(path.stem for path in (self.folder / "answers").glob("*.jsonl"))

    def by_annotator(self) -> dict[str, dict[int, str]]:
        """Every annotator's labels by row."""
        return {name: self.journal(name).labels for name in self.annotators()}

    def settled_labels(self) -> tuple[dict[int, str], list[int]]:
        """The label of each row that most annotators gave, and the rows where as many gave another."""
        given: dict[int, Counter[str]] = {}
        for labels in self.by_annotator().values():
            for row, label in labels.items():
                given.setdefault(row, Counter())[label] += 1
        found, open_ = {}, []
        for row, counts in given.items():
            (first, most), *rest = counts.most_common()
            if rest and rest[0][1] == most:
                open_.append(row)
            else:
                found[row] = first
        return found, sorted(open_)

    def write_labels(self, texts: dict[int, dict[str, str]], label_key: str) -> tuple[int, int]:
        """Write ``labels.csv`` for training, and ``disagreements.csv``. Returns how many rows each has."""
        labels, open_ = self.settled_labels()
        rows = [{"source_row": row, **texts[row], label_key: labels[row]} for row in sorted(labels)]
        write_csv(self.folder / "labels.csv", rows)
        by = self.by_annotator()
        apart = [
            {"source_row": row, **texts[row], **{name: by[name].get(row, "") for name in by}} for row in open_
        ]
        if apart or (self.folder / "disagreements.csv").exists():
            write_csv(self.folder / "disagreements.csv", apart)
        return len(rows), len(apart)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """A table that spreadsheets open rightly (a byte order mark before the UTF-8)."""
    with atomic_file(path) as file:
        file.write("\ufeff")
        if rows:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
