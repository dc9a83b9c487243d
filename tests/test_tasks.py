"""The contract of the tasks, for every member: what is encoded comes back, at its place in the text as it was given."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import make

from weitiao.core import catalogue
from weitiao.core.errors import BadRow
from weitiao.data.encode import IGNORED, load_tokenizer
from weitiao.data.pictures import pgm
from weitiao.tasks.base import Answers
from weitiao.tasks.relation_extraction import mark

TEXTS = [
    "银行卡丢了怎么办",
    "good money in the bank",
    "转账失败 pending",
    "the card 不能用",
    "查一下余额",
    "bad card",
]


class Records(list):
    """Records that are read by column too, as ``datasets.Dataset`` is."""

    def __getitem__(self, key):
        return [record[key] for record in self] if isinstance(key, str) else super().__getitem__(key)


def records_of(task, rows: list[dict]) -> Records:
    return Records({**task.example(row), "row_number": i + 1} for i, row in enumerate(rows))


def spans(*parts: tuple[int, int, str]) -> list[dict]:
    return [{"start": a, "end": b, "label": label} for a, b, label in parts]


# For each task: rows, and the settings to read them with. A new task must put its example here.
TABLES = {
    "text_classification": [
        ({}, [{"text": text, "label": label} for text, label in zip(TEXTS, "abcabc", strict=True)]),
        ({"multi_label": True}, [{"text": TEXTS[0], "label": "a|b"}, {"text": TEXTS[1], "label": ""},
                                 {"text": TEXTS[2], "label": ["c", "a"]}]),
    ],
    "text_matching": [
        ({}, [{"text_a": "卡丢了", "text_b": "card", "label": "1"}, {"text_a": "a", "text_b": "余额", "label": "0"}]),
        ({}, [{"text_a": "a", "text_b": "b", "label": v} for v in ("0.5", "2.5", "5", "0")]),
        ({"encoder": "bi"}, [{"text_a": "a", "text_b": "b 卡", "label": v} for v in ("yes", "no")]),
    ],
    "image_classification": [
        ({}, [{"image": pgm(np.full((28, 28), n, np.uint8)), "label": label} for n, label in enumerate("aba")]),
        ({"image_size": 8, "color": True}, [{"image": pgm(np.full((9, 5), n, np.uint8)), "label": str(n)} for n in (3, 4)]),
    ],
    "token_classification": [
        ({}, [{"text": "我在北京银行工作", "spans": spans((2, 6, "ORG"))}, {"text": "no names", "spans": []},
              {"text": "the card of Li", "spans": spans((4, 8, "THING"), (12, 14, "PER"))}]),
    ],
    "relation_extraction": [
        ({}, [{"text": "<e1>李明</e1>在<e2>北京</e2>工作", "label": "lives"},
              {"text": "the bank lent money", "head": "money", "tail": "bank", "label": "none"}]),
    ],
}  # fmt: skip


def perfect(task, encoded, answers: Answers) -> list[np.ndarray]:
    """The outputs of a model that is always right."""
    targets = encoded.targets
    if answers.kind == "values":
        if encoded.per_example == 2:  # unit vectors whose cosine is the target
            return [np.array([[1.0, 0.0], [t, (1 - t * t) ** 0.5]]) for t in targets]
        return [np.array([t]) for t in targets]
    if answers.kind == "labels":
        return [np.where(t == 1, 5.0, -5.0) for t in targets]
    return [10 * np.eye(len(answers.names))[np.maximum(targets[i], 0)] for i in range(len(encoded))]


# Tasks with a frozen model for one side of an example, which the fixtures here lack: tests/test_picture_words.py; and
# those whose answers are written: tests/test_generation_tasks.py.
ELSEWHERE = {"image_text_matching", "image_to_text", "chat", "summarization", "text_generation"}


def task_cases():
    for name in sorted(set(catalogue.members("tasks")) - ELSEWHERE):
        assert name in TABLES, f"{name} has no example: add one to TABLES"
        for number, (options, rows) in enumerate(TABLES[name]):
            yield pytest.param(name, options, rows, id=f"{name}-{number}")


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


@pytest.mark.parametrize(("name", "options", "rows"), task_cases())
def test_perfect_outputs_decode_to_the_gold(tokenizer, name, options, rows):
    task = make("tasks", name, **options)
    records = records_of(task, rows)
    answers = task.learn(records)
    assert Answers(**json.loads(json.dumps(answers.as_json()))) == answers
    encoded = task.encode(records, tokenizer, 48, answers)
    assert len(encoded) == len(rows) and (encoded.uncut is None or (encoded.uncut > 2).all())
    outputs = perfect(task, encoded, answers)
    predictions = task.predictions(outputs, encoded, records, answers)
    gold, predicted = predictions.gold, predictions.predicted
    if answers.kind == "values":
        np.testing.assert_allclose(predicted, gold, atol=1e-6)
    else:
        np.testing.assert_equal(predicted, gold)
    assert predictions.row_numbers == [i + 1 for i in range(len(rows))]
    evaluation = catalogue.member("evaluation", task.evaluation(answers))()
    scores = evaluation.scores(predictions)
    assert scores[evaluation.monitor] == pytest.approx(1.0)
    objective = make("objectives", task.objective(answers))
    assert answers.kind in objective.fits
    head = task.head(answers, "mean")
    assert head["outputs"] in (0, 1) if answers.kind == "values" else head["outputs"] == len(answers.names)
    # Without the answers there are no targets, and the same token ids.
    bare = task.encode([task.example({k: v for k, v in r.items() if k not in ("label", "spans")}) for r in rows],
                       tokenizer, 48, None)  # fmt: skip
    assert bare.targets is None
    np.testing.assert_array_equal(bare.ids.values, encoded.ids.values)


@pytest.mark.parametrize(("name", "options", "rows"), task_cases())
def test_many_rows_are_encoded_as_few(tokenizer, name, options, rows):
    """Long tables go through in chunks; the joined result is that of each row alone."""
    task = make("tasks", name, **options)
    records = records_of(task, rows)
    answers = task.learn(records)
    count = 2 * 2000 // len(records) + 1
    whole, few = (task.encode(Records(records * n), tokenizer, 48, answers) for n in (count, 1))
    assert len(whole) == count * len(records)
    for name_ in ("ids", "types", "targets", "marks", "offsets", "uncut"):
        one, many = getattr(few, name_), getattr(whole, name_)
        assert (one is None) == (many is None), name_
        if one is not None:
            np.testing.assert_equal([np.array(one[-i]) if isinstance(one, list) else one[len(one) - i] for i in (1, 2)],
                                    [np.array(many[-i]) if isinstance(many, list) else many[len(many) - i] for i in (1, 2)])  # fmt: skip


@pytest.mark.parametrize(("name", "options", "rows"), task_cases())
def test_results_for_people_name_the_gold(tokenizer, name, options, rows):
    task = make("tasks", name, **options)
    records = records_of(task, rows)
    answers = task.learn(records)
    encoded = task.encode(records, tokenizer, 48, answers)
    found = task.answers(perfect(task, encoded, answers), encoded, records, answers)
    for record, result in zip(records, found, strict=True):
        if name == "token_classification":
            seen = [(s["start"], s["end"], s["entity_group"], s["word"]) for s in result]
            text = record["text"]
            assert seen == [
                (s["start"], s["end"], s["label"], text[s["start"] : s["end"]]) for s in record["spans"]
            ]
        elif answers.kind == "labels":
            assert sorted(label["label"] for label in result) == record["label"]
        elif answers.kind == "classes":
            assert result["label"] == record["label"] and result["score"] > 0.99
        elif not answers.names:
            assert result["score"] == pytest.approx(float(record["label"]), abs=1e-6)
        else:
            assert result["score"] == pytest.approx(answers.names.index(record["label"]), abs=1e-6)


@pytest.mark.parametrize("name", catalogue.members("tasks"))
def test_a_row_without_text_is_a_bad_row(name):
    task = make("tasks", name)
    with pytest.raises(BadRow):
        task.example({"label": "a"})
    with pytest.raises(BadRow):
        task.example({"text": 5, "text_a": 5, "text_b": 5, "label": "a"})


CHINESE, PIECES = "我在北京银行工作了吗", ["card", "the", "money", "xy", "Li", "7", "，", "."]


@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(list(CHINESE)), st.sampled_from(PIECES)),
            st.sampled_from(["", "", "A", "B"]),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_spans_come_back_at_their_places(tokenizer, pieces):
    """Chinese, English and mixed text; spans begin and end at a word or a Chinese character."""
    text, found, after_latin = "", [], False
    for piece, kind, joined in pieces:
        latin = piece.isalnum() and piece.isascii()
        # Two Latin words must not run together, for their border would be inside one word.
        if not joined or (latin and after_latin):
            text += " "
        if kind:
            found.append((len(text), len(text) + len(piece), kind))
        text, after_latin = text + piece, latin
    task = make("tasks", "token_classification")
    rows = [{"text": text, "spans": spans(*found)}, {"text": "a b", "spans": spans((0, 1, "A"), (2, 3, "B"))}]
    records = records_of(task, rows)
    answers = task.learn(records)
    encoded = task.encode(records, tokenizer, 64, answers)
    predictions = task.predictions(perfect(task, encoded, answers), encoded, records, answers)
    assert predictions.predicted[0] == found


def test_without_split_chinese_offsets_are_the_tokenizers(tokenizer):
    task = make("tasks", "token_classification", split_chinese=False)
    records = records_of(task, [{"text": "在北京 card", "spans": spans((1, 3, "A"), (4, 8, "B"))}])
    answers = task.learn(records)
    encoded = task.encode(records, tokenizer, 64, answers)
    predictions = task.predictions(perfect(task, encoded, answers), encoded, records, answers)
    assert predictions.predicted == [[(1, 3, "A"), (4, 8, "B")]]


def test_special_tokens_are_not_scored(tokenizer):
    task = make("tasks", "token_classification")
    records = records_of(task, [{"text": "card 卡", "spans": spans((0, 4, "A"))}])
    targets = task.encode(records, tokenizer, 64, task.learn(records)).targets[0].tolist()
    assert targets == [IGNORED, 1, 0, IGNORED]


@pytest.mark.parametrize("span", [(0, 99, "A"), (3, 3, "A"), (-1, 2, "A")])
def test_a_span_outside_the_text_is_a_bad_row(span):
    with pytest.raises(BadRow, match="outside the text"):
        make("tasks", "token_classification").example({"text": "card", "spans": spans(span)})


@given(
    before=st.integers(0, 80),
    between=st.integers(0, 10),
    after=st.integers(0, 80),
    swapped=st.booleans(),
    chinese=st.booleans(),
)
def test_relation_markers_point_at_the_markers_even_when_cut(
    tokenizer, before, between, after, swapped, chinese
):
    filler = "银行" if chinese else "the "
    first, last = ("李明", "北京") if chinese else ("Li ", "bank ")
    text = filler * before + first + filler[:1] * between + " " + last + filler * after
    places = [len(filler * before), len(filler * before) + 2, 0, 0]
    start = len(filler * before + first + filler[:1] * between) + 1
    places[2:] = [start, start + len(last.strip())]
    if swapped:
        places = places[2:] + places[:2]
    record = {"text": text, "places": places, "label": "x", "row_number": 1}
    task = make("tasks", "relation_extraction")
    encoded = task.encode([record], tokenizer, 48, Answers("classes", ["x"]))
    assert len(encoded.ids[0]) <= 48 and encoded.uncut[0] >= len(encoded.ids[0])
    if before + after > 48:
        assert encoded.uncut[0] > 48, "a cut text must be known as one"
        assert len(encoded.ids[0]) > 30, "the window is wider than need be"
    tokens = [tokenizer.id_to_token(int(i)) for i in encoded.ids[0]]
    head, tail = encoded.marks[0]
    assert (tokens[head], tokens[tail]) == ("@", "#")
    entity = {2: text[places[0]], 3: text[places[2]]}
    assert tokens[head + 1][0] == entity[2].lower() and tokens[tail + 1][0] == entity[3].lower()


def test_markers_are_put_around_entities():
    assert mark("李明在北京", [0, 2, 3, 5]) == ("@ 李明 @ 在 # 北京 #", (0, 9))
    marked, (head, tail) = mark("the bank lent money", [14, 19, 4, 8])
    assert marked == "the # bank # lent @ money @" and (head, tail) == (18, 4)


def test_the_tagged_and_the_named_entities_are_the_same():
    task = make("tasks", "relation_extraction")
    tagged = task.example({"text": "<e1>李明</e1>在<e2>北京</e2>"})
    assert tagged == task.example({"text": "李明在北京", "head": "李明", "tail": "北京"})
    for row in ({"text": "no tags"}, {"text": "a b", "head": "a", "tail": "c"}):
        with pytest.raises(BadRow):
            task.example(row)


def test_pairs_have_types_and_a_bi_encoder_reads_each_alone(tokenizer):
    rows = [{"text_a": "卡", "text_b": "card x"}]
    cross = make("tasks", "text_matching").encode(rows, tokenizer, 32, None)
    assert cross.types[0].tolist() == [0, 0, 0, 1, 1, 1]
    bi = make("tasks", "text_matching", encoder="bi").encode(rows, tokenizer, 32, None)
    assert bi.per_example == 2 and len(bi) == 1 and bi.lengths.tolist() == [7]
    assert [len(bi.ids[i]) for i in (0, 1)] == [3, 4]


@pytest.mark.parametrize(("labels", "options", "kind"), [
    (["0", "1"], {}, "classes"), (["0", "1", "2", "3", "4", "5"], {}, "values"), (["0.5", "1"], {}, "values"),
    (["0", "1"], {"answer": "similarity"}, "values"), (["0.5", "1"], {"answer": "class"}, "classes"),
    (["no", "yes"], {"encoder": "bi"}, "values"),
])  # fmt: skip
def test_matching_guesses_what_is_answered(labels, options, kind):
    task = make("tasks", "text_matching", **options)
    records = records_of(task, [{"text_a": "a", "text_b": "b", "label": label} for label in labels])
    assert task.learn(records).kind == kind


def test_the_majority_answer():
    def majority(name, rows, **options):
        task = make("tasks", name, **options)
        records = records_of(task, rows)
        return task.majority(records, task.learn(records))

    assert majority("text_classification", [{"text": "x", "label": label} for label in "abb"]) == "b"
    several = [{"text": "x", "label": label} for label in ("a|b", "b|a", "c")]
    assert majority("text_classification", several, multi_label=True) == ["a", "b"]
    pairs = [{"text_a": "x", "text_b": "y", "label": label} for label in ("0", "1", "2.5", "5")]
    assert majority("text_matching", pairs) == pytest.approx(8.5 / 20)


def test_a_list_of_labels_asks_for_multi_label():
    with pytest.raises(BadRow, match="--multi-label"):
        make("tasks", "text_classification").example({"text": "x", "label": ["a"]})
