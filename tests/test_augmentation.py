"""Augmentations: the contract, tested for every one listed, and what each promises of the text that it writes."""

import gzip
import subprocess
import sys
import unicodedata
from itertools import chain, pairwise
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_house import environment

from weitiao.augmentation._look_alikes import look_alikes
from weitiao.augmentation._readings import readings, sounding
from weitiao.augmentation._scripts import to_simplified, to_traditional
from weitiao.augmentation._words import words
from weitiao.augmentation.typo import neighbours, slips
from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError

# Back-translation writes what its models make of a sentence: it has tests of its own.
NAMES = [name for name in catalogue.members("augmentation") if name != "back_translation"]
TABLES = {"synonym": "synonyms", "code_mixing": "translations"}
LINES = "\ufeff手机,电话,移动电话\nbad\tpoor\tawful\n会议,meeting\ncredit card,bank card\n\n"
PIECES = (
    "我的手机坏了", "银行转账失败", "在北京开会议，下午3点", "電話費太貴", "ＡＢＣ１２３！", "not a bad Phone",
    "credit card", "isn't", "😀", "👨\u200d👩\u200d👧", "❤\ufe0f", "e\u0301te\u0301", "user_1@example.com", "５G", "3.14", " ", "\u3000", "\n", "。",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=6).map("".join)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A member at a rate, with a small table where it needs one."""
    table = tmp_path_factory.mktemp("words") / "table.txt"
    table.write_text(LINES, encoding="utf-8")

    def made(name, rate=0.5, **options):
        if name in TABLES:
            options.setdefault(TABLES[name], str(table))
        member = catalogue.member("augmentation", name)(rate=rate, **options)
        member.prepare()
        return member

    return made


@st.composite
def texts_and_spans(draw):
    text = draw(TEXTS)
    places = draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=6))
    return text, sorted(tuple(sorted(pair)) for pair in pairwise(places))


# --- what is true of an old and a new text, by member


def is_subsequence(old, new):
    letters = iter(old)
    return all(char in letters for char in new)


def by_characters(same):
    return lambda old, new: (
        len(old) == len(new) and all(a == b or same(a, b) for a, b in zip(old, new, strict=True))
    )


def in_pinyin(text):
    return "".join(readings()[char][:-1] if char in readings() else char for char in text)


def with_one_word_for_all(text):
    for line in LINES.strip().removeprefix("\ufeff").splitlines():
        first, *others = sorted(line.replace("\t", ",").split(","))
        for word in sorted(others, key=len, reverse=True):
            text = text.lower().replace(word, first)
    return text.lower()


RELATIONS = {
    "homophone": by_characters(lambda a, b: readings()[a][:-1] == readings()[b][:-1]),
    "look_alike": by_characters(lambda a, b: b in look_alikes()[a]),
    "typo": by_characters(lambda a, b: b in slips(a) or b.lower() in neighbours()[a.lower()]),
    "pinyin": lambda old, new: in_pinyin(old) == in_pinyin(new),
    "traditional": by_characters(lambda a, b: to_traditional()[a] == b),
    "simplified": by_characters(lambda a, b: to_simplified()[a] == b),
    "full_width": by_characters(lambda a, b: unicodedata.normalize("NFKC", b) == a),
    "half_width": by_characters(lambda a, b: unicodedata.normalize("NFKC", a) == b),
    "deletion": is_subsequence,
    "swap": lambda old, new: sorted(old) == sorted(new),
    "synonym": lambda old, new: with_one_word_for_all(old) == with_one_word_for_all(new),
    "code_mixing": lambda old, new: with_one_word_for_all(old) == with_one_word_for_all(new),
}


# --- the contract


def test_the_family_has_these_members():
    """Names are settings in people's recipes: one that goes or changes breaks them."""
    assert set(RELATIONS) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@example(("", [(0, 0)]), 0, 0.5)
@example(("😀", [(0, 1)]), 0, 1.0)
@example(("好", [(0, 1)]), 0, 1.0)
@example(("bad credit card", [(0, 3), (4, 15)]), 0, 1.0)
@given(texts_and_spans(), st.integers(0, 9), st.sampled_from([0.1, 0.5, 1.0]))
def test_each_part_of_the_text_is_rewritten_in_its_place(make, name, given_, seed, rate):
    """What lies in a span, between spans and in the whole text is the old rewritten, and blank only if it was."""
    text, spans = given_
    member = make(name, rate)
    new, moved = member.apply(text, spans, Random(seed))
    assert (new, moved) == member.apply(text, spans, Random(seed)), "the same seed gives the same text"
    borders = dict(zip([0, len(text), *chain(*spans)], [0, len(new), *chain(*moved)], strict=True))
    parts = [*pairwise(sorted(borders)), *spans, (0, len(text))]
    for start, end in parts:
        old_part, new_part = text[start:end], new[borders[start] : borders[end]]
        if name in RELATIONS:
            assert RELATIONS[name](old_part, new_part), (old_part, new_part)
    for start, end in [*spans, (0, len(text))]:
        if text[start:end].strip():
            assert new[borders[start] : borders[end]].strip()


@pytest.mark.parametrize("name", NAMES)
@given(texts_and_spans())
def test_at_rate_0_nothing_changes(make, name, given_):
    assert make(name, 0.0).apply(*given_, Random(0)) == given_


@pytest.mark.parametrize("name", NAMES)
def test_a_text_that_can_be_edited_is_edited_at_any_rate(make, name):
    text = "我的手机坏了，會議 meeting，ＡＢＣ abc bad 会议"
    for rate in (0.01, 0.5, 1.0):
        assert make(name, rate).apply(text, [], Random(1))[0] != text


