"""Rows streamed into Arrow: small tables stay in memory, large ones become memory-mapped files in the cache.

The cache is ``tables/`` under ``WEITIAO_HOME``: ``<key>.arrow`` (an Arrow IPC stream) and, written last,
``<key>.json`` (its size and what else its maker wants to know). An entry without a fitting ``.json`` doesn't
count.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.home import home
from weitiao.core.messages import say
from weitiao.core.runs import sync_file, write_json

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

BATCH_ROWS = 10_000
SMALL_BYTES = 16 << 20  # of Arrow data; a table up to this size is read again sooner than looked up
UNSETTLED_ROWS = 100_000  # held back while a column's type isn't known (only empty lists so far)
ROW_NUMBER = "row_number"
OWN_ROW_NUMBER = "row_number (own)"  # what a table's own column of that name is called
_SPAN_COLUMNS = ("spans", "slots", "entities", "label", "labels")


class BadRows:
    """What to do with a row that can't be used: raise, or with ``skip`` keep it in a list."""

    def __init__(self, file: str, skip: bool) -> None:
        self.file, self.skip = file, skip
        self.listed: list[BadRow] = []

    def __call__(self, row: int, error: BadRow) -> None:
        """``row`` as a person counts in the file, from 1."""
        error = error.at(self.file, row)
        if not self.skip:
            raise error
        self.listed.append(error)


class ArrowSink:
    """Takes batches of columns and becomes a ``datasets.Dataset``. In a ``with``, so an error leaves nothing.

    Column types are those of the first values that show them; a later value of another type is a bad row.
    """

    def __init__(self, bad: BadRows, hashing: bool = False) -> None:
        """``hashing`` computes ``digest``, the sha256 of what was added."""
        self.bad = bad
        self._types: dict[str, pa.DataType] = {}
        self._digest = hashlib.sha256() if hashing else None
        self._held: list[tuple[Sequence[int], dict[str, Sequence[Any]]]] = []
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self._writer: Any = None
        self._path: Path | None = None

    def __enter__(self) -> "ArrowSink":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    @property
    def digest(self) -> str:
        """The sha256 of all that was added, in hex."""
        assert self._digest is not None
        return self._digest.hexdigest()

    def settle(self, types: Mapping[str, "pa.DataType"]) -> None:
        """Say the types of columns before their values show them."""
        self._types |= types

    def add(self, numbers: Sequence[int], columns: dict[str, Sequence[Any]]) -> None:
        """Add rows: their row numbers, and as many values of each column. Every call has the same columns."""
        if ROW_NUMBER in columns:
            columns = {OWN_ROW_NUMBER if name == ROW_NUMBER else name: each for name, each in columns.items()}
        self._held.append((numbers, columns))
        for name, values in columns.items():
            if name not in self._types and (kind := _type_of(values)) is not None:
                self._types[name] = kind
        settled = all(name in self._types for name in columns)
        if settled or sum(len(held) for held, _ in self._held) >= UNSETTLED_ROWS:
            self._flush()

    def _flush(self) -> None:
        for numbers, columns in self._held:
            for name in columns:
                if name not in self._types:
                    self._types[name] = _default_type(name, columns[name])
            self._write(numbers, columns)
        self._held.clear()

    def _write(self, numbers: Sequence[int], columns: dict[str, Sequence[Any]]) -> None:
        import pyarrow as pa

        arrays: list[pa.Array] = []
        wrong: dict[int, str] = {}
        for name, values in columns.items():
            try:
                arrays.append(_array(values, self._types[name]))
            except _MISFIT_ERRORS:
                wrong |= {place: name for place in _misfits(values, self._types[name])}
        if wrong:
            for place in sorted(wrong):
                self.bad(numbers[place], _misfit(wrong[place], columns[wrong[place]][place]))
            kept = [place for place in range(len(numbers)) if place not in wrong]
            return self._write(
                [numbers[place] for place in kept],
                {name: [values[place] for place in kept] for name, values in columns.items()},
            )
        if len(numbers) == 0:
            return None
        if self._digest is not None:
            content = json.dumps([list(numbers), columns], ensure_ascii=False, default=str)
            self._digest.update(content.encode())
        arrays.append(pa.array(numbers, type=pa.int64()))
        self._store(pa.RecordBatch.from_arrays(arrays, names=[*columns, ROW_NUMBER]))
        return None

    def _store(self, batch: "pa.RecordBatch") -> None:
        import pyarrow as pa

        self._bytes += batch.nbytes
        if self._writer is None:
            self._batches.append(batch)
            if self._bytes > SMALL_BYTES:
                with _cache_errors():
                    folder = _folder()
                    folder.mkdir(parents=True, exist_ok=True)
                    handle, path = tempfile.mkstemp(dir=folder, prefix=".writing-", suffix=".arrow")
                    os.close(handle)
                    self._path = Path(path)
                    self._writer = pa.RecordBatchStreamWriter(path, batch.schema)
                    for early in self._batches:
                        self._writer.write_batch(early)
                self._batches.clear()
        else:
            with _cache_errors():
                self._writer.write_batch(batch)

    def finish(self, key: str | Callable[[], str], facts: Mapping[str, Any] | None = None) -> "Dataset":
        """The rows as a dataset. A large table goes to the cache under ``key``, with ``facts`` beside it."""
        import pyarrow as pa
        from datasets import Dataset

        self._flush()
        key = key if isinstance(key, str) else key()
        if self._writer is None:
            schema = self._batches[0].schema if self._batches else pa.schema([(ROW_NUMBER, pa.int64())])
            return Dataset(pa.Table.from_batches(self._batches, schema), fingerprint=key[:32])
        assert self._path is not None
        final = _folder() / f"{key}.arrow"
        with _cache_errors():
            self._writer.close()
            self._writer = None
            sync_file(self._path)
            os.chmod(self._path, 0o644)
            os.replace(self._path, final)
            self._path = None
            write_json(final.with_suffix(".json"), {"bytes": final.stat().st_size, **(facts or {})})
        return _mapped(final)


