"""An encoder and its head as an ONNX graph, written node by node.

Writing it ourselves instead of tracing keeps the graph small and as engines like it: one product for query, key and
value, attention as one operator, the first segment's embedding inside the positions', and after the last attention
only the token that the head reads.

Shapes: B texts, L tokens (padded), D hidden, H heads, C outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 10
EXTERNAL_BYTES = 32 << 20  # beyond this tensors go into a file of their own, which can be mapped into memory
ALIGNMENT = 4096
# Attention as one operator: both engines read it, and it is faster in both than products and a softmax.
MICROSOFT = "com.microsoft"


@dataclass
class Builder:
    """Nodes and initializers in the making; each method returns the name of what it adds."""

    nodes: list[Any] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """A tensor that is part of the model."""
        self.tensors[name] = np.asarray(value, dtype, order="C")
        return name

    def ints(self, *values: int) -> str:
        """A list of whole numbers, shared by all who ask for the same."""
        return self.constant("ints_" + "_".join(map(str, values)).replace("-", "m"), values, np.int64)

    def __call__(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def linear(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """``x @ weight.T + bias``; weight ``[out, in]`` as torch keeps it."""
        w = self.constant(f"{name}.weight", weight.T)
        b = self.constant(f"{name}.bias", bias)
        return self("Add", self("MatMul", x, w, name=f"{name}.product"), b, name=f"{name}.sum")

    def norm(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> str:
        """LayerNorm over the last axis."""
        w, b = self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)
        return self("LayerNormalization", x, w, b, name=f"{name}.norm", axis=-1, epsilon=epsilon)


def encoder_graph(
    tensors: Mapping[str, np.ndarray],
    shape: Any,
    head: Mapping[str, Any],
    head_tensors: Mapping[str, np.ndarray],
    *,
    types: bool = False,
) -> onnx.ModelProto:
    """The graph of a BERT-like encoder under a head.

    Args:
        tensors: the encoder's parameters, float32, under the names of ``models.encoder.Encoder``.
        shape: its ``models.encoder.Shape``.
        head: the head's description, ``{"type", "outputs", "pooling"}``.
        head_tensors: the head's parameters, under its own names.
        types: whether the graph reads ``token_type_ids``.

    Returns:
        inputs ``input_ids``, ``attention_mask`` (int64 ``[B, L]``), perhaps ``token_type_ids`` ``[B, L]`` and ``marks``
        ``[B, 2]`` (of a cloze ``[B, 1]``); outputs ``outputs`` (``[B, C]``, ``[B, L, C]``, or unit vectors ``[B, D]``)
        and ``embedding`` ``[B, D]``, the unit vector of the pooled state.
    """
    build = Builder()
    x = _embeddings(build, tensors, shape, types)
    mask = build("Cast", "attention_mask", name="mask", to=TensorProto.FLOAT)
    build("Cast", "attention_mask", name="mask.int32", to=TensorProto.INT32)
    # The embedding head has no pooler: "own" is the mean there.
    first_only = head["pooling"] in {"pooled": ("cls", "own"), "embedding": ("cls",)}.get(head["type"], ())
    for number in range(shape.num_hidden_layers):
        last = first_only and number == shape.num_hidden_layers - 1
        x = _layer(build, tensors, shape, number, x, last)
    pooled = _pooled(build, x, mask, "first" if first_only else "mean")
    norm = build("ReduceL2", pooled, build.ints(-1), name="embedding.length", keepdims=1)
    floor = build("Max", norm, build.constant("tiny", 1e-12), name="embedding.floor")
    build("Div", pooled, floor, name="embedding")
    outputs = _head(build, head, head_tensors, x, pooled)
    marks: dict[str, int | str] = {"marker": 2, "cloze": "gaps"}
    return _model(build, outputs, types, marks.get(head["type"]))


def _embeddings(build: Builder, tensors: Mapping[str, np.ndarray], shape: Any, types: bool) -> str:
    part = "embeddings"
    words = build.constant("embeddings.word", tensors[f"{part}.word_embeddings.weight"])
    positions = tensors[f"{part}.position_embeddings.weight"][shape.first_position :]
    segments = tensors[f"{part}.token_type_embeddings.weight"]
    x = build("Gather", words, "input_ids", name="words")
    length = build("Shape", "input_ids", name="length", start=1, end=2)
    table = build.constant("embeddings.position", positions if types else positions + segments[0])
    places = build("Slice", table, build.ints(0), length, build.ints(0), name="positions")
    x = build("Add", x, places, name="words.placed")
    if types:
        segment = build(
            "Gather", build.constant("embeddings.type", segments), "token_type_ids", name="segments"
        )
        x = build("Add", x, segment, name="words.segmented")
    weight, bias = (tensors[f"{part}.LayerNorm.{kind}"] for kind in ("weight", "bias"))
    return build.norm(x, "embeddings", weight, bias, shape.layer_norm_eps)


def _layer(
    build: Builder,
    tensors: Mapping[str, np.ndarray],
    shape: Any,
    number: int,
    x: str,
    first_only: bool,
) -> str:
    """One layer; with ``first_only`` just the first token of each text comes out of it, ``[B, 1, D]``."""
    name = f"layer{number}"

    def of(part: str) -> tuple[np.ndarray, np.ndarray]:
        path = f"encoder.layer.{number}.{part}"
        return tensors[f"{path}.weight"], tensors[f"{path}.bias"]

    query = x
    if first_only:
        query = build("Slice", x, build.ints(0), build.ints(1), build.ints(1), name=f"{name}.first")
    context = _attention(build, name, of, shape, x, query)
    y = build.linear(context, f"{name}.attention_output", *of("attention.output.dense"))
    sum_ = build("Add", y, query, name=f"{name}.attention_residual")
    x = build.norm(sum_, f"{name}.attention", *of("attention.output.LayerNorm"), shape.layer_norm_eps)
    y = build.linear(x, f"{name}.wide", *of("intermediate.dense"))
    y = build("Gelu", y, name=f"{name}.gelu")
    y = build.linear(y, f"{name}.narrow", *of("output.dense"))
    sum_ = build("Add", y, x, name=f"{name}.residual")
    return build.norm(sum_, f"{name}.output", *of("output.LayerNorm"), shape.layer_norm_eps)


def _attention(build: Builder, name: str, of: Any, shape: Any, x: str, query: str) -> str:
    """Softmax(q k / sqrt(d)) v, ``[B, L, D]``: one product for what reads the same states, then the fused operator."""
    parts = {kind: of(f"attention.self.{kind}") for kind in ("query", "key", "value")}
    together = ("query", "key", "value") if query == x else ("key", "value")
    weight, bias = (np.concatenate([parts[kind][side] for kind in together]) for side in (0, 1))
    y = build.linear(x, f"{name}.{'_'.join(together)}", weight, bias)
    found = {kind: f"{name}.{kind}" for kind in together}
    build.nodes.append(
        helper.make_node(
            "Split", [y], list(found.values()), name=f"{name}.split", axis=-1, num_outputs=len(together)
        )
    )
    if "query" not in found:
        found["query"] = build.linear(query, f"{name}.query", *parts["query"])
    heads = shape.num_attention_heads
    return build(
        "MultiHeadAttention", found["query"], found["key"], found["value"], "", "mask.int32",
        name=f"{name}.context", domain=MICROSOFT, num_heads=heads,
    )  # fmt: skip


def _pooled(build: Builder, x: str, mask: str, how: str) -> str:
    """One vector a text, ``[B, D]``: its first token, or the mean of its tokens."""
    if how == "first":
        return build("Gather", x, build.constant("zero", 0, np.int64), name="pooled", axis=1)
    weights = build("Unsqueeze", mask, build.ints(1), name="pool.weights")
    total = build("MatMul", weights, x, name="pool.total")
    count = build("ReduceSum", weights, build.ints(-1), name="pool.count", keepdims=1)
    mean = build("Div", total, count, name="pool.mean")
    return build("Squeeze", mean, build.ints(1), name="pooled")


def _head(
    build: Builder, head: Mapping[str, Any], tensors: Mapping[str, np.ndarray], x: str, pooled: str
) -> str:
    """The head's outputs."""
    kind = head["type"]
    if kind == "embedding":
        return "embedding"
    source = x if kind == "token" else pooled
    if kind in ("marker", "cloze"):
        marks = "marks"
        if kind == "cloze":  # it reads one gap
            marks = build("Slice", marks, build.ints(0), build.ints(1), build.ints(1), name="marks.gap")
        places = build("Unsqueeze", marks, build.ints(-1), name="marks.places")
        marked = build("GatherND", x, places, name="marked", batch_dims=1)
        source = build("Flatten", marked, name="marked.joined", axis=1)
    if kind == "cloze":
        y = build.linear(source, "gap.dense", tensors["dense.weight"], tensors["dense.bias"])
        y = build("Gelu", y, name="gap.gelu")
        source = build.norm(y, "gap.norm", tensors["norm.weight"], tensors["norm.bias"], 1e-12)
    elif "pooler.weight" in tensors:
        y = build.linear(source, "pooler", tensors["pooler.weight"], tensors["pooler.bias"])
        source = build("Tanh", y, name="pooler.tanh")
    return build.linear(source, "head", tensors["linear.weight"], tensors["linear.bias"])


def _model(build: Builder, outputs: str, types: bool, marks: int | str | None) -> onnx.ModelProto:
    build("Identity", outputs, name="outputs")
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    whole = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in names]
    if marks:
        whole.append(helper.make_tensor_value_info("marks", TensorProto.INT64, ["batch", marks]))
    found = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("outputs", "embedding")]
    initializers = [numpy_helper.from_array(value, name) for name, value in build.tensors.items()]
    graph = helper.make_graph(build.nodes, "encoder", whole, found, initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="weitiao")


def write_graph(model: onnx.ModelProto, path: Path, external_bytes: int = EXTERNAL_BYTES) -> None:
    """Write a graph; if it is large, its tensors go into ``<path>.data``, page by page, so that engines can map it."""
    if model.ByteSize() <= external_bytes:
        path.write_bytes(model.SerializeToString())
        return
    small = onnx.ModelProto()
    small.CopyFrom(model)
    beside = path.with_name(path.name + ".data")
    with open(beside, "wb") as file:
        for tensor in small.graph.initializer:
            if len(tensor.raw_data) < ALIGNMENT:
                continue
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            place = {"location": beside.name, "offset": file.tell(), "length": len(tensor.raw_data)}
            file.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(value)
    path.write_bytes(small.SerializeToString())
