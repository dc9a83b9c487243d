"""GGUF files: small ones written here by the description, and the real one of SmolLM2."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoders import CHATML, MERGES, SPECIAL, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from weitiao.core.errors import WeitiaoError
from weitiao.models import gguf_file
from weitiao.models.known import resolve_model

HIDDEN, WIDE, LAYERS, HEADS, KEYS = 64, 96, 2, 4, 2
PIECES = sorted(byte_tokenizer().get_vocab(), key=byte_tokenizer().get_vocab().get)  # type: ignore[arg-type]
KINDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8}
METADATA = {
    "general.architecture": "llama",
    "llama.block_count": LAYERS,
    "llama.context_length": 128,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": WIDE,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KEYS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 5000.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.token_type": [3 if piece in SPECIAL else 1 for piece in PIECES],
    "tokenizer.ggml.merges": [" ".join(pair) for pair in MERGES],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": CHATML,
}


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(value: Any) -> bytes:
    """A metadata value with its type."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def blocks(values: np.ndarray, kind: str) -> tuple[bytes, np.ndarray]:
    """A tensor's bytes, a block at a time, and the values that they stand for."""
    if kind in ("F32", "F16"):
        stored = values.astype({"F32": "<f4", "F16": "<f2"}[kind])
        return stored.tobytes(), stored.astype(np.float32)
    data, meant = b"", []
    for block in values.reshape(-1, 32):
        if kind == "Q8_0":
            scale = np.float16(np.abs(block).max() / 127)
            q = np.rint(block / np.float32(scale)).clip(-127, 127).astype(np.int8)
            data += scale.tobytes() + q.tobytes()
            meant.append(q * np.float32(scale))
            continue
        low = np.float16(block.min())
        scale = np.float16((block.max() - block.min()) / 15)
        if kind == "Q4_0":
            scale, low = np.float16(np.abs(block).max() / 7), np.float16(0)
        shift = 8 if kind == "Q4_0" else 0
        q = np.rint((block - np.float32(low)) / np.float32(scale) + shift).clip(0, 15).astype(int)
        data += scale.tobytes() + (low.tobytes() if kind == "Q4_1" else b"")
        data += bytes(int(a) | int(b) << 4 for a, b in zip(q[:16], q[16:], strict=True))
        meant.append((q - shift) * np.float32(scale) + np.float32(low))
    return data, np.array(meant, np.float32).reshape(values.shape)


def small_file(metadata: dict[str, Any] = METADATA, tied: bool = True) -> tuple[bytes, dict[str, np.ndarray]]:
    """A whole file, and the values of its tensors."""
    random = np.random.default_rng(0)
    shapes = {"token_embd.weight": ((len(PIECES), HIDDEN), "Q8_0"), "output_norm.weight": ((HIDDEN,), "F32")}
    shapes |= {} if tied else {"output.weight": ((len(PIECES), HIDDEN), "F16")}
    for layer in range(LAYERS):
        part = f"blk.{layer}."
        keys = KEYS * HIDDEN // HEADS
        shapes |= {
            part + "attn_norm.weight": ((HIDDEN,), "F32"),
            part + "ffn_norm.weight": ((HIDDEN,), "F32"),
            part + "attn_q.weight": ((HIDDEN, HIDDEN), "Q4_1"),
            part + "attn_k.weight": ((keys, HIDDEN), "Q4_1"),
            part + "attn_v.weight": ((keys, HIDDEN), "Q4_0"),
            part + "attn_output.weight": ((HIDDEN, HIDDEN), "F16"),
            part + "ffn_gate.weight": ((WIDE, HIDDEN), "Q4_1"),
            part + "ffn_up.weight": ((WIDE, HIDDEN), "Q4_1"),
            part + "ffn_down.weight": ((HIDDEN, WIDE), "Q8_0"),
        }
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata))
    head += b"".join(text(key) + entry(value) for key, value in metadata.items())
    body, meant = b"", {}
    for name, (shape, kind) in shapes.items():
        data, meant[name] = blocks(random.normal(0, 0.2, shape).astype(np.float32), kind)
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", KINDS[kind], len(body))
        body += data + b"\0" * (-len(data) % 32)
    return head + b"\0" * (-len(head) % 32) + body, meant


WHOLE, MEANT = small_file()


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "file.gguf").write_bytes(WHOLE)
    gguf_file.convert(folder / "file.gguf", folder / "model")
    return folder / "model"


def test_every_type_of_block_is_read(converted):
    found = gguf_file.read(converted.parent / "file.gguf").tensors
    assert set(found) == set(MEANT)
    for name, values in MEANT.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)


