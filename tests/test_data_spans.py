"""Entities keep their place: tokens joined to text, tags to spans and back, CLUE offsets."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weitiao.core.errors import BadRow
from weitiao.data.clue import spans_from_clue
from weitiao.data.conll import has_segment_digits, join_tokens, sentences, spans_from_tags, tags_from_spans
from weitiao.data.readers import read_table

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path))
    monkeypatch.setenv("WEITIAO_LANG", "en")


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["我", "爱", "北京"], "我爱北京"),
        (["I", "love", "a", "b"], "I love a b"),
        (["我", "去", "New", "York", "玩", "。"], "我去New York玩。"),
        (list("用iPhone4拍，2012年"), "用iPhone4拍，2012年"),
        (["Morty", "😂", "ok"], "Morty 😂 ok"),
        ([], ""),
    ],
)
def test_chinese_tokens_touch_and_latin_ones_do_not(tokens, text):
    joined, starts = join_tokens(tokens)
    assert joined == text
    assert [joined[start : start + len(token)] for start, token in zip(starts, tokens, strict=True)] == tokens


TOKEN = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=4)


@st.composite
def sentence_with_entities(draw):
    """Tokens and disjoint entities as (first, last, label), in order."""
    tokens = draw(st.lists(TOKEN, min_size=1, max_size=12))
    entities, place = [], 0
    while place < len(tokens):
        size = draw(st.integers(1, 3))
        if draw(st.booleans()) and place + size <= len(tokens):
            entities.append(
                (place, place + size - 1, draw(st.sampled_from(["PER", "LOC.NAM", "work-of-art"])))
            )
        place += size
    return tokens, entities


def encode(size: int, entities, scheme: str) -> list[str]:
    """Tags of a scheme given as its letters for begin, inside, end, single."""
    begin, inside, end, single = scheme
    tags = ["O"] * size
    for first, last, label in entities:
        for place in range(first, last + 1):
            letter = begin if place == first else end if place == last else inside
            tags[place] = f"{single if first == last else letter}-{label}"
    return tags


@given(sentence_with_entities(), st.sampled_from(["BIIB", "BIES", "BILU", "BMES"]))
def test_every_scheme_gives_the_spans_and_bio_gives_them_back(sentence, scheme):
    tokens, entities = sentence
    text, spans = spans_from_tags(tokens, encode(len(tokens), entities, scheme))
    _, starts = join_tokens(tokens)
    expected = [
        {"start": starts[first], "end": starts[last] + len(tokens[last]), "label": label}
        for first, last, label in entities
    ]
    assert spans == expected
    for (first, last, _), span in zip(entities, spans, strict=True):
        assert text[span["start"] : span["end"]] == join_tokens(tokens)[0][starts[first] : span["end"]]
        assert text[span["start"] :].startswith(tokens[first])
        assert text[: span["end"]].endswith(tokens[last])
    assert tags_from_spans(tokens, starts, spans) == encode(len(tokens), entities, "BIIB")


def test_an_inside_that_continues_nothing_begins_an_entity():
    _, spans = spans_from_tags(["a", "b", "c", "d"], ["I-X", "I-Y", "O", "I-Y"])
    assert [(span["start"], span["label"]) for span in spans] == [(0, "X"), (2, "Y"), (6, "Y")]


def test_sentences_skip_comments_and_document_marks_and_count_lines():
    lines = ["-DOCSTART- -X- O", "", "# id 7", "EU NNP B-ORG", "#tag X O", "", "", " \tO", "好\tS-X"]
    found = list(sentences(lines, digits=False))
    assert [number for number, _ in found] == [4, 8]
    assert found[0][1]["text"] == "EU #tag" and found[0][1]["spans"] == [
        {"start": 0, "end": 2, "label": "ORG"}
    ]
    assert found[1][1]["tokens"] == [" ", "好"]


def test_a_line_without_tag_spoils_its_sentence_only():
    found = list(sentences(["a\tO", "b", "", "c\tO"], digits=False))
    assert found[0][0] == 2 and isinstance(found[0][1], BadRow)
    assert found[1][1]["text"] == "c"


def test_segment_digits_only_where_every_token_has_one():
    assert has_segment_digits(["微0\tO", "博1\tO", "", "的0\tO"])
    assert not has_segment_digits(["微0\tO", "博\tO"])
    assert not has_segment_digits(["5\tO", "6\tO"])
    assert not has_segment_digits([])


def test_clue_offsets_are_checked():
    text = "彭小军在台湾，台湾"
    label = {"address": {"台湾": [[7, 8], [4, 5]]}, "name": {"彭小军": [[0, 2]]}}
    assert [text[span["start"] : span["end"]] for span in spans_from_clue(text, label)] == [
        "彭小军",
        "台湾",
        "台湾",
    ]
    for wrong in (
        {"a": {"台湾": [[3, 4]]}},
        {"a": {"台湾": [[4, 50]]}},
        {"a": {"湾": [[-4, -4]]}},
        {"a": {"台湾": [4]}},
        {"a": 1},
    ):
        with pytest.raises(BadRow):
            spans_from_clue(text, wrong)


@needs_data
@pytest.mark.parametrize("name", ["weibo2_train", "weibo2_test", "wnut17_dev"])
def test_real_entities_are_their_tokens(name):
    table = read_table(SHARED / f"ner_relation/{name}.conll.gz")
    begun = 0
    for row in table.rows:
        surfaces, label = [], ""
        for token, tag in zip(row["tokens"], row["tags"], strict=True):
            begun += tag[0] == "B"
            if tag[0] == "B" or (tag[0] == "I" and tag[2:] != label):  # Weibo has some I without B
                surfaces.append([token])
            elif tag[0] == "I":
                surfaces[-1].append(token)
            label = tag[2:]
        cut = [row["text"][span["start"] : span["end"]] for span in row["spans"]]
        assert [text.replace(" ", "") for text in cut] == ["".join(parts) for parts in surfaces]
        assert " " not in row["text"] or name.startswith("wnut")
    assert begun == {"weibo2_train": 1885, "weibo2_test": 414, "wnut17_dev": 836}[name]
