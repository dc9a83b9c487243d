"""Files from strangers, looked at before a library opens them: safetensors headers, ONNX graphs, JSON, tokenizers.

Nothing here runs or allocates what a file says: lengths are checked against the file's own size first. Every refusal
is one WeitiaoError.
"""

import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.onnx_check import check_graph

LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
LARGEST_JSON = 64 << 20
DEEPEST_JSON = 200
ITEM_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
             "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64, "F4": 4,
             "F6_E2M3": 6, "F6_E3M2": 6}  # fmt: skip


class Tensor(NamedTuple):
    """What a safetensors header says of a tensor; ``begin`` and ``end`` are bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors_header(path: str | Path) -> dict[str, Tensor]:
    """The tensors that a safetensors file holds.

    Raises:
        WeitiaoError: no safetensors file, or one whose header and size do not fit: a length beyond the file, other
            than strict JSON, an unknown type, a negative or wrong shape, offsets that overlap, leave holes or reach
            beyond the end.
    """
    path = Path(path)
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise ValueError("shorter than 8 bytes")
            (length,) = struct.unpack("<Q", start)
            if not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise ValueError(_kind(start) or f"header of {length:,} bytes in a file of {size:,}")
            header = _strict_json(file.read(length), "{")
        return _tensors(header, size - 8 - length)
    except (ValueError, TypeError, RecursionError, OSError) as error:
        raise _damaged(path, error) from None


def _kind(start: bytes) -> str:
    if start[:1] == b"\x80" or start[:2] == b"PK":
        return say("a pickle or a zip under another name", "改了名的 pickle 或 zip")
    return ""


def _tensors(header: Any, data_bytes: int) -> dict[str, Tensor]:
    """Every entry checked alone, then all together: sorted by offset they must fill the data exactly."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ is not text")
    found = {name: _tensor(name, entry) for name, entry in header.items()}
    end = 0
    for name, tensor in sorted(found.items(), key=lambda item: item[1][2:]):
        if tensor.begin != end:
            raise ValueError(f"{name[:80]!r}: offsets overlap or leave a hole")
        end = tensor.end
    if end != data_bytes:
        raise ValueError(f"tensors take {end:,} bytes, the file has {data_bytes:,}")
    return found


def _tensor(name: str, entry: Any) -> Tensor:
    shown = repr(name[:80])
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{shown}: not dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    numbers = [shape, offsets] if isinstance(shape, list) and isinstance(offsets, list) else [[None]]
    if (
        not all(type(one) is int and 0 <= one < 1 << 63 for part in numbers for one in part)
        or len(offsets) != 2
    ):
        raise ValueError(f"{shown}: shape or offsets are no counts")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in ITEM_BITS:
        raise ValueError(f"{shown}: unknown type {str(entry['dtype'])[:20]!r}")
    bits = math.prod(shape) * ITEM_BITS[entry["dtype"]] if len(shape) <= 64 else -1
    if bits != 8 * (offsets[1] - offsets[0]):
        raise ValueError(f"{shown}: shape and offsets do not fit")
    return Tensor(entry["dtype"], tuple(shape), *offsets)


