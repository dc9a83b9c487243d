"""Splits keep texts on one side and every label in training; findings count what is wrong."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from weitiao.core.errors import WeitiaoError
from weitiao.data.quality import check_labels, inspect
from weitiao.data.splits import label_names, normalise, split


@pytest.fixture(autouse=True)
def _english(monkeypatch):
    monkeypatch.setenv("WEITIAO_LANG", "en")


def records(texts, labels=None) -> Dataset:
    columns = {"text": list(texts), "row_number": list(range(2, len(texts) + 2))}
    return Dataset.from_dict(columns if labels is None else {**columns, "label": list(labels)})


@st.composite
def tables(draw):
    texts = draw(
        st.lists(
            st.sampled_from([f"Text {i}" for i in range(40)] + ["text 1 ", "ＴＥＸＴ  2"]),
            min_size=4,
            max_size=60,
        )
    )
    kind = draw(st.sampled_from(["word", "list", "number", "none"]))
    values = {
        "word": st.sampled_from("abcdefgh"),
        "list": st.lists(st.sampled_from("abcd"), unique=True, max_size=3),
        "number": st.floats(0, 5),
        "none": st.none(),
    }[kind]
    labels = draw(st.lists(values, min_size=len(texts), max_size=len(texts)))
    return records(texts, None if kind == "none" else labels), kind


@settings(max_examples=80, deadline=None)
@given(tables(), st.floats(0.05, 0.9), st.integers(0, 5))
def test_split_properties(table, fraction, seed):
    data, kind = table
    try:
        train, test = split(data, test_fraction=fraction, seed=seed)
    except WeitiaoError:
        assume(False)
    assert train.dtype == test.dtype == np.int64
    assert sorted([*train, *test]) == list(range(len(data)))
    assert list(train) == sorted(train) and list(test) == sorted(test) and len(test)
    texts = [normalise(text) for text in data["text"]]
    assert not {texts[i] for i in train} & {texts[i] for i in test}
    if kind in ("word", "list"):
        labels = [label_names(label) for label in data["label"]]
        assert {name for i in test for name in labels[i]} <= {name for i in train for name in labels[i]}
    again = split(data, test_fraction=fraction, seed=seed)
    assert np.array_equal(again[0], train)


def test_each_class_gives_its_share_and_the_total_is_right():
    labels = ["big"] * 700 + ["mid"] * 290 + [f"rare{i // 2}" for i in range(100)]
    data = records([f"t{i}" for i in range(len(labels))], labels)
    _, test = split(data, test_fraction=0.2, seed=3)
    counts = Counter(labels[i] for i in test)
    assert abs(counts["big"] - 140) <= 1 and abs(counts["mid"] - 58) <= 1
    assert abs(len(test) - 0.2 * len(labels)) <= 1


def test_numbers_are_spread_over_their_range():
    values = np.random.default_rng(0).permutation(1000) / 200
    data = records([f"t{i}" for i in range(1000)], values.tolist())
    _, test = split(data, test_fraction=0.3, seed=0)
    shares = [np.mean((values[test] >= low) & (values[test] < low + 1)) for low in range(5)]
    assert np.allclose(shares, 0.2, atol=0.02)


def test_seeds_differ_and_pairs_group_by_both_texts():
    data = records([f"t{i}" for i in range(100)], ["a", "b"] * 50)
    assert not np.array_equal(*(split(data, test_fraction=0.2, seed=seed)[1] for seed in (0, 1)))
    pairs = Dataset.from_dict({"a": ["x"] * 20, "b": [f"y{i // 2}" for i in range(20)]})
    _, test = split(pairs, test_fraction=0.4, seed=0, group_key=("a", "b"))
    assert {i ^ 1 for i in test.tolist()} == set(test.tolist())
    with pytest.raises(WeitiaoError, match="Too few different texts"):
        split(pairs, test_fraction=0.4, seed=0, group_key="a")
    with pytest.raises(WeitiaoError, match="must lie between 0 and 1"):
        split(pairs, test_fraction=1.0, seed=0, group_key="a")


def test_the_split_does_not_depend_on_the_process(tmp_path):
    code = (
        "from datasets import Dataset; from weitiao.data.splits import split;"
        "d = Dataset.from_dict({'text': [f't{i}' for i in range(50)], 'label': list('abcde') * 10});"
        "print(split(d, test_fraction=.3, seed=7)[1].tolist())"
    )
    path = ":".join(sys.path)
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": path, "HF_HOME": str(tmp_path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(answers) == 1


# --- quality


def by_code(findings):
    return {finding.code: finding for finding in findings}


def test_each_flaw_is_counted_with_its_rows():
    train = records(
        ["good one", "Good  one", "good one", "", "same", "same", "fine", "long text"],
        ["a", "a", "a", "a", "a", "b", "b", "once"],
    )
    test = records(["SAME", "new"], ["a", "b"])
    found = by_code(inspect(train, test, lengths=[4, 4, 4, 2, 3, 3, 3, 17], max_length=10))
    assert {code: (finding.count, finding.rows) for code, finding in found.items()} == {
        "empty_text": (1, [5]),
        "two_labels": (2, [6, 7]),
        "duplicate": (2, [3, 4]),
        "overlap": (1, [2]),
        "label_once": (1, [9]),
        "truncated": (1, [9]),
    }
    assert (
        found["duplicate"].message == "2 of 8 (25.0%) repeat an earlier text with the same label (rows 3, 4)"
    )
    assert "loses 17.5% of all tokens" in found["truncated"].message
    assert found["overlap"].total == 2
    assert all("\n" not in finding.message for finding in found.values())


def test_clean_data_has_no_findings_and_numbers_are_not_labels():
    assert inspect(records(["a", "b", "c", "d"], ["x", "y", "x", "y"])) == []
    assert inspect(records(["a", "b"], [0.5, 4.5])) == []
    assert inspect(records(["a", "b"])) == []


def test_rows_are_cut_at_twenty_and_the_message_is_chinese_on_request(monkeypatch):
    monkeypatch.setenv("WEITIAO_LANG", "zh")
    (finding,) = inspect(records(["x"] * 30, ["a", "b"] * 15), label_key="none")
    assert (finding.code, finding.count, len(finding.rows)) == ("duplicate", 29, 20)
    assert "重复" in finding.message and "第 3, 4, 5, 6, 7, ... 行" in finding.message


def test_extreme_imbalance():
    found = by_code(inspect(records([f"t{i}" for i in range(202)], ["a"] * 200 + ["b"] * 2)))
    assert list(found) == ["imbalance"] and "'a' has 200 rows, 'b' only 2" in found["imbalance"].message


def test_labels_that_cannot_be_learnt_or_measured():
    check_labels(["a", "b"], ["b"])
    check_labels([["a"], []], [["a"]])
    check_labels([0.5, 1.0], [0.7])
    check_labels([[{"start": 0, "end": 1, "label": "PER"}]], [[]])
    with pytest.raises(WeitiaoError, match="All 2 rows have the same label 'a'"):
        check_labels(["a", "a"])
    with pytest.raises(WeitiaoError, match=r"never shows: 'c' \(2\), 'd' \(1\)"):
        check_labels(["a", "b"], ["c", "d", "c", "a"])
    with pytest.raises(WeitiaoError, match="No row has a label"):
        check_labels([[], []])
