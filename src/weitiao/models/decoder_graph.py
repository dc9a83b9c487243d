"""A Llama as an ONNX graph for decoding, node by node: a cache updated in place, weights of 4 to 32 bits.

It uses the fused operators of onnxruntime (domain ``com.microsoft``): attention that turns positions and appends to the
cache by itself, sums with their norms, and products with weights in blocks of 32. A product in 4 or 8 bits rounds
its input to 8 bits, block by block, and sums in whole numbers.

Shapes: B texts, T new tokens, P positions to score, C places in the cache, D hidden, V vocabulary, N outputs, K inputs.

Bits: 32 stores float32; 16 stores float16 and computes in float32; 8 stores all large weights as ``scale (q - 128)``;
4 keeps the embedding and the output layer in 8 bits and stores the rest as ``scale q + least``, as GGUF's Q4_1 does.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.models.blocks import BLOCK, pack_4, quantise_4, quantise_8
from weitiao.models.llama import MODEL_TYPES, cache_shape, difference, rope_theta

BITS = (4, 8, 16, 32)
OPSET, IR_VERSION = 21, 10
ALIGNMENT = 4096
SMALL_BYTES = 4096  # tensors below stay in the graph, where shapes have to be
INT8_PRODUCTS = 4  # onnxruntime's accuracy level: the input of a product rounded to 8 bits


class Weights(Mapping[str, np.ndarray]):
    """The tensors of a model folder in float32, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        # Through torch, because numpy has no bfloat16.
        files = [safe_open(path, framework="pt") for path in sorted(folder.glob("*.safetensors"))]
        self._files = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - no dictionary

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name).float().numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class _Builder:
    """Nodes in the making, and their large tensors on the way into one file beside the graph."""

    def __init__(self, beside: Path) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.name = beside.name
        self.file = open(beside, "wb")  # noqa: SIM115 - closed by write_decoder

    def constant(self, name: str, value: np.ndarray) -> str:
        """A tensor of the model; kept by its name, so the same name is written once."""
        value = np.ascontiguousarray(value)
        if value.nbytes < SMALL_BYTES:
            self.initializers.append(onnx.numpy_helper.from_array(value, name))
            return name
        tensor = TensorProto(name=name, dims=value.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        self.file.write(b"\0" * (-self.file.tell() % ALIGNMENT))
        place = {"location": self.name, "offset": self.file.tell(), "length": value.nbytes}
        for key, entry in place.items():
            tensor.external_data.add(key=key, value=str(entry))
        self.file.write(value.data)
        self.initializers.append(tensor)
        return name

    def __call__(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        """A node of the standard operators with one output, called as the node is."""
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def fused(self, op: str, *inputs: str, outputs: list[str], **attributes: Any) -> str:
        """A node of onnxruntime's own operators. Returns its first output."""
        name = f"{outputs[0]}.{op}"
        node = helper.make_node(op, inputs, outputs, name=name, domain="com.microsoft", **attributes)
        self.nodes.append(node)
        return outputs[0]


def check_config(config: Mapping[str, Any], bits: int) -> None:
    """Make sure that the graph computes what the model does.

    Raises:
        WeitiaoError: another architecture, scaled positions, or sizes that do not make whole blocks.
    """
    sizes = [config.get("hidden_size", 1), config.get("intermediate_size", 1)]
    reason = difference(config)
    if not reason and bits < 16 and any(size % BLOCK for size in sizes):
        reason = say(f"sizes {sizes} are no multiples of {BLOCK}", f"尺寸 {sizes} 不是 {BLOCK} 的倍数")
    if reason:
        known = ", ".join(MODEL_TYPES)
        raise WeitiaoError(
            say(
                f"This decoder cannot be exported with {bits} bits: {reason}. Exported are {known} with plain "
                "rotary positions; --bits 32 has no need of blocks",
                f"无法以 {bits} 位导出该解码器：{reason}。支持的类型：{known}（普通旋转位置编码）；"
                "--bits 32 不要求分块",
            )
        )


def write_decoder(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], path: Path, bits: int = 32
) -> dict[str, Any]:
    """Write ``path`` and, beside it, ``<path>.data``.

    The graph's inputs: ``input_ids`` int64 ``[B, T]``, ``positions`` int64 ``[P]`` (which of the T to score),
    ``seqlens_k`` int32 ``[B]`` (places used after this call, less one), ``total_sequence_length`` int32, and for each
    layer ``past_key_i``, ``past_value_i`` float32 ``[B, heads, C, head_size]``. Outputs: ``logits`` float32
    ``[B, P, V]`` and ``present_key_i``, ``present_value_i``, which are to be bound to the same memory as the past.

    Args:
        tensors: the model's parameters under the names of ``transformers``.
        config: its ``config.json``.

    Returns:
        the bundle's part about the graph.

    Raises:
        WeitiaoError: see ``check_config``; or a tensor is missing.
    """
    check_config(config, bits)
    build = _Builder(path.with_name(path.name + ".data"))
    try:
        model = _Decoder(build, tensors, config, bits).model()
    except KeyError as error:
        raise WeitiaoError(
            say(f"The decoder's weights lack {error}", f"解码器的权重中缺少 {error}")
        ) from None
    finally:
        build.file.close()
    path.write_bytes(model.SerializeToString())
    precision = {4: "int4", 8: "int8", 16: "fp16", 32: "fp32"}[bits]
    names = [value.name for value in model.graph.input]
    return {"file": path.name, "precision": precision, "inputs": names, "output": "logits"}


class _Decoder:
    """Writes the nodes of one model."""

    def __init__(
        self, build: _Builder, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], bits: int
    ) -> None:
        self.build, self.tensors, self.config, self.bits = build, tensors, config, bits
        self.cache = cache_shape(config)
        self.epsilon = config["rms_norm_eps"]
        self.tied = bool(config.get("tie_word_embeddings")) or "lm_head.weight" not in tensors
        self.sums: dict[str, str] = {}

    def model(self) -> Any:
        """The whole graph; its large tensors are in the builder's file."""
        self._rotations()
        x = self._embedding()
        part = "model.layers.0.input_layernorm.weight"
        scale = self.build.constant(part, self.tensors[part])
        kind = "SimplifiedLayerNormalization"
        h = self.build(kind, x, scale, name="layer0.normed", epsilon=self.epsilon, axis=-1)
        for number in range(self.cache["layers"]):
            x, h = self._layer(number, x, h)
        self._output(h)
        return self._wrapped()

    def _rotations(self) -> None:
        """Tables of cosines and sines, ``[positions, head_size / 2]``."""
        size, theta = self.cache["head_size"], rope_theta(self.config)
        powers = np.float32(theta) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
        places = np.arange(self.config["max_position_embeddings"], dtype=np.float32)
        angles = places[:, None] * (np.float32(1) / powers)
        self.build.constant("cosines", np.cos(angles))
        self.build.constant("sines", np.sin(angles))

    def _embedding(self) -> str:
        build, name = self.build, "model.embed_tokens.weight"
        weight = self.tensors[name]
        if self.bits >= 16:
            return build("Gather", self._stored("embedding", weight), "input_ids", name="embedded")
        q, scale = quantise_8(weight)
        build.constant("embedding.q", q.reshape(weight.shape))
        build.constant("embedding.scale", scale)
        settings = {"gather_axis": 0, "quantize_axis": 1, "block_size": BLOCK, "bits": 8}
        inputs = "embedding.q", "input_ids", "embedding.scale"
        return build.fused("GatherBlockQuantized", *inputs, outputs=["embedded"], **settings)

    def _layer(self, number: int, x: str, h: str) -> tuple[str, str]:
        """One layer. ``x`` is the sum so far, ``h`` its norm; returns both for the next one."""
        build, name, part = self.build, f"layer{number}", f"model.layers.{number}"
        qkv = self._linear(h, f"{name}.qkv", [f"{part}.self_attn.{one}_proj" for one in "qkv"])
        past = f"past_key_{number}", f"past_value_{number}"
        outputs = [f"{name}.attended", f"present_key_{number}", f"present_value_{number}"]
        context = build.fused(
            "GroupQueryAttention", qkv, "", "", *past, "seqlens_k", "total_sequence_length", "cosines", "sines",
            outputs=outputs, num_heads=self.config["num_attention_heads"], kv_num_heads=self.cache["heads"],
            do_rotary=1, rotary_interleaved=0,
        )  # fmt: skip
        y = self._linear(context, f"{name}.projected", [f"{part}.self_attn.o_proj"])
        x, h = self._add_and_norm(x, y, f"{name}.between", f"{part}.post_attention_layernorm.weight")
        wide = self._linear(h, f"{name}.wide", [f"{part}.mlp.{one}_proj" for one in ("gate", "up")])
        halves = [f"{name}.gate", f"{name}.up"]
        node = helper.make_node("Split", [wide], halves, name=f"{name}.halves", axis=-1, num_outputs=2)
        build.nodes.append(node)
        silu = build.fused("QuickGelu", halves[0], outputs=[f"{name}.opened"], alpha=1.0)
        gated = build("Mul", silu, halves[1], name=f"{name}.gated")
        y = self._linear(gated, f"{name}.narrow", [f"{part}.mlp.down_proj"])
        last = number == self.cache["layers"] - 1
        after = "model.norm.weight" if last else f"model.layers.{number + 1}.input_layernorm.weight"
        return self._add_and_norm(x, y, f"{name}.after", after)

    def _add_and_norm(self, x: str, y: str, name: str, scale: str) -> tuple[str, str]:
        """``x + y`` and its norm."""
        weight = self.build.constant(scale, self.tensors[scale])
        outputs = [f"{name}.normed", "", "", f"{name}.sum"]
        kind = "SkipSimplifiedLayerNormalization"
        self.build.fused(kind, x, y, weight, outputs=outputs, epsilon=self.epsilon)
        return outputs[3], outputs[0]

    def _linear(self, x: str, name: str, parts: list[str]) -> str:
        """``x @ weight.T + bias`` with the weights of ``parts`` one below the other."""
        weight = np.concatenate([self.tensors[f"{part}.weight"] for part in parts])
        multiply: Callable[..., str] = self._product_4 if self.bits == 4 else self._product_8
        if self.bits >= 16:
            y = self.build("MatMul", x, self._stored(name, weight.T), name=f"{name}.product")
        else:
            y = multiply(x, name, weight)
        if f"{parts[0]}.bias" not in self.tensors:
            return y
        bias = np.concatenate([self.tensors[f"{part}.bias"] for part in parts])
        return self.build("Add", y, self.build.constant(f"{name}.bias", bias), name=f"{name}.biased")

    def _stored(self, name: str, weight: np.ndarray) -> str:
        """A weight as a constant in float32; stored in float16, it is turned once, when the graph is loaded."""
        if self.bits == 32:
            return self.build.constant(f"{name}.weight", weight)
        half = self.build.constant(f"{name}.half", weight.astype(np.float16))
        return self.build("Cast", half, name=f"{name}.weight", to=TensorProto.FLOAT)

    def _product_8(self, x: str, name: str, weight: np.ndarray) -> str:
        q, scale = quantise_8(weight)
        inputs = self.build.constant(f"{name}.q", q), self.build.constant(f"{name}.scale", scale.reshape(-1))
        return self._blocks(x, name, inputs, weight.shape, 8)

    def _product_4(self, x: str, name: str, weight: np.ndarray) -> str:
        """``scale (q - 8)`` is what the operator computes; ``least + 8 scale`` meets the sum of a block of ``x``."""
        q, scale, least = quantise_4(weight)
        packed = self.build.constant(f"{name}.q", pack_4(q))
        y = self._blocks(
            x, name, (packed, self.build.constant(f"{name}.scale", scale.reshape(-1))), weight.shape, 4
        )
        offset = self.build.constant(f"{name}.offset", (least + 8 * scale).T)
        shift = self.build("MatMul", self._block_sums(x), offset, name=f"{name}.shift")
        return self.build("Add", y, shift, name=f"{name}.shifted")

    def _blocks(self, x: str, name: str, weight: tuple[str, str], shape: tuple[int, ...], bits: int) -> str:
        settings = {"N": shape[0], "K": shape[1], "bits": bits, "block_size": BLOCK}
        return self.build.fused(
            "MatMulNBits", x, *weight, outputs=[f"{name}.product"], accuracy_level=INT8_PRODUCTS, **settings
        )

    def _block_sums(self, x: str) -> str:
        """The sums of each 32 neighbours, ``[B, T, K / 32]``; several products of one input share them."""
        if x not in self.sums:
            if not self.sums:
                self.build.constant("blocks", np.array([0, 0, -1, BLOCK], np.int64))
                self.build.constant("last", np.array([-1], np.int64))
            blocks = self.build("Reshape", x, "blocks", name=f"{x}.blocks")
            self.sums[x] = self.build("ReduceSum", blocks, "last", name=f"{x}.sums", keepdims=0)
        return self.sums[x]

    def _output(self, h: str) -> None:
        """Logits of the positions asked for, with the embedding's own weights where the model ties them."""
        build = self.build
        h = build("Gather", h, "positions", name="scored", axis=1)
        shape = (self.config["vocab_size"], self.config["hidden_size"])
        if self.bits >= 16:
            weight = (
                "embedding.weight" if self.tied else self._stored("output", self.tensors["lm_head.weight"])
            )
            build.fused("FusedMatMul", h, weight, outputs=["logits"], transB=1)
            return
        if self.tied:
            size = build.constant("output.blocks", np.array([shape[0], -1, BLOCK], np.int64))
            flat = build.constant("output.flat", np.array([-1], np.int64))
            parts = (
                build("Reshape", "embedding.q", size, name="output.q"),
                build("Reshape", "embedding.scale", flat, name="output.scale"),
            )
        else:
            q, scale = quantise_8(self.tensors["lm_head.weight"])
            parts = build.constant("output.q", q), build.constant("output.scale", scale.reshape(-1))
        build("Identity", self._blocks(h, "output", parts, shape, 8), name="logits")

    def _wrapped(self) -> Any:
        value, cache = helper.make_tensor_value_info, self.cache
        inputs = [
            value("input_ids", TensorProto.INT64, ["B", "T"]),
            value("positions", TensorProto.INT64, ["P"]),
            value("seqlens_k", TensorProto.INT32, ["B"]),
            value("total_sequence_length", TensorProto.INT32, []),
        ]
        outputs = [value("logits", TensorProto.FLOAT, ["B", "P", self.config["vocab_size"]])]
        for number in range(cache["layers"]):
            for kind in ("key", "value"):
                shape: list[str | int | None] = ["B", cache["heads"], "C", cache["head_size"]]
                inputs.append(value(f"past_{kind}_{number}", TensorProto.FLOAT, shape))
                outputs.append(value(f"present_{kind}_{number}", TensorProto.FLOAT, shape))
        graph = helper.make_graph(self.build.nodes, "decoder", inputs, outputs, self.build.initializers)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="weitiao")