def cached_rows(key: str) -> tuple["Dataset", dict[str, Any]] | None:
    """A table of the cache with its facts, or None where there is none that is whole."""
    path = _folder() / f"{key}.arrow"
    with contextlib.suppress(OSError, ValueError, KeyError):
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if path.stat().st_size == facts["bytes"]:
            return _mapped(path), facts
    return None


def _mapped(path: Path) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_file(str(path))


def _folder() -> Path:
    return home() / "tables"


@contextlib.contextmanager
def _cache_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise WeitiaoError(
            say(
                f"Cannot write to the cache {_folder()}: {reason}. "
                "Free some space, or set WEITIAO_HOME to another folder",
                f"无法写入缓存 {_folder()}：{reason}。请腾出空间，或用 WEITIAO_HOME 指定别的文件夹",
            )
        ) from None


# --- types of columns

# What pyarrow raises for a value that isn't of a column's type; its own exceptions derive from these.
_MISFIT_ERRORS = (ValueError, TypeError, OverflowError, NotImplementedError)


def _array(values: Sequence[Any], kind: "pa.DataType") -> "pa.Array":
    """An Arrow array. Stricter than pyarrow, which takes a text for a list of its characters."""
    import pyarrow as pa

    if pa.types.is_list(kind) and any(isinstance(value, str) for value in values):
        raise TypeError("a text in a column of lists")
    return pa.array(values, type=kind)


def _type_of(values: Sequence[Any]) -> "pa.DataType | None":
    """The Arrow type of a column, or None where its values don't show it (none, or empty lists only)."""
    import pyarrow as pa

    try:
        kind = pa.array(values).type
    except _MISFIT_ERRORS:
        for value in values:
            if value is not None and value != []:
                with contextlib.suppress(*_MISFIT_ERRORS):
                    return pa.array([value]).type
        return pa.string()
    return None if "null" in str(kind) else kind


def _default_type(name: str, values: Sequence[Any]) -> "pa.DataType":
    import pyarrow as pa

    if not any(isinstance(value, list) for value in values):
        return pa.string()
    span = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())])
    return pa.list_(span if name in _SPAN_COLUMNS else pa.string())


def _misfits(values: Sequence[Any], kind: "pa.DataType") -> list[int]:
    found = []
    for place, value in enumerate(values):
        try:
            _array([value], kind)
        except _MISFIT_ERRORS:
            found.append(place)
    return found


def _misfit(column: str, value: Any) -> BadRow:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return BadRow(column, say(f"{shown} is not of the column's type", f"{shown} 与该列其他值的类型不同"))
