"""Weights with many zeros in fewer bytes inside an ONNX graph: a bit for each weight, and the values that are left.

The nodes that unpack them have only constants to work on, so an engine does it once, when it loads the graph: the file
is small and any engine reads it.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WORTH = 0.85  # packed where it takes at most this share of the bytes
LEAST = 1 << 10


def pack_zeros(model: Any) -> tuple[Any, int]:
    """The model with its sparse tensors packed, and the bytes that were saved."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    nodes: list[Any] = []
    kept: list[Any] = []
    saved = 0
    for tensor in graph.initializer:
        # Weights only: a zero point that is not plainly constant keeps engines from whole-number products.
        weight = len(tensor.dims) == 2 and np.prod(tensor.dims) >= LEAST
        values = numpy_helper.to_array(tensor) if weight else np.zeros(0)
        bits, left = np.packbits(values.ravel() != 0), values[values != 0]
        small = bits.nbytes + left.nbytes + left.itemsize
        if not values.size or values.dtype not in (np.float32, np.int8) or small > WORTH * values.nbytes:
            kept.append(tensor)
            continue
        saved += values.nbytes - small
        new, made = _unpacked(tensor.name, values, bits, left)
        kept += new
        nodes += made
    if not saved:
        return model, 0
    old = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.node[:], graph.initializer[:]
    graph.initializer.extend([*kept, *_shared()])
    graph.node.extend([*nodes, *old])
    return found, saved


def _shared() -> list[Any]:
    """Constants that every unpacking uses."""
    values: dict[str, np.ndarray] = {
        "unpack.powers": np.array([[128, 64, 32, 16, 8, 4, 2, 1]], np.int32),
        "unpack.two": np.array(2, np.int32),
        "unpack.flat": np.array([-1], np.int64),
        "unpack.zero": np.array([0], np.int64),
        "unpack.axis": np.array(0, np.int32),
    }
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _unpacked(
    name: str, values: np.ndarray, bits: np.ndarray, left: np.ndarray
) -> tuple[list[Any], list[Any]]:
    """The tensors and nodes that give ``name`` its values: value number (bits so far) where the bit is set, else 0."""
    stored = {
        f"{name}.bits": bits[:, None],
        f"{name}.values": np.concatenate([np.zeros(1, values.dtype), left]),
        f"{name}.count": np.array([values.size], np.int64),
        f"{name}.shape": np.array(values.shape, np.int64),
    }

    def make(op: str, inputs: list[str], out: str, **attributes: Any) -> Any:
        return helper.make_node(op, inputs, [out], name=out, **attributes)

    part = f"{name}.unpack"
    nodes = [
        make("Cast", [f"{name}.bits"], f"{part}.wide", to=TensorProto.INT32),
        make("Div", [f"{part}.wide", "unpack.powers"], f"{part}.shifted"),
        make("Mod", [f"{part}.shifted", "unpack.two"], f"{part}.bit"),
        make("Reshape", [f"{part}.bit", "unpack.flat"], f"{part}.flat"),
        make("Slice", [f"{part}.flat", "unpack.zero", f"{name}.count"], f"{part}.mask"),
        make("CumSum", [f"{part}.mask", "unpack.axis"], f"{part}.number"),
        make("Mul", [f"{part}.number", f"{part}.mask"], f"{part}.place"),
        make("Gather", [f"{name}.values", f"{part}.place"], f"{part}.row"),
        make("Reshape", [f"{part}.row", f"{name}.shape"], name),
    ]
    return [numpy_helper.from_array(value, key) for key, value in stored.items()], nodes
