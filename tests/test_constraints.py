"""Constraints: an automaton agrees with ``re``, and whatever a model prefers, its text is what was asked for."""

import json
import re

import numpy as np
import pytest
from decoders import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from weitiao.core.errors import WeitiaoError
from weitiao.generation._regex import DEAD, START, automaton, utf8
from weitiao.generation._schema import pattern_of
from weitiao.generation.constraints import Vocabulary, constraint
from weitiao.generation.sampling import Sampling
from weitiao.generation.writing import Writing, stream

TOKENIZER = byte_tokenizer()
SIZE = TOKENIZER.get_vocab_size() + 5  # a model may have more rows than its tokenizer has tokens
ENDS = {0, 2}
VOCABULARY = Vocabulary(TOKENIZER, SIZE)
PATTERNS = [
    "a*b+c?",
    "(ab|ba){2,3}",
    "[^a好]x",
    "[a-c]|好{2}",
    r"\d+(\.\d)?",
    r"\w+ ?\w*",
    "(a|b)*?c",
    "",
    ".",
    "x{3}",
]


def accepts(pattern: str, text: str) -> bool:
    table, accepting = automaton(pattern)
    state = START
    for byte in text.encode():
        state = int(table[state, byte])
    return state != DEAD and bool(accepting[state])


@given(pattern=st.sampled_from(PATTERNS), text=st.text("abcx好1. ", max_size=6))
def test_an_automaton_matches_what_re_matches(pattern, text):
    assert accepts(pattern, text) == bool(re.fullmatch(pattern, text))


@given(pattern=st.sampled_from([p for p in PATTERNS if p]), data=st.data())
def test_it_matches_what_the_pattern_makes(pattern, data):
    text = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    if "\n" not in text:
        assert accepts(pattern, text)


@given(bounds=st.tuples(st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF)), other=st.integers(0, 0x10FFFF))
def test_byte_ranges_are_exactly_the_characters(bounds, other):
    low, high = sorted(bounds)
    for point in (low, high, other, (low + high) // 2):
        if 0xD800 <= point <= 0xDFFF:
            continue
        found = any(
            len(sequence) == len(chr(point).encode())
            and all(a <= byte <= b for (a, b), byte in zip(sequence, chr(point).encode(), strict=True))
            for sequence in utf8(low, high)
        )
        assert found == (low <= point <= high)


class Babble:
    """Scores drawn at random: a model that prefers nothing."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def read(self, prompts, room):
        return self.step(np.zeros(1))

    def step(self, tokens_B):
        return self.random.normal(0, 3, (1, SIZE)).astype(np.float32)


def babbled(seed: int, most: int = 400, **wanted) -> str:
    pattern = constraint(VOCABULARY, ENDS, **wanted)
    writing = Writing(TOKENIZER, [5], Sampling(most), ENDS, most, pattern.start())
    text = "".join(stream(Babble(seed), [5], writing))
    assert writing.reason in ("end", "length")
    return text if writing.reason == "end" else ""


@given(seed=st.integers(0, 10_000))
def test_any_model_answers_with_a_choice(seed):
    assert babbled(seed, choices=["yes", "yes, sir", "不是", "no"]) in {"yes", "yes, sir", "不是", "no"}


@given(seed=st.integers(0, 10_000))
def test_any_model_writes_what_the_pattern_matches(seed):
    pattern = r"(19|20)\d{2}年(1[0-2]|[1-9])月|[a-f]{3,8}|好*!"
    assert re.fullmatch(pattern, babbled(seed, regex=pattern))


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 1, "maxItems": 3},
        "ok": {"type": ["boolean", "null"]},
    },
    "required": ["name", "tags"],
    "$defs": {"tag": {"enum": ["红", "green", 3]}},
}


@given(seed=st.integers(0, 10_000))
def test_any_model_writes_json_of_the_schema(seed):
    found = json.loads(babbled(seed, schema=SCHEMA))
    assert list(found) == [key for key in SCHEMA["properties"] if key in found]
    assert 1 <= len(found["name"]) <= 6
    assert 1 <= len(found["tags"]) <= 3 and set(map(str, found["tags"])) <= {"红", "green", "3"}
    assert 0 <= found.get("age", 0) <= 120 and found.get("ok") in (True, False, None)


@pytest.mark.parametrize(("schema", "good", "bad"), [
    ({"type": "number"}, ["-0.5e+3", "0", "12"], ["01", ".5", "1."]),
    ({"type": "string"}, ['"a\\n\\u00e9好"', '""'], ['"a"b"', '"\n"', "a"]),
    ({"type": "array", "items": {"type": "integer"}}, ["[]", "[1, -2,3]"], ["[1,]", "[a]"]),
    ({"type": "object"}, ["{}", '{"a": {"b": 1}}'], ['{"a"}', "{a: 1}"]),
    ({"properties": {"a": {"const": 1}, "b": {"const": 2}}}, ["{}", '{"a": 1}', '{"b":2}', '{"a": 1, "b": 2}'],
     ['{"b": 2, "a": 1}', '{"a": 1,}', '{, "b": 2}']),
    ({"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[A-Z]{2}$"}]}, ["null", '"AB"'], ['"ab"', "AB"]),
])  # fmt: skip
def test_a_schema_lets_through_what_fulfils_it(schema, good, bad):
    pattern = pattern_of(json.dumps(schema))
    assert [text for text in good if not accepts(pattern, text)] == []
    assert [text for text in bad if accepts(pattern, text)] == []


@pytest.mark.parametrize(("wanted", "message"), [
    ({"regex": "a("}, "cannot be used"), ({"regex": "^a"}, "at is not supported"), ({"regex": r"(a)\1"}, "groupref"),
    ({"regex": "(a|b){9}.{30000}"}, "too"), ({"schema": "{"}, "not valid JSON"), ({"schema": {"format": "x"}}, "'format'"),
    ({"schema": {"$ref": "#/a"}}, "not in it"), ({"schema": {"$ref": "#"}}, "ref"), ({"choices": ["a", ""]}, "empty"),
    ({"choices": ["a"], "regex": "b"}, "one of them"), ({"schema": {"type": "integer", "minimum": 5}}, "bounds"),
])  # fmt: skip
def test_what_cannot_be_held_to_is_refused(wanted, message):
    with pytest.raises(WeitiaoError, match=message):
        constraint(VOCABULARY, ENDS, **wanted)


def test_a_word_piece_adds_a_space_only_within_a_text():
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "yes": 1, "##no": 2, "no": 3}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    (first, sizes), (inner, lengths) = (Vocabulary(tokenizer, 4).table(one) for one in (True, False))
    assert [bytes(row[:n]) for row, n in zip(first, sizes, strict=True)][1] == b"yes"
    assert [bytes(row[:n]) for row, n in zip(inner, lengths, strict=True)][1:] == [b" yes", b"no", b" no"]
