"""Rewritten copies in training: which rows get them, that answers stay in place, and what is refused."""

from random import Random
from typing import Any

import numpy as np
import pytest

import weitiao
from weitiao.core import catalogue
from weitiao.core.config import build, make_member
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import NoteEvent
from weitiao.data.encode import load_tokenizer
from weitiao.stages import _augment, finetune
from weitiao.stages._prepare import Prepared

ROWS: dict[str, list[dict[str, Any]]] = {
    "text_classification": [{"text": "银行转账失败", "label": "a"}, {"text": "good card", "label": "b"}],
    "text_matching": [{"text_a": "银行卡丢了", "text_b": "卡没了怎么办", "label": "1"},
                      {"text_a": "bad money", "text_b": "转账", "label": "0"}],
    "token_classification": [
        {"text": "我在北京的银行工作", "spans": [{"start": 2, "end": 4, "label": "place"}, {"start": 5, "end": 7, "label": "firm"}]},
        {"text": "没有", "spans": []},
    ],
    "relation_extraction": [
        {"text": "小米公司收购了银行", "places": [7, 9, 0, 4], "label": "buys"}, {"text": "银行在北京", "places": [0, 2, 3, 5], "label": "in"},
    ],
}  # fmt: skip


def prepared(task: Any, rows: list[dict[str, Any]], tokenizer: Any) -> Prepared:
    """Rows as training and as test rows, encoded."""
    records = {"train": rows, "test": rows}
    answers = task.learn({task.label_key: [row[task.label_key] for row in rows]})
    data = Prepared(records, {}, answers)
    data.encoded = {name: task.encode(part, tokenizer, 32, data.answers) for name, part in records.items()}
    return data


def added(name: str, tokenizer: Any, **settings: Any) -> tuple[Prepared, list[Any]]:
    """What add_copies makes of a task's rows, and its events."""
    config = build(finetune.Config, {"data": "x", "task": name, "max_length": 32, **settings})
    task = make_member("tasks", name, config.member_values)
    data = prepared(task, ROWS[name], tokenizer)
    return data, list(_augment.add_copies(task, data, tokenizer, config))


