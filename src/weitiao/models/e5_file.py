"""Turns ``e5-small-q4.bin``, multilingual-e5-small in 4-bit blocks, into a folder for ``transformers``.

The file, little-endian: ``E5S1``, u32 version; i32 hidden, layers, heads, feed-forward, vocabulary,
positions, types; f32 layer-norm epsilon; i32 block size; i32 pieces; i32 bos, eos, pad, unk; u64 blob length;
u32 offsets[pieces + 1]; f32 scores[pieces]; the blob of UTF-8 pieces; i32 entries and u32 bytes of the
normaliser map, each entry u32 code point, u8 n, u32[n]; i32 tensors, each u16 name length, name, u8 dtype
(0 = f32, 1 = Q4_0), u32 count, u64 offset from the start of the file, u64 bytes.

The weights are written in float32: 22 % of them would be rounded in float16, and a float32 file can be mapped
into memory as it is, so that pieces of the vocabulary that no text uses need not be read from the disk.
"""

import struct
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import write_json

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
EMBEDDING_NAMES = {
    "emb.word": "word_embeddings.weight",
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}
SPECIAL = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


@dataclass(frozen=True)
class E5File:
    """What the file holds. ``tensors`` carry the names and shapes of ``transformers.BertModel``, in float32.

    ``replaced`` maps a character to what the normaliser puts in its place, where that is not its NFKC form.
    """

    config: dict[str, Any]
    pieces: list[str]
    scores: list[float]
    replaced: dict[str, str]
    tensors: "dict[str, np.ndarray]"