def read_safe_json(path: str | Path, largest: int = LARGEST_JSON) -> Any:
    """JSON that is neither huge nor deeply nested, without doubled keys.

    Raises:
        WeitiaoError: it is, or is missing, or not JSON.
    """
    path = Path(path)
    try:
        if (size := os.path.getsize(path)) > largest:
            raise ValueError(f"{size:,} bytes")
        return _strict_json(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise _damaged(path, error) from None


def _strict_json(content: bytes, first: str = "") -> Any:
    text = content.decode("utf-8")
    if first and not text.startswith(first):
        raise ValueError("the header is not JSON")
    _check_depth(text)
    return json.loads(text, object_pairs_hook=_no_doubles, parse_constant=_no_constant)


def _check_depth(text: str) -> None:
    """Brackets are counted before the parser recurses into them; those inside strings only make this stricter."""
    if text.count("[") + text.count("{") <= DEEPEST_JSON:
        return
    depth, inside, place = 0, False, 0
    while place < len(text):
        mark = text[place]
        if inside:
            close, escape = text.find('"', place), text.find("\\", place)
            if close < 0:
                return  # the parser will say so
            if 0 <= escape < close:
                place = escape + 2
                continue
            place, inside = close, False
        elif mark == '"':
            inside = True
        elif mark in "[{":
            depth += 1
            if depth > DEEPEST_JSON:
                raise ValueError(say("nested too deeply", "嵌套过深"))
        elif mark in "]}":
            depth -= 1
        place += 1


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(say("a name occurs twice", "有重复的键"))
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def check_onnx(path: str | Path) -> None:
    """Make sure that an ONNX file can be handed to a runtime.

    Raises:
        WeitiaoError: not ONNX, an operator outside the known domains, or tensors in a file that lies elsewhere, is a
            link, or is too short.
    """
    path = Path(path)
    try:
        check_graph(path)
    except (ValueError, OSError, RecursionError) as error:
        raise _damaged(path, error) from None


def open_tokenizer(path: str | Path) -> Any:
    """A ``tokenizers.Tokenizer`` from tokenizer.json.

    Raises:
        WeitiaoError: the file is missing, too large, or no tokenizer.
    """
    from tokenizers import Tokenizer

    path = Path(path)
    try:
        if (size := os.path.getsize(path)) > LARGEST_JSON:
            raise ValueError(f"{size:,} bytes")
        return Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic in the library's Rust code is no Exception
        raise _damaged(path, error) from None


def check_model_folder(folder: str | Path) -> None:
    """Look at every file of a model's folder that a library will open. Weights must be there as safetensors.

    Raises:
        WeitiaoError: pickled weights and no safetensors; a file that leads out of the folder, or is no plain file;
            JSON, safetensors or a tokenizer that is damaged.
    """
    folder = Path(folder)
    for path in sorted(_files(folder)):
        _check_plain(path, folder)
        if path.suffix == ".safetensors":
            read_safetensors_header(path)
        elif path.suffix == ".onnx":
            check_onnx(path)
        elif path.name == "tokenizer.json":
            _check_start(path)
        elif path.suffix == ".json":
            read_safe_json(path)


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder; a folder in it is left to who opens it."""
    for path in folder.iterdir():
        if not path.is_dir() or path.is_symlink():
            yield path


def _check_plain(path: Path, folder: Path) -> None:
    """A plain file, or a link to one inside the folder or in the hub cache's ``blobs`` two folders up."""
    if path.is_symlink():
        target, own = path.resolve(), folder.resolve()
        blobs = own.parent.parent / "blobs"
        if not any(target.is_relative_to(place) for place in (own, blobs)):
            raise _unsafe(path, say("a link that leads out of the folder", "指向目录之外的链接"))
    if not path.is_file():
        raise _unsafe(path, say("no plain file", "不是普通文件"))


def _check_start(path: Path) -> None:
    """A large tokenizer is read once, by its library; here only what is plainly none is refused."""
    with open(path, "rb") as file:
        start = file.read(64).lstrip(b" \t\r\n\xef\xbb\xbf")
    if not start.startswith(b"{") or os.path.getsize(path) > LARGEST_JSON:
        raise _damaged(path, ValueError(say("no tokenizer", "不是分词器")))


def _damaged(path: Path, error: BaseException) -> WeitiaoError:
    reason = _shown(str(error) or type(error).__name__)
    return WeitiaoError(
        say(
            f"{path} is cut short or damaged ({reason}). Fetch or save it again",
            f"{path} 不完整或已损坏（{reason}）。请重新获取或保存",
        )
    )


def _unsafe(path: Path, reason: str) -> WeitiaoError:
    return WeitiaoError(say(f"{path} is refused: {reason}", f"{path} 已被拒绝：{reason}"))


def _shown(reason: str) -> str:
    """One line of printable characters, short."""
    return "".join(mark if mark.isprintable() else "?" for mark in " ".join(reason.split()))[:160]
