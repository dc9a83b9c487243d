"""Few labels: the family's contract, drawing shots, the methods, and the choice among them."""

import numpy as np
import pytest
import torch

import weitiao
from weitiao.core import catalogue
from weitiao.core.config import build, make_member
from weitiao.core.errors import WeitiaoError
from weitiao.data.splits import draw, folds
from weitiao.few_shot.base import Situation
from weitiao.stages import finetune as stage
from weitiao.training import probe
from weitiao.training.outputs import features_and_targets

METHODS = catalogue.members("few_shot")
GOOD = ("good", "fine", "nice", "great", "love it", "很好", "不错", "喜欢")
BAD = ("bad", "poor", "awful", "worst", "hate it", "很差", "糟糕", "讨厌")


def rows(each: int = 8) -> list[dict]:
    return [
        {"text": f"the {word} card {n}", "label": label}
        for label, words in (("good", GOOD), ("bad", BAD))
        for n, word in enumerate(words[:each])
    ]


@pytest.fixture
def few(tiny_model, tmp_path):
    """Train on few labels; the test rows are the training rows, so a method that learns scores well."""

    def run(data, **settings):
        fixed = {"model": str(tiny_model), "max_length": 32, "precision": "fp32", "threads": 1}
        fixed |= {"test_data": rows(), "output": tmp_path / "run", "show": False}
        return weitiao.finetune(data, **(fixed | settings))

    return run


def test_the_family_has_these_members():
    """Names are settings in people's recipes: one that goes or changes breaks them."""
    assert {"auto", "cloze", "contrastive", "in_context", "probe"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_stands_for_settings_that_exist(name):
    """What a member names is a setting of finetune; with it the config passes its checks."""
    settings = make_member("few_shot", name, {}).settings()
    config = build(stage.Config, {"data": "a.csv", "few_shot": name, **settings})
    checked = stage.checked(config)
    assert checked.few_shot == name
    assert checked.dev_fraction == 0


def test_the_users_own_settings_go_before_a_methods():
    config = stage.checked(
        build(stage.Config, {"data": "a.csv", "few_shot": "contrastive", "num_epochs": 3, "tuning": "lora"})
    )
    assert (config.num_epochs, config.tuning, config.refit_head) == (3, "lora", True)
    assert config.learning_rate is None, "the rate is LoRA's own"


def test_shots_draw_so_many_of_each_class():
    labels = ["a"] * 50 + ["b"] * 9 + ["c"] * 30
    chosen = draw(labels, 9, 1)
    assert sorted(set(chosen)) == chosen.tolist()
    assert [labels[i] for i in chosen] == ["a"] * 9 + ["b"] * 9 + ["c"] * 9
    assert chosen.tolist() == draw(labels, 9, 1).tolist()
    assert chosen.tolist() != draw(labels, 9, 2).tolist()
    with pytest.raises(WeitiaoError, match="the class 'b' has only 9 texts to train on: --shots 9 at most"):
        draw(labels, 10, 1)


def test_folds_spread_every_class():
    labels = ["a"] * 10 + ["b"] * 6
    fold_N = folds(labels, 3, 0)
    assert [np.bincount(fold_N[:10]).tolist(), np.bincount(fold_N[10:]).tolist()] == [[4, 3, 3], [2, 2, 2]]


def test_contrastive_trains_the_backbone_and_fits_the_head_to_it(few):
    run = few(rows(), few_shot="contrastive", shots=6, seed=3)
    assert run.metrics["data"]["train"]["rows"] == 12
    assert run.metrics["engagement"]["moved"]["layer 1"] > 1e-3
    # The head is the regression's: fitted once more, it stays where it is.
    records = [row for row in rows() if row["text"] in _trained_on(run)]
    encoded, _ = run.outputs(records)
    features = features_and_targets(run.model, encoded)
    held = run.model.head.linear.weight.clone()
    probe.fit(run.model.head, *features)
    torch.testing.assert_close(run.model.head.linear.weight, held, atol=2e-3, rtol=2e-2)


def _trained_on(run) -> set[str]:
    data = rows()
    return {data[i]["text"] for i in draw([row["label"] for row in data], 6, 3)}


def test_auto_takes_the_best_and_says_why(few):
    run = few(rows(), few_shot="auto", shot_folds=2, num_epochs=4)
    note = next(e["text"] for e in run.events if e["event"] == "note" and e["text"].startswith("Few-shot"))
    scores = dict(part.split() for part in note.rsplit(": ", 1)[1].split(", "))
    assert {"contrastive", "probe"} == set(scores)
    chosen = note.split(": ")[1].split(";")[0]
    assert float(scores[chosen]) == max(map(float, scores.values()))
    assert "2 folds of" in note
    assert f"few_shot: {chosen}\n" in (run.folder / "config.yaml").read_text("utf-8")
    assert not (run.folder / "checkpoints").exists()


def test_when_the_time_is_up_what_is_known_decides(few):
    run = few(rows(4), shots=4, shot_budget=0, num_epochs=1)
    note = next(e["text"] for e in run.events if e["event"] == "note" and e["text"].startswith("Few-shot"))
    assert "one fold of" in note


def test_with_one_text_a_class_only_a_probe_fits(few):
    run = few(rows(1), few_shot="auto")
    note = next(e["text"] for e in run.events if e["event"] == "note" and e["text"].startswith("Few-shot"))
    assert note.startswith("Few-shot method: probe; contrastive: it compares texts of one class")
    assert run.metrics["model"]["tuning"] == "head"


@pytest.mark.parametrize(("settings", "message"), [
    ({"few_shot": "contrastive", "shots": 1}, "--few-shot contrastive: it compares texts of one class, and a class has"),
    ({"few_shot": "probe", "tuning": "lora"}, "--few-shot probe is --tuning head: leave out --tuning lora"),
    ({"few_shot": "contrastiv"}, "Did you mean 'contrastive'"),
    ({"shots": 9}, "the class 'bad' has only 8 texts"),
    ({"shots": 2, "multi_label": True}, "are no single classes"),
    ({"few_shot": "probe", "multi_label": True}, "learns single classes; text_classification has labels"),
])  # fmt: skip
def test_what_cannot_work_is_one_line_and_leaves_nothing(few, tmp_path, settings, message):
    with pytest.raises(WeitiaoError, match=message) as error:
        few(rows(), **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_every_method_can_say_why_it_does_not_fit(tiny_model):
    """A table of one text a class, a model with nothing but an encoder."""
    there = Situation(2, 2, 1, False, False, {"template": "", "verbaliser": {}})
    reasons = {name: make_member("few_shot", name, {}).unfit(there) for name in METHODS}
    assert reasons["probe"] == reasons["auto"] == ""
    assert "at least two" in reasons["contrastive"]
