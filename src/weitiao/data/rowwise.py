"""Sources whose rows are dicts (JSON, Parquet, CoNLL sentences, objects in memory), their cells made alike.

A cell ends as text, as a (nested) list of text, as spans ``[{"start", "end", "label"}]``, or as None where
it is missing.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.messages import say
from weitiao.data.arrow import BATCH_ROWS, BadRows
from weitiao.data.clue import is_clue, is_spans, spans_from_clue, spans_from_list
from weitiao.data.columns import TAG_NAMES, TEXT_NAMES, TOKEN_NAMES, TOKENS
from weitiao.data.conll import spans_from_tags
from weitiao.data.files import TextFile

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from pandas import DataFrame

Row = dict[str, Any]
_CHUNK_CHARACTERS = 1 << 20
_MAX_ITEM_CHARACTERS = 64 << 20
# Where an empty dict means "no entities", as CLUE writes it.
_CLUE_NAMES = frozenset(TOKENS[1].aliases) - {"slots"}


def row_batches(
    rows: Iterable[tuple[int, Row | BadRow]], bad: BadRows
) -> Iterator[tuple[list[int], dict[str, list[Any]]]]:
    """Tidy rows in batches of columns. The columns are the keys of the first batch; one not there is None."""
    tidied = _tidied(rows, bad)
    first = list(islice(tidied, BATCH_ROWS))
    names = list(dict.fromkeys(chain.from_iterable(row for _, row in first)))
    batch = first
    while batch:
        yield [number for number, _ in batch], {name: [row.get(name) for _, row in batch] for name in names}
        batch = list(islice(tidied, BATCH_ROWS))


def _tidied(rows: Iterable[tuple[int, Row | BadRow]], bad: BadRows) -> Iterator[tuple[int, Row]]:
    for number, row in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            yield number, tidy(row)
        except BadRow as error:
            bad(number, error)


def tidy(row: Mapping[str, Any]) -> Row:
    """A row with its cells made alike; tokens and tags without a text get ``text`` and ``spans`` beside them.

    Raises:
        BadRow: entities don't fit the text, or tags don't fit the tokens.
    """
    if all(type(value) is str for value in row.values()):
        return dict(row)
    text = next((row[name] for name in TEXT_NAMES if isinstance(row.get(name), str)), None)
    result = {name: value if type(value) is str else _cell(name, value, text) for name, value in row.items()}
    tokens = next((name for name in TOKEN_NAMES if isinstance(result.get(name), list)), None)
    tags = next((name for name in TAG_NAMES if isinstance(result.get(name), list)), None)
    if tokens and tags and "text" not in row:
        result["text"], result["spans"] = spans_from_tags(result[tokens], result[tags])
    return result


def _cell(name: str, value: Any, text: str | None) -> Any:
    if hasattr(value, "tolist"):  # numpy
        value = value.tolist()
    if isinstance(value, bytes):  # a picture
        return value
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), bytes):  # a picture as the hub's data sets keep it, beside its path
            return value["bytes"]
        if is_clue(value) or name in _CLUE_NAMES:
            if text is None:
                raise BadRow(name, say("there are entities but no text", "有实体却没有文本"))
            return spans_from_clue(text, value, name)
        return _as_json(value)
    if isinstance(value, (list, tuple)):
        if is_spans(value):
            return spans_from_list(text, value, name)
        return [_cell("", item, None) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> str | None:
    if value is None or value != value:  # NaN is how pandas says missing
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


# --- JSON


def json_rows(file: TextFile) -> Iterator[tuple[int, Row | BadRow]]:
    """Rows of JSON lines (numbered by line) or of a JSON array of objects (numbered by place), both streamed.

    Raises:
        WeitiaoError: the file is a single JSON object over several lines, or an array with a syntax error.
    """
    start = next((line.lstrip() for line in file.lines() if line.strip()), "")
    if start.startswith("["):
        return _array_rows(file)
    if start.rstrip() == "{":
        raise WeitiaoError(
            say(
                f"{file.name} is one JSON object, not a table. Give a list of objects, or one object a line",
                f"{file.name} 是单个 JSON 对象，不是数据表。请给出对象的列表，或每行一个对象",
            )
        )
    return _line_rows(file)


def _line_rows(file: TextFile) -> Iterator[tuple[int, Row | BadRow]]:
    for number, line in enumerate(file.lines(), start=1):
        if line.strip():
            try:
                yield number, _object(json.loads(line))
            except (ValueError, RecursionError) as error:
                reason = say(f"not valid JSON: {error}", f"不是合法的 JSON：{error}")
                yield number, BadRow(say("whole row", "整行"), reason)


def _object(value: Any) -> Row | BadRow:
    if isinstance(value, dict):
        return value
    kind = type(value).__name__
    reason = say(f"expected an object {{...}}, found {kind}", f"应为对象 {{...}}，实为 {kind}")
    return BadRow(say("whole row", "整行"), reason)


def _array_rows(file: TextFile) -> Iterator[tuple[int, Row | BadRow]]:
    with file.open() as stream:
        for number, value in enumerate(_array_items(stream, file.name), start=1):
            yield number, _object(value)


def _array_items(stream: IO[str], name: str) -> Iterator[Any]:
    """Items of a JSON array, decoded one by one so that the array is never held whole."""
    decoder = json.JSONDecoder()
    buffer, at, item, line = stream.read(_CHUNK_CHARACTERS), 0, 0, 1
    at = buffer.index("[") + 1
    while True:
        at = _skip(buffer, at, "," if item else "")
        if buffer[at : at + 1] == "]":
            return
        try:
            value, end = decoder.raw_decode(buffer, at)
            # What ends where the buffer does may go on in the next chunk.
            if end == len(buffer):
                raise json.JSONDecodeError("cut off", buffer, end)
        except (json.JSONDecodeError, RecursionError) as error:
            more = stream.read(max(_CHUNK_CHARACTERS, len(buffer) - at))
            if more and len(buffer) - at < _MAX_ITEM_CHARACTERS:
                line += buffer.count("\n", 0, at)
                buffer, at = buffer[at:] + more, 0
                continue
            where = line + buffer.count("\n", 0, getattr(error, "pos", at))
            raise WeitiaoError(
                say(
                    f"{name}: item {item + 1} of the list (line {where}) is not valid JSON: {error}",
                    f"{name}：列表第 {item + 1} 项（第 {where} 行）不是合法的 JSON：{error}",
                )
            ) from None
        yield value
        at, item = end, item + 1


def _skip(buffer: str, at: int, separator: str) -> int:
    """Past white space and at most one separator."""
    while at < len(buffer) and buffer[at].isspace():
        at += 1
    if separator and buffer[at : at + 1] == separator:
        return _skip(buffer, at + 1, "")
    return at


# --- Parquet and objects in memory


def parquet_rows(path: Path, name: str) -> Iterator[tuple[int, Row]]:
    """Rows of a Parquet file, numbered from 1.

    Raises:
        WeitiaoError: it isn't one, or it is cut short.
    """
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    source: Any = (
        pa.BufferReader(gzip.decompress(path.read_bytes())) if path.suffix.lower() == ".gz" else path
    )
    try:
        with pq.ParquetFile(source) as file:
            names = _class_names(Features.from_arrow_schema(file.schema_arrow))
            yield from _arrow_rows(file.iter_batches(batch_size=BATCH_ROWS), names)
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WeitiaoError(
            say(f"{name} is not a whole Parquet file: {reason}", f"{name} 不是完整的 Parquet 文件：{reason}")
        ) from None


def dataset_rows(dataset: "Dataset") -> Iterator[tuple[int, Row]]:
    """Rows of a ``datasets.Dataset``, numbered from 1; class numbers become the names of the classes."""
    names = _class_names(dataset.features)
    return _arrow_rows(dataset.with_format("arrow").iter(batch_size=BATCH_ROWS), names)


def frame_rows(frame: "DataFrame") -> Iterator[tuple[int, Row]]:
    """Rows of a pandas DataFrame, numbered from 1 by place, whatever its index."""
    names = [str(name) for name in frame.columns]
    number = 0
    for start in range(0, len(frame), BATCH_ROWS):
        chunk = frame.iloc[start : start + BATCH_ROWS].astype(object)
        chunk = chunk.where(chunk.notna(), None)
        for values in chunk.itertuples(index=False, name=None):
            number += 1
            yield number, dict(zip(names, values, strict=True))


def list_rows(rows: Sequence[Any]) -> Iterator[tuple[int, Row | BadRow]]:
    """A list of dicts as rows, numbered from 1."""
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Mapping):
            yield number, {str(name): value for name, value in row.items()}
        else:
            yield number, _object(row)


def _arrow_rows(
    tables: Iterable["pa.Table | pa.RecordBatch"], names: Mapping[str, Any]
) -> Iterator[tuple[int, Row]]:
    number = 0
    for table in tables:
        columns = [
            _named(table.column(place).to_pylist(), names.get(name))
            for place, name in enumerate(table.schema.names)
        ]
        for values in zip(*columns, strict=True):
            number += 1
            yield number, dict(zip(table.schema.names, values, strict=True))


def _class_names(features: Any) -> dict[str, Any]:
    """The class names of each column whose values (or their items) are class numbers."""
    found = {}
    for name, feature in (features or {}).items():
        inner: Any = getattr(feature, "feature", feature)
        if hasattr(inner, "int2str"):
            found[name] = inner.names
    return found


def _named(values: list[Any], names: Sequence[str] | None) -> list[Any]:
    if names is None:
        return values
    return [
        _named(value, names) if isinstance(value, list) else _class_name(value, names) for value in values
    ]


def _class_name(value: int | None, names: Sequence[str]) -> str | None:
    return None if value is None or value < 0 else names[value]  # -1 is how datasets says "no label"
