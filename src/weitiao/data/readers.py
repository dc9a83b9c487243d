"""Tables from anywhere: CSV, TSV, text lines, JSON, Parquet, CoNLL, a DataFrame, a Dataset, a list of dicts.

The format is told by the suffix (before ``.gz``); encodings are settled by reading all bytes; large tables
are kept as Arrow files in the cache and memory-mapped, so reading one again costs only the hash of the file.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import sha256
from weitiao.data import rowwise
from weitiao.data.arrow import ArrowSink, BadRows, cached_rows
from weitiao.data.columns import SPLIT_NAMES, check_column, match, split_name
from weitiao.data.conll import has_segment_digits, sentences
from weitiao.data.delimited import Delimited, check_distinct, open_delimited, open_lines, open_numbered
from weitiao.data.files import check_file, check_text, readable, stem, suffix, text_layout
from weitiao.data.images import read_images
from weitiao.data.table import Table, none_left

FORMAT_VERSION = 1  # of what the cache holds; raise it when readers change what they return
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
PARQUET_SUFFIXES = (".parquet", ".pq")
CONLL_SUFFIXES = (".conll", ".bio", ".bioes", ".iob", ".iob2", ".bmes")
SUFFIXES = (".csv", ".tsv", ".tab", ".txt", *JSON_SUFFIXES, *PARQUET_SUFFIXES, *CONLL_SUFFIXES)


@dataclass(frozen=True)
class Options:
    """What was asked of ``read_table``."""

    skip_bad_rows: bool = False
    columns: tuple[str, ...] | None = None
    has_header: bool | None = None


def read_table(
    source: Any,
    *,
    skip_bad_rows: bool = False,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    has_header: bool | None = None,
) -> Table:
    """Read a table from a path, a pandas DataFrame, a ``datasets.Dataset`` or a list of dicts.

    Args:
        source: a path ends in one of ``SUFFIXES``, perhaps with ``.gz`` after it; or is a folder of pictures (see
            ``images``), of which the test part is read where it has parts.
        skip_bad_rows: list bad rows in the table's ``bad_rows`` instead of raising the first.
        columns: keep only these (names, or role -> name); all by default.
        has_header: whether the first row of a CSV or TSV names its columns; judged by its looks by default.

    Raises:
        BadRow: a row can't be used; names the file, the row and the column.
        WeitiaoError: anything else wrong with the file, in one line.
    """
    keep = tuple(columns.values() if isinstance(columns, Mapping) else columns or ())
    options = Options(skip_bad_rows, keep or None, has_header)
    if isinstance(source, (str, os.PathLike)):
        if Path(source).is_dir() and (parts := read_images(Path(source))):
            return parts.get("test") or next(iter(parts.values()))
        with readable(str(source)):
            return _read_file(Path(source), str(source), options)
    return _read_object(source, options)


def open_table(path: str | Path) -> "Opened":
    """A file's rows as they stream out of it, without Arrow: batches of row numbers and columns of cells.

    Raises:
        WeitiaoError: the file cannot be read; while streaming ``BadRow``, for the first row that cannot be used.
    """
    path = Path(path)
    with readable(str(path)):
        kind = _check(path, str(path))
        return _open(path, str(path), kind, Options(), BadRows(str(path), skip=False))


def read_splits(source: Any, **options: Any) -> dict[str, Table]:
    """Read a source with its splits, as ``{"train": ..., "validation": ..., "test": ...}``, those there are.

    A folder has pictures (see ``images``), or files whose names (before the suffix) are or end in a split's name; a
    mapping has a source for each split; a table may have a column ``split`` (values other than the usual names stay as
    they are, such as clinc150's ``oos_train``). Any other table is all ``train``.

    Args:
        options: as for ``read_table``.

    Raises:
        WeitiaoError: a folder has no tables, none that is a split, or two for one split; or see
            ``read_table``.
    """
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        if tables := read_images(Path(source)):
            return tables
        source = _split_files(Path(source))
    if isinstance(source, Mapping):
        return {
            split_name(str(name)) or str(name): read_table(part, **options) for name, part in source.items()
        }
    return _by_split_column(read_table(source, **options))


def _split_files(folder: Path) -> dict[str, Path]:
    files = _tables(folder)
    below = [path for path in folder.iterdir() if path.is_dir() and _tables(path)]
    if not files and len(below) == 1:  # as the hub keeps some data sets: name/train-00000-of-00001.parquet
        files = _tables(below[0])
    found: dict[str, Path] = {}
    for path in files:
        split = split_name(stem(path), at_end=True)
        if split in found:
            both = f"{found[split].name}, {path.name}"
            raise WeitiaoError(
                say(
                    f"{folder} has two files for the split '{split}': {both}. Give the files themselves",
                    f"{folder} 里有两个文件都是“{split}”：{both}。请直接给出文件",
                )
            )
        if split:
            found[split] = path
    if not found:
        there = ", ".join(path.name for path in files[:5])
        raise WeitiaoError(
            say(
                f"{folder} has no table called train, dev or test" + (f", only {there}" if there else ""),
                f"{folder} 里没有名为 train、dev 或 test 的数据表" + (f"，只有 {there}" if there else ""),
            )
        )
    return found


def _tables(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and suffix(path) in SUFFIXES]


def _by_split_column(table: Table) -> dict[str, Table]:
    import numpy as np

    column = next((hit for name in SPLIT_NAMES if (hit := match(name, table.column_names))), None)
    if column is None:
        return {"train": table}
    values = np.array([value or "" for value in table.rows[column]], dtype=object)
    named = {value: split_name(value) or value for value in dict.fromkeys(values)}
    if "train" not in named.values():
        return {"train": table}
    splits = np.array([named[value] for value in values], dtype=object)
    parts = {}
    for split in dict.fromkeys(named.values()):
        rows = table.rows.select(np.flatnonzero(splits == split))
        parts[split] = replace(table, rows=rows, bad_rows=table.bad_rows if split == "train" else [])
    return parts


# --- one table


def _check(path: Path, name: str) -> str:
    """The suffix that tells the format of a file that is there."""
    check_file(path, name)
    kind = suffix(path)
    if kind not in SUFFIXES:
        raise WeitiaoError(
            say(
                f"{name}: don't know how to read '{kind or path.name}'. "
                f"Known: {', '.join(SUFFIXES)}, each also .gz",
                f"{name}：不认识“{kind or path.name}”这种格式。可用的有：{', '.join(SUFFIXES)}，均可再加 .gz",
            )
        )
    return kind


def _read_file(path: Path, name: str, options: Options) -> Table:
    kind = _check(path, name)
    content = sha256(path)
    key = _key(content, kind, path.suffix, options)
    if (hit := cached_rows(key)) is not None:
        rows, facts = hit
        bad = [BadRow(column, reason, name, row) for column, reason, row in facts["bad_rows"]]
        return Table(rows, name, bad, content, facts["headerless"])
    bad_rows = BadRows(name, options.skip_bad_rows)
    opened = _open(path, name, kind, options, bad_rows)
    return _fill(opened, name, options, bad_rows, content, key)


def _key(content: str, kind: str, last: str, options: Options) -> str:
    facts = [FORMAT_VERSION, content, kind, last, *vars(options).values()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True)
class Opened:
    """An open table: ``batches`` of row numbers and columns; ``only_text``: every cell is text."""

    batches: Iterator[tuple[Any, dict[str, Any]]]
    only_text: bool = False
    headerless: bool = False


def _open(path: Path, name: str, kind: str, options: Options, bad: BadRows) -> Opened:
    if kind in PARQUET_SUFFIXES:
        return Opened(rowwise.row_batches(rowwise.parquet_rows(path, name), bad))
    file = check_text(path, name)
    if kind in JSON_SUFFIXES:
        return Opened(rowwise.row_batches(rowwise.json_rows(file), bad))
    layout = text_layout(file.sample()) if kind == ".txt" else ""
    if kind in CONLL_SUFFIXES or layout == "conll":
        return Opened(rowwise.row_batches(sentences(file.lines(), has_segment_digits(file.lines())), bad))
    if kind == ".csv":
        table = open_delimited(file, has_header=options.has_header)
    elif kind in (".tsv", ".tab") or layout == "tabs":
        table = open_delimited(file, ("\t",), options.has_header)
    else:
        table = open_numbered(file) if layout == "numbered" else open_lines(file)
    return _of_delimited(table, bad)


def _of_delimited(table: Delimited, bad: BadRows) -> Opened:
    return Opened(table.batches(bad), only_text=True, headerless=table.headerless)


def _read_object(source: Any, options: Options) -> Table:
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        name = "DataFrame"
        check_distinct([str(column) for column in source.columns], name)
        rows: Iterator[Any] = rowwise.frame_rows(source)
    elif hasattr(source, "features") and hasattr(source, "with_format") and hasattr(source, "num_rows"):
        name, rows = "Dataset", rowwise.dataset_rows(source)
    elif isinstance(source, (list, tuple)):
        name, rows = "list", rowwise.list_rows(source)
    else:
        kind = type(source).__name__
        raise WeitiaoError(
            say(
                f"Cannot read a table from a {kind}. "
                "Give a path, a DataFrame, a datasets.Dataset or a list of dicts",
                f"无法从 {kind} 读取数据表。请给出路径、DataFrame、datasets.Dataset 或字典的列表",
            )
        )
    bad = BadRows(name, options.skip_bad_rows)
    return _fill(Opened(rowwise.row_batches(rows, bad)), name, options, bad)


def _fill(
    opened: Opened, name: str, options: Options, bad: BadRows, content: str = "", key: str = ""
) -> Table:
    """Stream what was opened into Arrow. Without a file's ``content`` hash, what is read is hashed."""
    import pyarrow as pa

    with ArrowSink(bad, hashing=not content) as sink:
        keep: list[str] | None = None
        for numbers, columns in opened.batches:
            if options.columns is not None:
                keep = keep or [check_column(column, list(columns), name) for column in options.columns]
                columns = {column: columns[column] for column in keep}
            if opened.only_text:
                sink.settle(dict.fromkeys(columns, pa.string()))
            sink.add(numbers, columns)
        listed = [(error.column, error.reason, error.row) for error in bad.listed]
        facts = {"bad_rows": listed, "headerless": opened.headerless}
        rows = sink.finish(key or (lambda: f"memory-{sink.digest}"), facts)
        content = content or sink.digest
    if not len(rows):
        raise none_left(name, bad.listed)
    return Table(rows, name, bad.listed, content, opened.headerless)
