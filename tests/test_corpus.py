"""Corpora, tokenizers learnt from them, what pieces are, and blocks on the disk."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from corpora import sentences, write
from hypothesis import given
from hypothesis import strategies as st

from weitiao.core.errors import WeitiaoError
from weitiao.data import corpus as corpora_of
from weitiao.data import learn_tokenizer, token_stream
from weitiao.data.corpus import open_corpus
from weitiao.data.pieces import facts
from weitiao.data.token_stream import Blocks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("corpus") / "texts")


def test_files_in_any_encoding_are_read_once_each_and_the_others_listed(folder: Path):
    corpus = open_corpus(str(folder))
    texts = list(corpus.documents())
    assert [file.name for file in corpus.files] == ["a.txt", "b.txt.gz", "c.jsonl"]
    assert len(corpus.skipped) == 2
    assert (
        corpus.skipped[0].startswith("empty.txt is empty")
        and "noise.txt holds a NUL byte" in corpus.skipped[1]
    )
    every = sentences(3000)
    assert (
        "\n".join(texts[:10]).split("\n")[:1000] == every[:1000]
    )  # lines of documents of about 4,000 characters
    assert texts[-1000:] == every[2000:]
    assert "\n".join(every[1000:1005]) in texts
    counts = corpus.counts
    assert (counts["documents"], counts["duplicates"], counts["bad_lines"]) == (len(texts), 1, 1)
    assert counts["bytes"] == sum(len(text.encode()) for text in texts)


def test_sections_are_held_out_whole_and_the_same_each_time(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpora_of, "SECTION", 4000)
    corpus = open_corpus(str(folder))
    first, again, other = (list(corpus.parts(0.3, seed)) for seed in (1, 1, 2))
    assert first == again
    assert [held for _, held in first] != [held for _, held in other]
    changes = sum(a[1] != b[1] for a, b in pairwise(first))
    assert 1 <= changes <= 30  # sections, not single documents
    assert any(held for _, held in first)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", r"holds no text that can be used: a.txt is empty"),
        ("a.bin", b"x", r"holds no text that can be used: a.bin: not one of .txt, .md, .jsonl"),
        ("a.txt.gz", b"\x1f\x8bbroken", r"not a whole gzip file"),
    ],
)
def test_a_corpus_with_nothing_usable_is_one_error(tmp_path: Path, name: str, content: bytes, said: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeitiaoError, match=said) as raised:
        open_corpus(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_fields_of_records_are_named_where_none_is_called_text(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"en": "one", "zh": "一", "n": 3}\n{"en": "two"}\n', "utf-8")
    with pytest.raises(WeitiaoError, match="--fields en,zh"):
        list(open_corpus(str(tmp_path)).documents())
    assert list(open_corpus(str(tmp_path), ["en", "zh"]).documents()) == ["one\n一", "two"]


@pytest.fixture(scope="module", params=["bpe", "unigram", "wordpiece"])
def tokenizer(request: pytest.FixtureRequest):
    return request.param, learn_tokenizer.learn(
        request.param, sentences(600), 400, request.param != "wordpiece"
    )


def test_a_learnt_tokenizer_knows_frequent_words_whole(tokenizer):
    kind, learnt = tokenizer
    assert learnt.get_vocab_size() <= 400
    text = "the bank blocks my password 17. 银行退回手续费。"
    tokens = learnt.encode(text, add_special_tokens=False).tokens
    assert len(tokens) < (45 if kind == "unigram" else 26)  # Unigram spends its pieces on whole phrases
    special = learn_tokenizer.ENCODER if kind == "wordpiece" else learn_tokenizer.DECODER
    assert [learnt.token_to_id(piece) for piece in special.values()] == list(range(len(special)))


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_tokenizers_over_bytes_lose_nothing(tokenizer, text: str):
    kind, learnt = tokenizer
    if kind != "wordpiece":
        assert learnt.decode(learnt.encode(text).ids) == text


def test_a_size_without_room_for_pieces_is_refused():
    with pytest.raises(WeitiaoError, match="too small: bytes and special tokens take 259"):
        learn_tokenizer.learn("bpe", ["a"], 200, decoder=True)


def test_what_pieces_are_is_the_same_in_all_ways_of_writing(tokenizer):
    """Of the tokens of a text, those begin words that stand after a space or are Chinese or a mark."""
    _, learnt = tokenizer
    encoding = learnt.encode("my account needs 手续费。", add_special_tokens=False)
    known = facts(learnt)
    ids = np.array(encoding.ids)
    said = [learnt.decode([i]).strip().removeprefix("##").strip() for i in encoding.ids]
    for place, (start, _) in enumerate(encoding.offsets):
        text = "my account needs 手续费。"
        begins = start == 0 or text[start - 1] == " " or text[start] == " " or not text[start].isascii()
        if "\ufffd" not in said[place]:  # a part of a character
            assert known["starts_V"][ids[place]] == begins or start == 0, (said, place)
            assert known["chinese_V"][ids[place]] == ("\u4e00" <= (said[place] or " ")[0] <= "\u9fff")
    assert known["ends_V"][ids[-1]] == (said[-1] == "。") and not known["ends_V"][ids[0]]


@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 1))
def test_blocks_hold_every_token_once(tokens: int, size: int, overlap: int):
    blocks = Blocks(np.arange(tokens), size, overlap)
    read = [blocks[i][: blocks.lengths[i]] for i in range(len(blocks))]
    assert np.concatenate(read).tolist() == list(range(tokens - overlap))
    if overlap:
        assert np.concatenate([blocks[i][1:] for i in range(len(blocks))]).tolist() == list(range(1, tokens))


def test_the_rows_on_the_disk_are_the_documents_with_an_end_after_each(tmp_path: Path, tokenizer):
    _, learnt = tokenizer
    documents = [("the bank", False), ("银行", True), ("my card", False)]
    events = list(token_stream.write(documents, learnt, 1, tmp_path / "rows", {"name": "x"}, 20))
    rows, about = token_stream.read(tmp_path / "rows")
    plain = {text: learnt.encode(text, add_special_tokens=False).ids for text, _ in documents}
    assert rows["train"].tolist() == [1, *plain["the bank"], 1, *plain["my card"], 1]
    assert rows["held_out"].tolist() == [1, *plain["银行"], 1]
    assert about["name"] == "x" and about["parts"]["held_out"]["bytes"] == 7
    assert events[-1].done == events[-1].total
