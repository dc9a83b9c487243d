"""Whole-number weights and activations in an ONNX graph: the nodes.

A product is a MatMul with a weight that belongs to the model. Its weight becomes int8 with a scale for each output
(symmetric), its input uint8 with one scale and zero point; engines fuse the pair of conversions around a product
into one in whole numbers. A product kept in higher precision has its weight stored as float16, which is turned back
when the graph is loaded: half the bytes, and no rounding that would show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# A processor without VNNI adds two products of uint8 and int8 in 16 bits. With weights of 7 bits that sum cannot
# overflow (2 * 255 * 64 < 2 ** 15), so that a bundle decides the same on every processor.
LARGEST = {7: 64, 8: 127}
HEAD = "head."  # the name of the head's product begins with it: small, and the decision is made there
LEAST = 1 << 10  # values; smaller tensors are not worth a node


@dataclass(frozen=True)
class Group:
    """The products of one input: their nodes' names and their weights, ``[in, out]`` each."""

    input: str
    products: tuple[str, ...]
    weights: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """How a group's input becomes uint8: the bounds, and what each channel is divided by before (None: nothing)."""

    low: float
    high: float
    factor_I: np.ndarray | None = field(default=None, compare=False)


def groups(graph: Any) -> list[Group]:
    """The products of a graph whose right side is a matrix of the model, by their input, in the graph's order."""
    matrices = {t.name for t in graph.initializer if len(t.dims) == 2 and np.prod(t.dims) >= LEAST}
    found: dict[str, list[Any]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in matrices and not node.name.startswith(HEAD):
            found.setdefault(node.input[0], []).append(node)
    return [
        Group(source, tuple(n.name for n in nodes), tuple(n.input[1] for n in nodes))
        for source, nodes in found.items()
    ]


def tables(graph: Any) -> Sequence[Any]:
    """The Gathers from a large matrix of the model: embeddings."""
    large = {t.name for t in graph.initializer if len(t.dims) == 2 and np.prod(t.dims) >= LEAST}
    return [node for node in graph.node if node.op_type == "Gather" and node.input[0] in large]


def per_column(weight_IO: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 of so many bits and one scale an output, ``[in, out]`` and ``[out]``; symmetric: zero stays zero."""
    most = LARGEST[bits]
    scale_O = np.maximum(np.abs(weight_IO).max(0), 1e-12) / most
    return np.clip(np.rint(weight_IO / scale_O), -most, most).astype(np.int8), scale_O.astype(np.float32)


def to_uint8(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point for values in [low, high]; 0 is among them and exact."""
    low, high = min(low, 0.0), max(high, 1e-6)
    scale = np.float32((high - low) / 255)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


class Rewriter:
    """A copy of a model in the making. ``done`` gives it."""

    def __init__(self, model: Any, bits: int) -> None:
        self.bits = bits
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.nodes = {node.name: node for node in self.model.graph.node}
        self.ahead: dict[str, list[Any]] = {}  # node's name -> nodes to put in front of it

    def array(self, name: str) -> np.ndarray:
        """A tensor of the model."""
        return numpy_helper.to_array(self.tensors[name])

    def put(self, name: str, value: Any) -> str:
        """Add a tensor."""
        self.tensors[name] = numpy_helper.from_array(
            np.ascontiguousarray(value).reshape(np.shape(value)), name
        )
        return name

    def add(self, before: str, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Put a node in front of the one called ``before``."""
        node = helper.make_node(op, inputs, [output], name=output, **attributes)
        self.ahead.setdefault(before, []).append(node)
        return output

    def whole(self, group: Group, setting: Setting) -> None:
        """Compute a group in whole numbers, its input's range fixed beforehand."""
        first, source = group.products[0], self._smoothed(group, setting)
        scale, zero = to_uint8(setting.low, setting.high)
        pair = [self.put(f"{first}.in.scale", scale), self.put(f"{first}.in.zero", zero)]
        small = self.add(first, "QuantizeLinear", [source, *pair], f"{first}.in.uint8")
        wide = self.add(first, "DequantizeLinear", [small, *pair], f"{first}.in.wide")
        for product, weight in zip(group.products, group.weights, strict=True):
            self.nodes[product].input[0] = wide
            parts = self._weight(weight, setting.factor_I)
            out = self.add(product, "DequantizeLinear", parts, f"{weight}.wide", axis=1)
            self.nodes[product].input[1] = out

    def dynamic(self, group: Group, setting: Setting) -> None:
        """Compute a group in whole numbers, its input's range taken of each batch."""
        first, source = group.products[0], self._smoothed(group, setting)
        small, scale, zero = (f"{first}.in.{part}" for part in ("uint8", "scale", "zero"))
        node = helper.make_node("DynamicQuantizeLinear", [source], [small, scale, zero], name=small)
        self.ahead.setdefault(first, []).append(node)
        for product, weight in zip(group.products, group.weights, strict=True):
            q, weight_scale, weight_zero = self._weight(weight, setting.factor_I)
            sums = self.add(product, "MatMulInteger", [small, q, zero, weight_zero], f"{product}.whole")
            wide = self.add(product, "Cast", [sums], f"{product}.cast", to=TensorProto.FLOAT)
            both = self.add(product, "Mul", [scale, weight_scale], f"{product}.scale")
            old = self.nodes[product]
            old.CopyFrom(helper.make_node("Mul", [wide, both], list(old.output), name=product))

    def _smoothed(self, group: Group, setting: Setting) -> str:
        if setting.factor_I is None:
            return group.input
        name = self.put(f"{group.products[0]}.smooth", (1 / setting.factor_I).astype(np.float32))
        return self.add(group.products[0], "Mul", [group.input, name], f"{group.products[0]}.smoothed")

    def _weight(self, name: str, factor_I: np.ndarray | None) -> list[str]:
        """A weight as int8: the names of its values, scales and zero points."""
        weight_IO = self.array(name) if factor_I is None else self.array(name) * factor_I[:, None]
        q_IO, scale_O = per_column(weight_IO, self.bits)
        del self.tensors[name]
        zeros = self.put(f"{name}.zero", np.zeros(len(scale_O), np.int8))
        return [self.put(f"{name}.int8", q_IO), self.put(f"{name}.scale", scale_O), zeros]

    def stored(self, group: Group) -> None:
        """Keep a group in floating point, its weights stored as float16: engines turn them back when they load."""
        for product, name in zip(group.products, group.weights, strict=True):
            small = self.put(f"{name}.half", self.array(name).astype(np.float16))
            self.nodes[product].input[1] = self.add(
                product, "Cast", [small], f"{name}.wide", to=TensorProto.FLOAT
            )
            del self.tensors[name]

    def rows(self, gather: Any) -> None:
        """A table of embeddings as int8 with a scale for each row, turned back after the rows are picked."""
        (name, ids), out = gather.input, gather.output[0]
        table_VD = self.array(name)
        scale_V1 = np.maximum(np.abs(table_VD).max(1, keepdims=True), 1e-12) / 127
        small = self.put(f"{name}.int8", np.clip(np.rint(table_VD / scale_V1), -127, 127).astype(np.int8))
        scales = self.put(f"{name}.scale", scale_V1.astype(np.float32))
        picked = self.add(gather.name, "Gather", [small, ids], f"{out}.int8")
        scale = self.add(gather.name, "Gather", [scales, ids], f"{out}.scale")
        cast = self.add(gather.name, "Cast", [picked], f"{out}.cast", to=TensorProto.FLOAT)
        del self.tensors[name]
        gather.CopyFrom(helper.make_node("Mul", [cast, scale], [out], name=gather.name))

    def done(self) -> Any:
        """The model, its nodes in order."""
        graph = self.model.graph
        nodes = [new for node in graph.node for new in (*self.ahead.get(node.name, ()), node)]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        tensors = list(self.tensors.values())
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(copies)
        model.graph.initializer.extend(tensors)
        return model


def quantised(
    model: Any,
    settings: Mapping[str, Setting],
    *,
    bits: int = 7,
    dynamic: bool = False,
    rows: bool = True,
    rest: bool = True,
) -> Any:
    """The model with some groups in whole numbers.

    Args:
        settings: of the groups that are to be so, by the input's name.
        bits: of a weight, 7 or 8.
        rows: store the embeddings as int8.
        rest: store the weights of the other groups as float16.
    """
    new = Rewriter(model, bits)
    gathers = list(tables(new.model.graph)) if rows else []
    for group in groups(new.model.graph):
        if group.input in settings:
            (new.dynamic if dynamic else new.whole)(group, settings[group.input])
        elif rest:
            new.stored(group)
    for gather in gathers:
        new.rows(gather)
    return new.done()
