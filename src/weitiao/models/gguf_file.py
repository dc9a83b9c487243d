"""Turns a GGUF file of a Llama into a folder for ``transformers``: SmolLM2 comes in one, with 4-bit weights.

The file, little-endian: ``GGUF``, u32 version, u64 tensors, u64 metadata entries; each entry a string (u64 length,
UTF-8), u32 type, value; each tensor a string, u32 axes, u64 sizes (the fastest first), u32 type, u64 offset; then, at
the next multiple of ``general.alignment``, the tensors. The weights are written in float16: that rounds a 4-bit
weight by a few thousandths of its step, so the steps are found again from the least and greatest of a block.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import write_json

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# type -> (name, weights a block, bytes a block)
TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34)}
CONTROL, USER_DEFINED = 3, 4
SPLITTERS = ("smollm", "gpt-2")
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


@dataclass(frozen=True)
class GgufFile:
    """``metadata`` as the file has it; ``tensors`` in float32 under the file's names, shaped [outputs, inputs]."""

    metadata: dict[str, Any]
    tensors: "dict[str, np.ndarray]"


class _Cursor:
    """Reads on through a buffer; a read past its end is an error, which is how a truncated file shows."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = memoryview(data), 0

    def bytes(self, count: int) -> memoryview:
        if self.at + count > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data):,}, before what its header announces")
        self.at += count
        return self.data[self.at - count : self.at]

    def one(self, form: str) -> Any:
        return struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form)))[0]

    def string(self) -> str:
        return str(self.bytes(self.one("Q")), "utf-8")

    def value(self, kind: int) -> Any:
        """A metadata value; arrays of numbers or strings become lists. Arrays of arrays do not occur."""
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.one(SCALARS[kind])
        inner, count = self.one("I"), self.one("Q")
        if inner == STRING:
            return [self.string() for _ in range(count)]
        size = struct.calcsize("<" + SCALARS[inner])
        return list(struct.unpack(f"<{count}{SCALARS[inner]}", self.bytes(count * size)))


def read(path: Path) -> GgufFile:
    """Read the whole file.

    Raises:
        WeitiaoError: it is not such a file, it has been cut short, or it holds tensors of a type not known here.
    """
    try:
        return _parse(_Cursor(path.read_bytes()))
    except (ValueError, LookupError, TypeError, ArithmeticError, MemoryError, struct.error) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> WeitiaoError:
    what = f"no {error}" if isinstance(error, KeyError) else str(error)
    return WeitiaoError(
        say(
            f"{path} is not a whole GGUF file that can be read here: {what}. Fetch it again, or give a folder "
            "with model.safetensors",
            f"{path} 不是可读取的完整 GGUF 文件：{what}。请重新获取，或改用含 model.safetensors 的目录",
        )
    )


def _parse(cursor: _Cursor) -> GgufFile:
    if bytes(cursor.bytes(4)) != b"GGUF":
        raise ValueError("it does not begin with 'GGUF'")
    if (version := cursor.one("I")) not in (2, 3):
        raise ValueError(f"version {version} instead of 2 or 3")
    tensors, entries = cursor.one("Q"), cursor.one("Q")
    metadata = {}
    for _ in range(entries):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.one("I"))
    directory = []
    for _ in range(tensors):
        name = cursor.string()
        shape = [cursor.one("Q") for _ in range(cursor.one("I"))][::-1]
        directory.append((name, shape, cursor.one("I"), cursor.one("Q")))
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.at // alignment) * alignment
    found = {
        name: _tensor(cursor.data, name, shape, kind, start + offset)
        for name, shape, kind, offset in directory
    }
    return GgufFile(metadata, found)


def _tensor(data: memoryview, name: str, shape: list[int], kind: int, start: int) -> "np.ndarray":
    if kind not in TYPES:
        raise ValueError(
            f"tensor {name} has type {kind}; known are {', '.join(n for n, *_ in TYPES.values())}"
        )
    label, per_block, block_bytes = TYPES[kind]
    count = 1
    for size in shape:
        count *= size
    blocks = data[start : start + count // per_block * block_bytes]
    if count % per_block or len(blocks) != count // per_block * block_bytes:
        raise ValueError(f"tensor {name} is cut short: the file has {len(data):,} bytes")
    return dequantise(blocks, label).reshape(shape)


def dequantise(blocks: "bytes | memoryview", label: str) -> "np.ndarray":
    """The values of a tensor in float32, flat.

    Q4_0 and Q4_1: a block of 32 weights is f16 scale d (and f16 minimum m), then 16 bytes whose low nibbles are weights
    0-15 and high ones 16-31, each ``(nibble - 8) d``, or ``nibble d + m``. Q8_0: f16 scale, then 32 signed bytes.
    """
    import numpy as np

    if label in ("F32", "F16"):
        return np.frombuffer(blocks, {"F32": "<f4", "F16": "<f2"}[label]).astype(np.float32)
    if label == "Q8_0":
        raw = np.frombuffer(blocks, [("d", "<f2"), ("q", "i1", 32)])
        return (raw["q"] * raw["d"].astype(np.float32)[:, None]).reshape(-1)
    minimum = [("m", "<f2")] if label == "Q4_1" else []
    raw = np.frombuffer(blocks, [("d", "<f2"), *minimum, ("q", "u1", 16)])
    values = np.concatenate([raw["q"] & 15, raw["q"] >> 4], axis=1).astype(np.float32)
    scale = raw["d"].astype(np.float32)[:, None]
    low = raw["m"].astype(np.float32)[:, None] if minimum else -8 * scale
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale may be anything
        return (values * scale + low).reshape(-1)


def config(file: GgufFile) -> dict[str, Any]:
    """``config.json`` of the ``LlamaForCausalLM`` in the file.

    Raises:
        WeitiaoError: another architecture, or scaled positions.
    """
    data, tokens = file.metadata, file.metadata["tokenizer.ggml.tokens"]
    scaled = [key for key in data if ".rope.scaling." in key] + ["rope_freqs"] * (
        "rope_freqs.weight" in file.tensors
    )
    if data["general.architecture"] != "llama" or scaled:
        what = scaled[0] if scaled else data["general.architecture"]
        raise ValueError(f"'{what}' instead of a plain llama")
    heads, width = data["llama.attention.head_count"], data["llama.embedding_length"]
    theta = round(float(data.get("llama.rope.freq_base", 10000.0)), 3)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": data["llama.feed_forward_length"],
        "num_hidden_layers": data["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": data.get("llama.attention.head_count_kv", heads),
        "head_dim": data.get("llama.attention.key_length", width // heads),
        "vocab_size": len(tokens),
        "max_position_embeddings": data["llama.context_length"],
        "rms_norm_eps": float(f"{data['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": theta,
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.041666666666666664,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": data.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": data.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": data.get("tokenizer.ggml.padding_token_id"),
        "dtype": "float16",
    }


def tensors(file: GgufFile) -> "dict[str, np.ndarray]":
    """The weights in float16 under the names of ``transformers``.

    GGUF interleaves the two halves of each query and key head, to rotate neighbours; ``transformers`` rotates halves.
    """
    import numpy as np

    settings, named = config(file), {}
    heads = {"attn_q": settings["num_attention_heads"], "attn_k": settings["num_key_value_heads"]}
    for name, values in file.tensors.items():
        if name in TOP_NAMES:
            named[TOP_NAMES[name]] = values
            continue
        _, layer, part, kind = name.split(".")
        if part in heads:
            pairs = values.reshape(heads[part], -1, 2, values.shape[-1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        named[f"model.layers.{int(layer)}.{LAYER_NAMES[part]}.{kind}"] = values
    return {name: np.ascontiguousarray(values, dtype=np.float16) for name, values in named.items()}


def tokenizer(file: GgufFile) -> "Tokenizer":
    """The byte-level BPE tokenizer in the file. SmolLM's splits digits first, GPT-2's does not."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    data = file.metadata
    model, splitter = data["tokenizer.ggml.model"], data.get("tokenizer.ggml.pre", "gpt-2")
    if model != "gpt2" or splitter not in SPLITTERS:
        raise ValueError(f"tokenizer '{model}' with splitter '{splitter}'; known are {', '.join(SPLITTERS)}")
    pieces, kinds = data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ", 1)) for pair in data["tokenizer.ggml.merges"]]
    built = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    built.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_]) if splitter == "smollm" else bytes_
    built.decoder = decoders.ByteLevel()
    named = list(zip(pieces, kinds, strict=True))
    built.add_special_tokens([AddedToken(piece, special=True) for piece, kind in named if kind == CONTROL])
    built.add_tokens([AddedToken(piece, normalized=False) for piece, kind in named if kind == USER_DEFINED])
    return built


