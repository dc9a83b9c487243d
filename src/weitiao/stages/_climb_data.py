"""What the rungs learn from: cuts of the known data sets, made once for a climb."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_folder
from weitiao.data.known import resolve_data
from weitiao.data.readers import read_splits

if TYPE_CHECKING:
    from weitiao.stages.climb import Config

DATA = "0-data"  # below the climb's folder
# Rows of (train, test), quick or not.
ROWS = {
    "pictures": {True: (6000, 2000), False: (60_000, 10_000)},
    "texts": {True: (300, 300), False: (2000, 1000)},
}
COLUMNS = {"pictures": ["image", "label"], "texts": ["text", "label"]}
ASKED = "哪一类？"  # after a text: which class? A dialogue of one question and its answer


def prepare(config: "Config", folder: Path, anew: bool) -> Iterator[Event]:
    """Write ``0-data`` where it is missing, or ``anew``.

    ``pictures`` and ``texts``: ``{train,test}.parquet``. Made of the texts: ``dialogues``, in which the label is the
    answer, and ``corpus``, all those that nothing is tested on.

    Raises:
        WeitiaoError: a source has no such rows.
    """
    import datasets

    datasets.disable_progress_bars()  # ours are drawn from events
    if (folder / DATA).is_dir() and not anew:
        return
    with atomic_folder(folder / DATA) as new:
        for kind, source in (("pictures", config.pictures), ("texts", config.texts)):
            notes: list[str] = []
            tables = read_splits(resolve_data(source, notes.append).path)
            yield from (NoteEvent(note) for note in notes)
            parts = cut(kind, tables, source, config)
            _write(parts, new / kind)
            said = " + ".join(f"{len(rows):,}" for rows in parts.values())
            yield NoteEvent(
                say(
                    f"{source}: {said} rows to learn from and to test on",
                    f"{source}：{said} 行，用于学习与测试",
                )
            )
        _write({name: rows.map(_dialogue, remove_columns=["text", "label"]) for name, rows in parts.items()},
               new / "dialogues")  # fmt: skip
        tested = set(parts["test"]["text"])
        corpus = (text for text in tables["train"].rows["text"] if text not in tested)
        (new / "corpus").mkdir()
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in corpus)
        (new / "corpus" / "texts.jsonl").write_text(lines, encoding="utf-8")


def questions(label: str, kinds: Sequence[str]) -> list[tuple[str, str]]:
    """A question of each kind about a picture of a digit, and its answer; one about a picture of anything else."""
    from weitiao.tasks._digit_questions import ANYTHING, answered

    if len(label) == 1 and label.isascii() and label.isdigit():
        return [answered(kind, (label,)) for kind in kinds]
    return [(ANYTHING, label)]


def _write(parts: dict[str, Any], folder: Path) -> None:
    folder.mkdir()
    for name, rows in parts.items():
        rows.to_parquet(str(folder / f"{name}.parquet"))


def _dialogue(row: dict[str, Any]) -> dict[str, Any]:
    return {"instruction": f"{row['text']}\n{ASKED}", "answer": row["label"]}


def cut(kind: str, tables: Any, source: str, config: "Config") -> dict[str, Any]:
    """The rows of each part: the first so many of a shuffled table; tested is only what can have been learnt."""
    parts = {}
    for name, count in zip(("train", "test"), ROWS[kind][config.quick], strict=True):
        if name not in tables:
            raise WeitiaoError(
                say(
                    f"{source} has no {name} part: give a folder with train and test",
                    f"{source} 没有 {name} 部分：请给出含 train 与 test 的目录",
                )
            )
        rows = tables[name].rows
        if missing := [column for column in COLUMNS[kind] if column not in rows.column_names]:
            raise WeitiaoError(
                say(f"{source} has no column '{missing[0]}'", f"{source} 没有“{missing[0]}”列")
            )
        rows = rows.select_columns(COLUMNS[kind]).shuffle(seed=config.seed)
        parts[name] = rows.select(range(min(count, len(rows))))
    known = set(parts["train"]["label"])
    places = [place for place, label in enumerate(parts["test"]["label"]) if label in known]
    parts["test"] = parts["test"].select(places)
    return parts
