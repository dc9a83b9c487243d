"""An ONNX file read as protobuf, without the onnx package: where its tensors lie, and whose operators it names.

Only messages that can hold a file name or an operator are walked; tensors' data is stepped over, so that a model of
hundreds of megabytes takes milliseconds. Field numbers are those of onnx.proto3.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

# Operators that ONNX Runtime and OpenVINO bring themselves. Another domain would need a library of its own.
DOMAINS = frozenset(
    ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "org.openvinotoolkit")
)
DEEPEST = 60
MOST_NODES = 2_000_000
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
# What each message's fields lead to; other fields are stepped over.
MODEL = {7: "graph", 8: "opset", 20: "training", 25: "function"}
INSIDE = {
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute", 7: "domain"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 9: "opset", 10: "domain", 11: "attribute"},
    "opset": {1: "domain"},
    "tensor": {13: "external"},
    "training": {1: "graph", 2: "graph"},
}
Span = tuple[int, int]


def check_graph(path: Path) -> None:
    """Walk a model.

    Raises:
        ValueError: not protobuf, no graph, another domain, or external data that cannot be right.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < 8:
            raise ValueError("shorter than 8 bytes")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            walk = _Walk(content, path)
            graphs = 0
            for number, kind, value in walk.fields((0, len(content))):
                if number in MODEL and kind == BYTES:
                    graphs += number == 7
                    walk.message(MODEL[number], value, 0)
            if not graphs:
                raise ValueError("no graph")


class _Walk:
    def __init__(self, content: mmap.mmap, path: Path) -> None:
        self.content, self.path, self.seen = content, path, 0

    def message(self, kind: str, span: Span, depth: int) -> None:
        """One message and those inside it."""
        self.seen += 1
        if depth > DEEPEST or self.seen > MOST_NODES:
            raise ValueError("nested too deeply or too many nodes")
        inside = INSIDE[kind]
        external: dict[str, str] = {}
        for number, wire, value in self.fields(span):
            into = inside.get(number)
            if into is None or wire != BYTES:
                continue
            if into == "domain":
                self.domain(value)
            elif into == "external":
                external |= self.pair(value)
            else:
                self.message(into, value, depth + 1)
        if external:
            self.external(external)

    def domain(self, span: Span) -> None:
        """Only operators that need no further library."""
        name = self.text(span)
        if name not in DOMAINS and not name.startswith(("ai.onnx.", "pkg.onnxscript.")):
            raise ValueError(f"operators of the domain {name[:60]!r}, which needs a library of its own")

    def external(self, entries: dict[str, str]) -> None:
        """Data beside the model: a plain file of the same folder that is long enough."""
        name = entries.get("location", "")
        if not name or name != os.path.basename(name) or name in (".", "..") or "\\" in name or "\0" in name:
            raise ValueError(f"tensor data outside the folder: {name[:80]!r}")
        beside = self.path.parent / name
        if beside.is_symlink() or not beside.is_file():
            raise ValueError(f"tensor data in {name[:80]!r}, which is missing or a link")
        offset, length = (int(entries.get(key) or 0) for key in ("offset", "length"))
        if offset < 0 or length < 0 or offset + length > beside.stat().st_size:
            raise ValueError(f"tensor data beyond the end of {name[:80]!r}")

    def pair(self, span: Span) -> dict[str, str]:
        """A key and a value (StringStringEntryProto)."""
        found = {number: self.text(value) for number, wire, value in self.fields(span) if wire == BYTES}
        return {found.get(1, ""): found.get(2, "")}

    def text(self, span: Span) -> str:
        if span[1] - span[0] > 4096:
            raise ValueError("a name of more than 4096 bytes")
        return self.content[span[0] : span[1]].decode("utf-8")

    def fields(self, span: Span) -> Iterator[tuple[int, int, Span]]:
        """``(number, wire type, span of the value)`` of each field. A length never reaches beyond the message."""
        place, end = span
        while place < end:
            key, place = self.varint(place, end)
            number, wire = key >> 3, key & 7
            start = place
            if wire == BYTES:
                length, start = self.varint(place, end)
                place = start + length
            elif wire == VARINT:
                _, place = self.varint(place, end)
            elif wire in (FIXED_64, FIXED_32):
                place += 8 if wire == FIXED_64 else 4
            else:
                raise ValueError("not ONNX")
            if place > end or not number:
                raise ValueError("not ONNX, or cut short")
            yield number, wire, (start, place)

    def varint(self, place: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while place < end and shift < 70:
            byte = self.content[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, place
            shift += 7
        raise ValueError("not ONNX, or cut short")