class _Cursor:
    """Reads on through a buffer; a read past its end is an error, which is how a truncated file shows."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def bytes(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data):,} in the middle of its header")
        self.at += count
        return self.data[self.at - count : self.at]

    def read(self, form: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form)))


def dequantise(blocks: bytes) -> "np.ndarray":
    """Q4_0 blocks to float32 [blocks * 32].

    A block is 18 bytes: f16 scale d, then 16 bytes; the low nibbles are weights 0-15, the high ones 16-31,
    each ``(nibble - 8) * d``.
    """
    import numpy as np

    raw = np.frombuffer(blocks, dtype=[("d", "<f2"), ("q", "u1", 16)])
    values = np.empty((len(raw), 2, 16), np.float32)
    values[:, 0], values[:, 1] = raw["q"] & 15, raw["q"] >> 4
    values -= 8
    values *= raw["d"].astype(np.float32)[:, None, None]
    return values.reshape(-1)


def read(path: Path) -> E5File:
    """Read the whole file.

    Raises:
        WeitiaoError: it is not such a file, or it has been cut short.
    """
    try:
        return _parse(_Cursor(path.read_bytes()))
    except (ValueError, KeyError, struct.error) as error:
        raise WeitiaoError(
            say(
                f"{path} is not a whole e5-small-q4.bin: {error}. Fetch it again",
                f"{path} 不是完整的 e5-small-q4.bin：{error}。请重新获取",
            )
        ) from None


def _parse(cursor: _Cursor) -> E5File:
    import numpy as np

    if cursor.bytes(4) != b"E5S1":
        raise ValueError("it does not begin with 'E5S1'")
    _, hidden, layers, heads, wide, vocabulary, positions, types, epsilon, block = cursor.read("I7ifi")
    if block != 32:
        raise ValueError(f"block size {block} instead of 32")
    count, bos, eos, pad, unk, blob_bytes = cursor.read("5iQ")
    offsets = np.frombuffer(cursor.bytes(4 * (count + 1)), "<u4").tolist()
    scores = np.frombuffer(cursor.bytes(4 * count), "<f4").astype(float).tolist()
    blob = cursor.bytes(blob_bytes)
    pieces = [blob[start:end].decode() for start, end in pairwise(offsets)]
    entries, map_bytes = cursor.read("iI")
    replaced = _replacements(_Cursor(cursor.bytes(map_bytes)), entries)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": wide,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": float(f"{epsilon:.6g}"),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "position_embedding_type": "absolute",
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "unk_token_id": unk,
        "dtype": "float32",
    }
    widths = {"word": hidden, "pos": hidden, "type": hidden, "fo": wide}
    return E5File(config, pieces, scores, replaced, _tensors(cursor, widths, hidden))


def _tensors(cursor: _Cursor, widths: dict[str, int], hidden: int) -> "dict[str, np.ndarray]":
    """Every tensor of the directory, renamed and shaped [outputs, inputs]; biases and norms have one axis."""
    import numpy as np

    tensors = {}
    for _ in range(*cursor.read("i")):
        name = cursor.bytes(*cursor.read("H")).decode()
        dtype, count, offset, size = cursor.read("BIQQ")
        data = cursor.data[offset : offset + size]
        if len(data) != size or size != (count * 4 if dtype == 0 else count // 32 * 18):
            raise ValueError(f"tensor {name} is cut short: the file has {len(cursor.data):,} bytes")
        values = np.frombuffer(data, "<f4") if dtype == 0 else dequantise(data)
        part = name.split(".")
        matrix = dtype == 1 or part[-1] in ("pos", "type")
        tensors[_name(name)] = values.reshape(-1, widths.get(part[1], hidden)) if matrix else values
    return tensors


def _name(name: str) -> str:
    """``l3.q.w`` -> ``encoder.layer.3.attention.self.query.weight``."""
    if name in EMBEDDING_NAMES:
        return f"embeddings.{EMBEDDING_NAMES[name]}"
    layer, part, kind = name.split(".")
    kind = {"w": "weight", "b": "bias"}[kind]
    return f"encoder.layer.{int(layer[1:])}.{LAYER_NAMES[part]}.{kind}"


def _replacements(cursor: _Cursor, entries: int) -> dict[str, str]:
    """The normaliser map where it differs from NFKC: control characters go, odd spaces become a space."""
    replaced = {}
    for _ in range(entries):
        code, length = cursor.read("IB")
        target = "".join(map(chr, cursor.read(f"{length}I")))
        if not 0xD800 <= code < 0xE000 and unicodedata.normalize("NFKC", chr(code)) != target:
            replaced[chr(code)] = target
    return replaced


def tokenizer(file: E5File) -> "Tokenizer":
    """The Unigram tokenizer of XLM-R over the file's pieces: ``<s> text </s>``.

    SentencePiece's ``nmt_nfkc`` is NFKC with three differences, which matter on real text: control characters
    go, odd white space becomes a space, and the full-width tilde (frequent in Chinese) stays as it is. The
    tilde is kept from NFKC by way of a noncharacter, which no text holds.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as splitters
    from tokenizers import processors as finishers

    def any_of(target: str) -> Regex:
        codes = [ord(character) for character, to in file.replaced.items() if to == target]
        return Regex("[" + "".join(f"\\x{{{code:x}}}" for code in codes) + "]")

    replace = normalizers.Replace
    steps: list[normalizers.Normalizer] = [replace(any_of(""), ""), replace(any_of(" "), " ")]
    steps += [replace("～", "\ufdd0"), normalizers.NFKC(), replace("\ufdd0", "～")]
    steps += [replace(Regex(" {2,}"), " ")]
    vocabulary = list(zip(file.pieces, file.scores, strict=True))
    built = Tokenizer(models.Unigram(vocabulary, file.config["unk_token_id"]))
    built.normalizer = normalizers.Sequence(steps)
    built.pre_tokenizer = splitters.Metaspace()
    built.decoder = decoders.Metaspace()
    specials = dict.fromkeys(SPECIAL.values())
    built.add_special_tokens([AddedToken(token, lstrip=token == "<mask>") for token in specials])
    ends = [(token, file.pieces.index(token)) for token in ("<s>", "</s>")]
    built.post_processor = finishers.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", ends)
    return built


def convert(path: Path, folder: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and the tokenizer's files into ``folder``.

    Raises:
        WeitiaoError: the file is not whole.
    """
    from safetensors.numpy import save_file

    file = read(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", file.config)
    save_file(file.tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer(file).save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "special_tokens_map.json", SPECIAL)
    settings = {
        # Not XLMRobertaTokenizer, which in transformers 5 puts its own normaliser in place of this one.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": file.config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(folder / "tokenizer_config.json", settings | SPECIAL)