def test_the_folder_opens_in_transformers_and_is_the_model_in_the_file(converted):
    """The reference rotates neighbours, as GGUF lays them out; ``transformers`` rotates halves."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32).eval()
    ids = [5, 77, 31, 200, 8, 9]
    with torch.inference_mode():
        ours = model(torch.tensor([ids])).logits[0].numpy()
    theirs = plain_llama(ids, gguf_file.read(converted.parent / "file.gguf").tensors)
    np.testing.assert_allclose(ours, theirs, atol=2e-2)  # the folder is in float16
    assert np.abs(theirs).max() > 1
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "the 42"}], tokenize=False)
    assert asked.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nthe 42<|im_end|>")
    assert tokenizer(asked).input_ids[0] == 1


def plain_llama(ids: list[int], t: dict[str, np.ndarray]) -> np.ndarray:
    """A Llama in numpy over the file's own layout."""

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight

    def turned(x: np.ndarray) -> np.ndarray:  # [T, heads, size], neighbours are the two parts of a number
        size = x.shape[-1]
        angle = np.arange(len(x))[:, None] * 5000.0 ** (-np.arange(0, size, 2) / size)
        z = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)[:, None]
        return np.stack([z.real, z.imag], -1).reshape(x.shape)

    x, size = t["token_embd.weight"][ids], HIDDEN // HEADS
    for layer in range(LAYERS):
        w = {name.split(".")[2]: value for name, value in t.items() if name.startswith(f"blk.{layer}.")}
        h = norm(x, w["attn_norm"])
        q, k, v = ((h @ w[f"attn_{c}"].T).reshape(len(ids), -1, size) for c in "qkv")
        q, k = turned(q), turned(k).repeat(HEADS // KEYS, 1)
        scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(size)
        scores += np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hts,shd->thd", weights, v.repeat(HEADS // KEYS, 1)).reshape(len(ids), -1)
        x = x + mixed @ w["attn_output"].T
        h = norm(x, w["ffn_norm"])
        gate = h @ w["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
    return norm(x, t["output_norm.weight"]) @ t.get("output.weight", t["token_embd.weight"]).T


def test_the_tokenizer_is_the_one_in_the_file(converted):
    from tokenizers import Tokenizer

    found, expected = Tokenizer.from_file(str(converted / "tokenizer.json")), byte_tokenizer()
    for sample in (
        "the there 1234 in an",
        "机器学习 ～",
        "<|im_start|>user\nhi<|im_end|>",
        "  two  spaces\n",
    ):
        assert found.encode(sample).ids == expected.encode(sample).ids
        assert found.decode(found.encode(sample).ids, skip_special_tokens=False) == sample


def test_an_output_layer_of_its_own_is_kept(tmp_path):
    data, _ = small_file(tied=False)
    (tmp_path / "file.gguf").write_bytes(data)
    gguf_file.convert(tmp_path / "file.gguf", tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text("utf-8"))["tie_word_embeddings"] is False


@pytest.mark.parametrize(("changes", "words"), [
    ({"general.architecture": "falcon"}, "falcon"),
    ({"llama.rope.scaling.type": "yarn"}, "scaling"),
    ({"tokenizer.ggml.model": "llama"}, "tokenizer 'llama'"),
    ({"tokenizer.ggml.pre": "qwen2"}, "qwen2"),
    ({"tokenizer.ggml.merges": ["never there"]}, "not a whole GGUF"),
    ({"llama.attention.head_count": 0}, "not a whole GGUF"),
    ({"general.alignment": 0}, "not a whole GGUF"),
])  # fmt: skip
def test_models_of_other_kinds_are_refused(tmp_path, changes, words):
    (tmp_path / "file.gguf").write_bytes(small_file(METADATA | changes)[0])
    with pytest.raises(WeitiaoError, match=words):
        gguf_file.convert(tmp_path / "file.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@settings(max_examples=200)
@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_short_is_one_clear_error(tmp_path_factory, length):
    path = tmp_path_factory.getbasetemp() / "cut.gguf"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(WeitiaoError, match=r"cut\.gguf is not a whole GGUF file"):
        gguf_file.convert(path, path.with_name("never"))


@settings(max_examples=300)
@given(st.integers(0, 12_000), st.binary(min_size=1, max_size=8))
def test_a_damaged_header_is_one_clear_error_or_harmless(tmp_path_factory, place, noise):
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    place = min(place, len(WHOLE) - 1)
    path.write_bytes(WHOLE[:place] + noise + WHOLE[place + len(noise) :])
    try:
        file = gguf_file.read(path)
    except WeitiaoError as error:
        assert "\n" not in str(error)
        return
    assert all(isinstance(values, np.ndarray) for values in file.tensors.values())


def test_the_real_file_becomes_the_model_it_was_made_of():
    """Only where it has been fetched before: 93 MB."""
    place = (
        Path(os.environ.get("WEITIAO_HOME") or "~/.cache/weitiao").expanduser()
        / "models"
        / "SmolLM2-135M-Instruct"
    )
    if not place.is_dir():
        pytest.skip("SmolLM2 has not been fetched on this machine")
    from tokenizers import Tokenizer

    found = resolve_model("SmolLM2-135M-Instruct")
    tokenizer = Tokenizer.from_file(str(found.path / "tokenizer.json"))
    assert tokenizer.encode("Hello world, it's 2024!").ids == [
        19556,
        905,
        28,
        357,
        506,
        216,
        34,
        32,
        34,
        36,
        17,
    ]
    config = json.loads((found.path / "config.json").read_text("utf-8"))
    assert (config["num_hidden_layers"], config["vocab_size"], config["rope_theta"]) == (30, 49152, 100000.0)