def convert(path: Path, folder: Path) -> None:
    """Write ``config.json``, ``generation_config.json``, ``model.safetensors`` and the tokenizer's files.

    Raises:
        WeitiaoError: the file is not whole, or not one of a plain Llama with a byte-level tokenizer.
    """
    from safetensors.numpy import save_file

    file = read(path)
    try:
        settings, weights, built = config(file), tensors(file), tokenizer(file)
    except Exception as error:  # tokenizers raises nothing more special over pieces that do not fit together
        raise _broken(path, error) from None
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", settings)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    built.save(str(folder / "tokenizer.json"), pretty=False)
    pieces: list[str] = file.metadata["tokenizer.ggml.tokens"]
    named: Callable[[str], int | None] = lambda kind: settings.get(f"{kind}_token_id")  # noqa: E731
    special = {f"{kind}_token": pieces[i] for kind in ("bos", "eos", "pad") if (i := named(kind)) is not None}
    unknown = file.metadata.get("tokenizer.ggml.unknown_token_id")
    special |= {"unk_token": pieces[unknown]} if unknown is not None else {}
    ends = {f"{kind}_token_id": named(kind) for kind in ("bos", "eos", "pad")}
    write_json(folder / "generation_config.json", ends)
    write_json(folder / "special_tokens_map.json", special)
    card = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": settings["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if template := file.metadata.get("tokenizer.chat_template"):
        card["chat_template"] = template
    write_json(folder / "tokenizer_config.json", card | special)