@pytest.mark.parametrize("name", NAMES)
def test_numbers_emoji_and_addresses_stay(make, name):
    text = "3.14 😀 👨\u200d👩\u200d👧 ❤\ufe0f user_1@example_2.com"
    new, _ = make(name, 1.0).apply(text, [], Random(0))
    assert unicodedata.normalize("NFKC", new) == unicodedata.normalize("NFKC", text)


@pytest.mark.parametrize("name", NAMES)
def test_a_span_outside_the_text_is_refused(make, name):
    for span in ((0, 3), (-1, 1), (2, 1)):
        with pytest.raises(ValueError, match="outside a text of 2 characters"):
            make(name).apply("你好", [span], Random(0))


def test_the_family_needs_no_torch():
    code = (
        "import sys; from weitiao.core import catalogue\n"
        "for name in catalogue.members('augmentation'): catalogue.member('augmentation', name)\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


# --- what the members promise


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("traditional", "电话费太贵", "電話費太貴"), ("simplified", "電話費太貴，裏面", "电话费太贵，里面"),
    ("full_width", "A1! ok", "Ａ１！ ｏｋ"), ("half_width", "Ａ１！\u3000，。", "A1! ,。"),
    ("pinyin", "绿色wifi", "lvsewifi"), ("swap", "坏了", "了坏"), ("swap", "bad phone", "phone bad"),
    ("code_mixing", "开会议了", "开meeting了"), ("code_mixing", "meeting", "meeting"),
    ("synonym", "Credit card", "Bank card"), ("synonym", "BADLY", "BADLY"),
])  # fmt: skip
def test_at_rate_1_the_text_becomes(make, name, text, expected):
    assert make(name, 1.0).apply(text, [], Random(0))[0] == expected


def test_a_synonym_longer_than_the_word_moves_what_follows(make):
    text = "手机坏了，在北京修"
    new, spans = make("synonym", 1.0).apply(text, [(0, 2), (6, 8)], Random(3))
    assert new[slice(*spans[0])] in ("电话", "移动电话")
    assert new[slice(*spans[1])] == "北京"


def test_no_word_is_replaced_across_the_border_of_a_span(make):
    assert make("synonym", 1.0).apply("手机", [(0, 1)], Random(0)) == ("手机", [(0, 1)])


@pytest.mark.parametrize("text", ["不好", "not good", "I don't like it", "没有用"])
def test_deletion_keeps_negations(make, text):
    kept = {"不", "not", "don't", "没"}
    for seed in range(10):
        new, _ = make("deletion", 1.0).apply(text, [], Random(seed))
        assert [w.text for w in words(new) if w.text in kept] == [
            w.text for w in words(text) if w.text in kept
        ]


def test_same_tone_is_the_narrower_choice(make):
    for seed in range(20):
        new, _ = make("homophone", 1.0, same_tone=True).apply("转账失败", [], Random(seed))
        assert [readings()[char] for char in new] == [readings()[char] for char in "转账失败"]


def test_more_of_the_text_is_edited_at_a_higher_rate(make):
    text = "银行转账失败怎么办" * 10
    changed = [
        sum(a != b for a, b in zip(text, make("homophone", rate).apply(text, [], Random(0))[0], strict=True))
        for rate in (0.1, 0.3, 1.0)
    ]
    possible = changed[-1]
    assert possible >= 70 and changed[:2] == [round(0.1 * possible), round(0.3 * possible)]


@pytest.mark.parametrize("name", sorted(TABLES))
@pytest.mark.parametrize(("content", "said"), [
    (None, "needs a table of words"), ("missing", "cannot be read"), (b"\xff\xfe\x00", "not UTF-8"), (b"one\n", "no line"),
])  # fmt: skip
def test_a_table_that_cannot_be_used_is_one_clear_line(tmp_path, name, content, said):
    path = tmp_path / "table.csv"
    if isinstance(content, bytes):
        path.write_bytes(content)
    member = catalogue.member("augmentation", name)(**{TABLES[name]: str(path) if content else ""})
    with pytest.raises(WeitiaoError, match=said) as caught:
        member.prepare()
    assert f"--{TABLES[name]}" in str(caught.value) and "\n" not in str(caught.value)


# --- the tables, against others


def lexicon(folder, name):
    with gzip.open(folder / "lexicons" / name, "rt", encoding="utf-8") as file:
        return [line.split("\t") for line in file.read().splitlines()]


def test_characters_that_sound_the_same_do_so_in_another_table(shared_data):
    """Made from other sources, and listing not quite all homophones."""
    listed = {row[0]: set("".join(row[1:])) for row in lexicon(shared_data, "same_pinyin.txt.gz")[1:]}
    pairs = [
        (char, other)
        for char, sound in readings().items()
        for other in sounding(True)[sound]
        if char != other and char in listed
    ]
    agreed = sum(other in listed[char] or char in listed.get(other, "") for char, other in pairs)
    assert len(pairs) > 15_000 and agreed / len(pairs) > 0.85


def test_most_real_misspellings_are_among_the_possible_edits(shared_data):
    """SIGHAN 2015: sentences as learners wrote them, and as they should be."""
    slipped = [
        (right, wrong)
        for wrong_text, right_text, *_ in lexicon(shared_data, "sighan2015_test.tsv.gz")
        if len(wrong_text) == len(right_text)
        for wrong, right in zip(wrong_text, right_text, strict=True)
        if wrong != right
    ]
    sounds = {char: sound[:-1] for char, sound in readings().items()}
    homophones = sum(right in sounds and sounds[right] == sounds.get(wrong) for right, wrong in slipped)
    alike = sum(wrong in look_alikes().get(right, "") for right, wrong in slipped)
    assert len(slipped) > 400 and homophones / len(slipped) > 0.65 and alike / len(slipped) > 0.1