@pytest.mark.parametrize("name", ROWS)
def test_copies_come_behind_the_training_rows_alone(name, tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    data, events = added(name, tokenizer, augment="homophone,typo", augment_copies=3)
    train, test = data.encoded["train"], data.encoded["test"]
    assert (len(train), len(test)) == (8, 2) and data.records["train"] == ROWS[name]
    for row in range(2):
        assert np.array_equal(train.ids[row], test.ids[row])
    notes = [event.text for event in events if isinstance(event, NoteEvent)]
    assert len(notes) == 1 and notes[0].startswith("6 rewritten copies added to 2 training texts (homophone ")
    if isinstance(train.targets, np.ndarray):
        assert train.targets.tolist() == test.targets.tolist() * 4
    again, _ = added(name, tokenizer, augment="homophone,typo", augment_copies=3)
    assert np.array_equal(train.ids.values, again.encoded["train"].ids.values)
    other, _ = added(name, tokenizer, augment="homophone,typo", augment_copies=3, seed=7)
    assert not np.array_equal(train.ids.values, other.encoded["train"].ids.values)


def test_the_tags_of_a_copy_are_those_of_its_words(tiny_model):
    """Homophones keep the number of characters, so a copy's tags are the row's; its entities changed with the text."""
    data, _ = added("token_classification", load_tokenizer(tiny_model), augment="homophone", augment_rate=1)
    train = data.encoded["train"]
    assert train.targets[2].tolist() == train.targets[0].tolist()
    assert train.ids[2].tolist() != train.ids[0].tolist()
    assert {data.answers.names[tag] for tag in train.targets[0] if tag >= 0} >= {
        "B-place",
        "I-place",
        "B-firm",
        "I-firm",
    }


@pytest.mark.parametrize("name", ["token_classification", "relation_extraction"])
def test_entities_stay_in_place_when_words_grow(name):
    """Pinyin makes every character longer."""
    task = make_member("tasks", name, {})
    pinyin = catalogue.member("augmentation", "pinyin")(rate=1.0)
    row = ROWS[name][0]
    copy = task.rewritten(row, lambda text, spans: pinyin.apply(text, spans, Random(0)))
    if name == "token_classification":
        words = [(copy["text"][span["start"] : span["end"]], span["label"]) for span in copy["spans"]]
        assert words == [("beijing", "place"), ("yinxing", "firm")]
    else:
        h0, h1, t0, t1 = copy["places"]
        assert (copy["text"][h0:h1], copy["text"][t0:t1]) == ("yinxing", "xiaomigongsi")
    assert row == ROWS[name][0] and "北" not in copy["text"]


def test_a_text_that_cannot_be_rewritten_is_counted(tiny_model):
    _, events = added("text_classification", load_tokenizer(tiny_model), augment="look_alike")
    assert "1 rewritten copies" in events[-1].text and "1 with nothing to rewrite" in events[-1].text


def test_where_nothing_can_be_rewritten_training_is_refused(tiny_model):
    with pytest.raises(WeitiaoError, match="traditional found nothing to rewrite in 2 training texts"):
        config = build(finetune.Config, {"data": "x", "augment": "traditional"})
        task = make_member("tasks", "text_classification", {})
        rows = [{"text": "good", "label": "a"}, {"text": "bad", "label": "b"}]
        tokenizer = load_tokenizer(tiny_model)
        list(_augment.add_copies(task, prepared(task, rows, tokenizer), tokenizer, config))


@pytest.mark.parametrize(("settings", "said"), [
    ({"augment": "homofone"}, "Did you mean 'homophone'"),
    ({"augment": "typo", "augment_rate": 0}, "augment_rate is 0"),
    ({"augment": "synonym"}, "--synonyms FILE"),
    ({"augment": "typo", "task": "image_classification"}, "rewrites texts; image_classification has none"),
    ({"augment": "typo", "task": "text_matching", "encoder": "bi", "objective": "contrastive"}, "use cosent"),
])  # fmt: skip
def test_what_cannot_work_is_refused_before_the_data_is_read(settings, said):
    with pytest.raises(WeitiaoError, match=said) as caught:
        finetune.checked(build(finetune.Config, {"data": "no such table", **settings}))
    assert "\n" not in str(caught.value)


def test_a_table_of_words_alone_chooses_its_method(tmp_path):
    table = tmp_path / "words.csv"
    table.write_text("银行,bank\n", encoding="utf-8")
    config = finetune.checked(build(finetune.Config, {"data": "x", "translations": str(table)}))
    assert config.augment == "code_mixing"
    assert config.member_values["translations"] == str(table)


def test_finetune_trains_on_the_copies_and_scores_without(tiny_model, tmp_path):
    table = tmp_path / "rows.csv"
    words = ["银行", "转账", "电话", "手机"]
    rows = [f"{a}{b}失败{i},{a}" for i in range(4) for a in words for b in words]
    table.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    settings = {
        "model": str(tiny_model),
        "num_epochs": 1,
        "batch_size": 8,
        "max_length": 32,
        "precision": "fp32",
        "threads": 1,
    }
    plain = weitiao.finetune(table, output=tmp_path / "plain", **settings)
    run = weitiao.finetune(table, output=tmp_path / "run", augment="homophone", augment_copies=2, **settings)
    steps, more = ([e for e in r.events if e["event"] == "step"] for r in (plain, run))
    assert (len(steps), len(more)) == (7, 20)  # of 51 and 3 x 51 texts
    assert run.metrics["evaluation"]["test"]["rows"] == plain.metrics["evaluation"]["test"]["rows"]
    notes = [e["text"] for e in run.events if e["event"] == "note"]
    assert any("rewritten copies added to" in note for note in notes)
