"""Learning from unlabelled texts: thresholds, consistency, where the texts come from, and what is refused."""

import csv

import numpy as np
import pytest

import weitiao
from weitiao.core.errors import WeitiaoError
from weitiao.stages._pseudo_labels import chosen_labels


def texts(first: int, count: int) -> list[dict]:
    return [
        {"text": f"the {('good', 'bad')[n % 2]} card 卡{n}", "label": ("yes", "no")[n % 2]}
        for n in range(first, first + count)
    ]


@pytest.fixture
def train(tiny_model, tmp_path):
    def run(data, **settings):
        fixed = {
            "model": str(tiny_model),
            "max_length": 32,
            "precision": "fp32",
            "threads": 1,
            "tuning": "head",
        }
        fixed |= {"test_data": texts(500, 20), "output": tmp_path / "run", "show": False}
        return weitiao.finetune(data, **(fixed | settings))

    return run


def notes(run) -> list[str]:
    return [event["text"] for event in run.events if event["event"] == "note"]


def table(folder, rows, name="table.csv"):
    path = folder / name
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_a_class_that_is_learnt_less_well_has_a_lower_threshold():
    probabilities = np.array(
        [[0.96, 0.02, 0.02]] * 8 + [[0.01, 0.97, 0.02]] * 2 + [[0.1, 0.75, 0.15], [0.75, 0.1, 0.15]]
    )
    classes, sure = chosen_labels([probabilities], 0.95)
    assert classes.tolist() == [0] * 8 + [1] * 2 + [1, 0]
    # By hand: class 1 has 2 confident texts for 8, so 0.95 * 0.25 / 1.75, raised to (0.95 + 1/3) / 2 = 0.64.
    assert sure.tolist() == [True] * 10 + [True, False]


def test_a_text_whose_copy_gets_another_label_is_left_out():
    plain = np.array([[0.99, 0.01], [0.99, 0.01], [0.98, 0.02]])
    copies = np.array([[0.98, 0.02], [0.30, 0.70], [0.60, 0.40]])
    classes, sure = chosen_labels([plain, copies], 0.9)
    assert classes.tolist() == [0, 0, 0]
    assert sure.tolist() == [True, False, False], "the third agrees, but its mean confidence is 0.79"


def test_rows_without_a_label_are_learnt_from(train, tmp_path):
    rows = texts(0, 20) + [{"text": row["text"], "label": ""} for row in texts(100, 30)]
    run = train(table(tmp_path, rows), unlabelled="rows", test_fraction=0.0, unlabelled_threshold=0.6)
    assert run.metrics["data"]["train"]["rows"] == 20
    told = next(note for note in notes(run) if "got a label" in note)
    assert int(told.split()[0]) >= 20
    assert any("20 labelled texts, then labels 30 others" in note for note in notes(run))


def test_another_table_with_copies_and_a_limit(train, tmp_path):
    other = table(tmp_path, [{"text": row["text"], "label": ""} for row in texts(100, 50)], "more.csv")
    settings = {"unlabelled": other, "unlabelled_limit": 30, "augment": "swap", "unlabelled_threshold": 0.6}
    run = train(texts(0, 20), **settings)
    assert any("then labels 30 others" in note for note in notes(run))
    assert int(next(note for note in notes(run) if "got a label" in note).split()[0]) > 0


def test_what_the_teacher_is_not_sure_of_changes_nothing(train, tmp_path):
    """With a threshold that no answer reaches, the model is the one without the unlabelled texts."""
    other = table(tmp_path, [{"text": row["text"], "label": ""} for row in texts(100, 10)], "more.csv")
    alone = train(texts(0, 20), output=tmp_path / "alone")
    both = train(texts(0, 20), unlabelled=other, unlabelled_threshold=1.0)
    asked = [row["text"] for row in texts(700, 6)]
    assert any(note.startswith("0 of them") for note in notes(both))
    assert both.predict(asked) == alone.predict(asked)


@pytest.mark.parametrize(("rows", "settings", "message"), [
    (texts(0, 10), {"unlabelled": "rows"}, "no row of .* has an empty label"),
    ([{"text": "a", "label": ""}] * 3, {"unlabelled": "rows"}, "no row of .* has a label"),
    (texts(0, 10), {"unlabelled": "missing.csv"}, "missing.csv"),
])  # fmt: skip
def test_texts_that_are_not_there_are_one_error(train, tmp_path, rows, settings, message):
    with pytest.raises(WeitiaoError, match=message) as error:
        train(table(tmp_path, rows), test_fraction=0.0, **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "config.yaml").exists()
