"""Columns by name, by what the user gave, and by place."""

import pytest

from weitiao.core.errors import WeitiaoError
from weitiao.data.columns import CLASSIFICATION, PAIRS, RELATIONS, TOKENS, find_columns


@pytest.fixture(autouse=True)
def _english(monkeypatch):
    monkeypatch.setenv("WEITIAO_LANG", "en")


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        (["cat", "label", "review"], CLASSIFICATION, {"text": "review", "label": "label"}),
        (["\ufeffText ", "CATEGORY"], CLASSIFICATION, {"text": "\ufeffText ", "label": "CATEGORY"}),
        (["标题", "正文", "正负面"], CLASSIFICATION, {"text": "正文", "label": "正负面"}),
        (
            ["sentence1", "sentence2", "score"],
            PAIRS,
            {"text_a": "sentence1", "text_b": "sentence2", "label": "score"},
        ),
        (["句子1", "句子2", "相似度"], PAIRS, {"text_a": "句子1", "text_b": "句子2", "label": "相似度"}),
        (["id", "text", "relation"], RELATIONS, {"text": "text", "label": "relation"}),
        (["text", "label"], TOKENS, {"text": "text", "spans": "label"}),
    ],
)
def test_found_by_name(names, wanted, found):
    assert find_columns(names, wanted, None, "a.csv") == found


def test_given_comes_first_and_is_not_taken_twice():
    names = ["text", "title", "label", "topic"]
    given = {"text": "Title", "label": "topic"}
    assert find_columns(names, CLASSIFICATION, given, "a.csv") == {"text": "title", "label": "topic"}
    assert find_columns(["label", "target"], CLASSIFICATION, {"text": "label"}, "a") == {
        "text": "label",
        "label": "target",
    }


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (
            ["text", "label"],
            {"text": "txt"},
            "a.csv has no column 'txt'. Did you mean 'text'. Its columns: text, label",
        ),
        (["text", "label"], {"txt": "text"}, "Unknown column role 'txt'. Did you mean 'text'"),
        (
            ["foo", "bar"],
            None,
            r"no column for 'text' \(looked for text, .*Its columns: foo, bar. Say .*text=<column>",
        ),
        (["text", "bar"], None, "no column for 'label'"),
    ],
)
def test_what_is_not_there_is_said(names, given, message):
    with pytest.raises(WeitiaoError, match=message.replace("'text'. Its", "'text'.* Its")):
        find_columns(names, CLASSIFICATION, given, "a.csv")


def test_places_count_only_without_a_header():
    numbered = ["column_1", "column_2"]
    assert find_columns(numbered, CLASSIFICATION, None, "a", [30.0, 4.0]) == {
        "text": "column_1",
        "label": "column_2",
    }
    assert (
        find_columns(numbered, CLASSIFICATION, {"text": "column_2"}, "a", [30.0, 4.0])["label"] == "column_1"
    )
    with pytest.raises(WeitiaoError):
        find_columns(numbered, CLASSIFICATION, None, "a")
    with pytest.raises(WeitiaoError):
        find_columns([*numbered, "column_3"], CLASSIFICATION, None, "a", [1.0, 2.0, 3.0])
