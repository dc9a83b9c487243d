"""Labelling without the page: the next rows as a table to be filled in, and the table taken back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.labelling.project import write_csv
from weitiao.labelling.session import Session

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_batch(path: Path, session: Session, count: int) -> int:
    """Write the next ``count`` rows, with empty columns ``label`` and ``note``. Returns how many there are."""
    rows = [
        {
            "source_row": session.texts.numbers[place],
            "text": _as_text(session.texts.shown[place]),
            "label": "",
            "note": "",
            "drawn": drawn,
        }
        for place, drawn in session.upcoming(count)
    ]
    if rows:
        write_csv(path, rows)
    return len(rows)


def take_back(path: Path, session: Session, may_add: bool = False) -> tuple[int, int]:
    """Keep the labels of a filled-in table, all or none. Returns how many, and the rows without one.

    Raises:
        WeitiaoError: a row is not in the table of texts, its text is another one's, or its label is unknown.
    """
    rows = list(_rows(path))
    missing = [name for name in ("source_row", "text", "label") if not rows or name not in rows[0]]
    if missing:
        raise WeitiaoError(
            say(
                f"{path} has no column {missing[0]}, or no row: take back a table that --batch wrote",
                f"{path} 没有 {missing[0]} 列或没有数据行：请读回由 --batch 写出的表",
            )
        )
    wanted, empty = [], 0
    for row in rows:
        label = str(row["label"] or "").strip()
        if not label:
            empty += 1
            continue
        number = str(row["source_row"] or "").strip()
        place = session.texts.place.get(int(number)) if number.isdecimal() else None
        if place is None or _plain(row["text"]) != _plain(_as_text(session.texts.shown[place])):
            raise WeitiaoError(
                say(
                    f"{path}: row {number} is not that of the texts; nothing was taken. Take back what --batch wrote",
                    f"{path}：第 {number} 行与文本表不符，未读入任何标签。请读回由 --batch 写出的表",
                )
            )
        session.check(int(number), label)
        wanted.append((int(number), label, row.get("note") or "", row.get("drawn") or ""))
    kept = 0
    for number_, label, note, drawn in wanted:
        held = session.journal.answers.get(number_)
        if held is None or held.label != label:  # the same table may be taken twice
            session.keep(number_, label, note, drawn)
            kept += 1
    return kept, empty


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows in whatever encoding the spreadsheet saved them."""
    from weitiao.data.readers import open_table

    for _, cells in open_table(path).batches:
        yield from (dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True))


def _as_text(text: str) -> str:
    """A text that a spreadsheet would run as a formula gets an apostrophe before it."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _plain(text: Any) -> str:
    """A text without what spreadsheets change: white space, and the apostrophe."""
    return " ".join(str(text or "").removeprefix("'").split())
