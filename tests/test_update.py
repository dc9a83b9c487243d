"""Continual learning: what each method adds, new classes in the head, the ledger, promotion, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import make, make_parts, open_model, table

import weitiao
from weitiao.continual.base import Known
from weitiao.core import catalogue
from weitiao.core.config import build
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import NoteEvent
from weitiao.core.runs import promoted
from weitiao.models.saving import read_description
from weitiao.objectives._composed import compose
from weitiao.stages import update
from weitiao.stages._ledger import Ledger, Time, transfers
from weitiao.stages._predictor import Run, load_model
from weitiao.stages._updating import united
from weitiao.tasks.base import Answers
from weitiao.training.loop import losses_of, train
from weitiao.training.outputs import features_of, outputs_of
from weitiao.training.passes import Passes

METHODS = catalogue.members("continual")
OLD, NEW = {"a": "card money", "b": "银行卡 余额"}, {"c": "good bank", "d": "转账 失败"}


def rows(words: dict[str, str], count: int) -> list[dict]:
    names = list(words)
    return [
        {"text": f"{words[names[i % len(names)]]} {i}", "label": names[i % len(names)]} for i in range(count)
    ]


def write(path: Path, found: list[dict]) -> str:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in found), "utf-8")
    return str(path)


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    """A function that gives a fresh copy of a run on two classes, and a table with two others."""
    import shutil

    folder = tmp_path_factory.mktemp("update")
    old, new = write(folder / "old.jsonl", rows(OLD, 60)), write(folder / "new.jsonl", rows(NEW, 60))
    made: dict[str, Path] = {}

    def run(to: Path, tuning: str = "full") -> tuple[Path, str]:
        if tuning not in made:
            made[tuning] = folder / tuning
            settings = {"model": str(tiny_model), "max_length": 32, "precision": "fp32", "threads": 1}
            rate = 1e-2 if tuning == "lora" else 3e-3
            weitiao.finetune(old, output=made[tuning], show=False, tuning=tuning, learning_rate=rate, num_epochs=6, batch_size=8,
                             dev_fraction=0.0, **settings)  # fmt: skip
        shutil.copytree(made[tuning], to)
        return to, new

    return run


def updated(run: Path, data: str, **settings):
    values = {
        "run": str(run),
        "data": data,
        "num_epochs": 6,
        "batch_size": 8,
        "threads": 1,
        "learning_rate": 3e-3,
        **settings,
    }
    events = list(update.run(build(update.Config, values)))
    return events[-1].result, events


def known(tiny_model, tuning=None, before_rows: int = 12) -> Known:
    """A model with five classes that begins as one of three."""
    old = (
        open_model(tiny_model, head={"type": "pooled", "outputs": 3, "pooling": "mean"})
        .eval()
        .requires_grad_(False)
    )
    model = open_model(tiny_model, tuning, head={"type": "pooled", "outputs": 5, "pooling": "mean"})
    with torch.no_grad():
        for name, tensor in old.head.state_dict().items():
            model.head.state_dict()[name][:3].copy_(tensor)
    sums = torch.nn.CrossEntropyLoss(reduction="sum")
    return Known(model, old, table(seed=2), table(before_rows, seed=1), {}, 1, sums)


def terms(method, given: Known) -> float:
    """What the method adds to the loss of the training rows, before any step."""
    parts = make_parts(given.model.eval(), given.train, batch_size=24, epochs=1)
    with_ = 0.0
    for batch in parts.batches.step(np.arange(24)):
        passes = Passes(given.model, batch, parts.dropout, parts.accelerator.autocast, parts.loss_sum)
        passes.first()
        term = method.term(passes)
        with_ += 0.0 if term is None else float(term.detach())
    return with_


def test_the_family_has_these_members():
    assert {"naive", "replay", "ewc", "lwf", "orthogonal_lora"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_adds_nothing_before_anything_has_moved(tiny_model, name):
    method = make("continual", name)
    given = known(tiny_model)
    method.begin(given)
    assert terms(method, given) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", ["ewc", "lwf"])
def test_a_method_adds_something_once_the_old_answers_have_moved(tiny_model, name):
    method = make("continual", name)
    given = known(tiny_model)
    method.begin(given)
    with torch.no_grad():
        given.model.head.linear.weight[:3] += torch.randn(3, 32)
    assert terms(method, given) > 0.1


def test_ewc_is_the_papers_equation(tiny_model):
    """Fisher from gradients taken one row at a time, by plain autograd, and lambda / 2 sum F (w - w*)^2."""
    method, given = make("continual", "ewc", ewc_lambda=4.0), known(tiny_model, before_rows=6)
    method.begin(given)
    logits = torch.tensor(np.stack(outputs_of(given.old, given.before)))
    wrong_NC = logits.softmax(1) - torch.eye(3)[torch.tensor(given.before.targets)]
    x_NF = torch.tensor(np.stack(features_of(given.old, given.before)))
    by_hand = torch.einsum("nc,nf->ncf", wrong_NC, x_NF).pow(2).mean(0)
    found = method.fisher["head.linear.weight"]
    torch.testing.assert_close(found / found.sum(), by_hand / by_hand.sum(), atol=1e-5, rtol=1e-3)
    every = sum(f.sum() for f in method.fisher.values()) / sum(f.numel() for f in method.fisher.values())
    assert float(every) == pytest.approx(1, rel=1e-3)
    with torch.no_grad():
        given.model.head.linear.weight[0, 0] += 0.5
        given.model.head.linear.weight[4] += 7  # a new class: held by nothing
    assert float(method.penalty(given.model)) == pytest.approx(4 / 2 * float(found[0, 0]) * 0.25, rel=1e-3)


def test_the_penalty_counts_once_a_step_however_it_is_cut(tiny_model):
    method, given = make("continual", "ewc"), known(tiny_model)
    method.begin(given)
    with torch.no_grad():
        given.model.head.linear.weight[:3] += 0.1
    sums = []
    for micro in (10_000, 60):
        parts = make_parts(given.model.eval(), given.train, batch_size=24, epochs=1, micro_tokens=micro)
        composed = compose("cross_entropy", {})
        composed.additions.append((1.0, method))
        parts.losses = composed.losses
        batches = parts.batches.step(np.arange(24))
        sums.append(sum(float(loss) for batch in batches for loss in losses_of(parts, batch)) / 24)
    assert len(batches) > 1
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)


def test_orthogonal_lora_learns_in_directions_that_are_free(tiny_model):
    """Trained with the term, the new A has less in the old directions than without it."""
    left = {}
    for weight in (0.0, 50.0):
        method = make("continual", "orthogonal_lora", orthogonal_weight=weight, orthogonal_rank=4)
        given = known(tiny_model, make("tuning", "lora", lora_rank=4))
        state = given.model.backbone.state_dict()
        given.base = {n.replace(".base_layer.", "."): t.clone() for n, t in state.items() if "lora_" not in n}
        torch.manual_seed(3)
        with torch.no_grad():
            for name, tensor in state.items():
                if name.endswith("base_layer.weight"):  # the old task's change, of rank 4
                    tensor += 0.1 * torch.randn(tensor.shape[0], 4) @ torch.randn(4, tensor.shape[1])
        method.begin(given)
        assert len(method.taken) == 12
        composed = compose("cross_entropy", {})
        composed.additions.append((1.0, method))
        parts = make_parts(given.model, given.train, learning_rate=1e-2, epochs=10)
        parts.losses = composed.losses
        list(train(parts))
        left[weight] = sum(float((state[n] @ d).pow(2).sum()) for n, d in method.taken.items())
    assert left[50.0] < 0.2 * left[0.0]


def test_old_answers_keep_their_numbers():
    old = Answers("classes", ["b", "c"], 0.0, 1.0)
    assert united(old, Answers("classes", ["a", "b"])).names == ["b", "c", "a"]


# --- the whole command


@pytest.mark.parametrize(("method", "tuning"), [
    ("naive", "full"), ("replay", "lora"), ("ewc", "full"), ("lwf", "full"), ("orthogonal_lora", "lora"),
])  # fmt: skip
def test_new_classes_are_learnt_and_the_run_answers_with_them(trained, tmp_path, method, tuning):
    run, new = trained(tmp_path / "x", tuning)
    before = Run(run)
    result, _ = updated(
        run, new, method=method, most_loss=100, learning_rate=1e-2 if tuning == "lora" else 3e-3
    )
    assert result["promoted"]
    assert promoted(run) == run / "updates" / "1"
    after = weitiao.load(run)
    assert after.answers.names == ["a", "b", "c", "d"]
    assert before.answers.names == ["a", "b"]
    assert result["scores"]["new.jsonl"] > 0.7
    held = json.loads((run / "ledger.json").read_text("utf-8"))
    assert [time["method"] for time in held["times"]] == ["", method]
    first, second = (time["scores"] for time in held["times"])
    assert held["average_forgetting"] == pytest.approx(first["old.jsonl"] - second["old.jsonl"])
    assert held["forward_transfer"] is None, "no label of the new table was known before"
    words = {row["text"] for row in rows(NEW, 60)}
    assert {answer["label"] for answer in after.predict(sorted(words)[:8])} & {"c", "d"}
    description = read_description(run / "updates/1/model")
    assert description["tuning"] == ("full" if method == "orthogonal_lora" else tuning)


def test_replay_forgets_less_than_naive(trained, tmp_path):
    lost = {}
    for method in ("naive", "replay"):
        run, new = trained(tmp_path / method)
        lost[method] = updated(run, new, method=method, most_loss=100)[0]["lost_points"]["old.jsonl"]
    assert lost["naive"] > 30
    assert lost["replay"] < lost["naive"] - 20


def test_an_update_begins_with_the_old_weights_bit_for_bit(trained, tmp_path, monkeypatch):
    from weitiao.stages._updating import Updating

    run, new = trained(tmp_path / "x")
    seen = {}

    def look(self):
        seen["model"] = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        raise KeyboardInterrupt

    monkeypatch.setattr(Updating, "_learn", look)
    with pytest.raises(WeitiaoError, match="the run answers as before"):
        updated(run, new, method="replay")
    old = load_model(run / "model", read_description(run / "model"))
    for name, tensor in old.named_parameters():
        assert torch.equal(seen["model"][name][: len(tensor)], tensor), name
    assert seen["model"]["head.linear.weight"].shape[0] == 4
    assert promoted(run) == run


def test_a_regression_is_kept_and_not_promoted(trained, tmp_path):
    run, new = trained(tmp_path / "x")
    before = weitiao.predict(run, ["card money", "余额"])
    result, events = updated(run, new, method="naive", most_loss=1)
    assert not result["promoted"]
    warnings = [event.text for event in events if isinstance(event, NoteEvent) and event.level == "warning"]
    assert any("is kept, but not promoted: old.jsonl lost" in text for text in warnings)
    assert (run / "updates/1/model").is_dir()
    assert not (run / "current").exists()
    assert weitiao.predict(run, ["card money", "余额"]) == before
    result, _ = updated(run, new, method="replay", most_loss=100)
    assert result["promoted"]
    assert promoted(run) == run / "updates/2"
    assert Run(run / "updates/2").answers.names == ["a", "b", "c", "d"], (
        "it began with the run, not with the regression"
    )


def test_an_update_that_learns_nothing_is_not_promoted_and_says_so(trained, tmp_path):
    """On labels that are all new it must beat the commonest; on known ones the model before it."""
    run, new = trained(tmp_path / "x")
    more = write(tmp_path / "more.jsonl", rows(OLD, 60))
    for number, (data, than) in enumerate([(new, "always the commonest"), (more, "before")], 1):
        result, events = updated(run, data, method="naive", most_loss=100, learning_rate=1e-6, num_epochs=1)
        assert not result["promoted"] and promoted(run) == run
        (text,) = [
            event.text for event in events if isinstance(event, NoteEvent) and event.level == "warning"
        ]
        assert f"updates/{number} is kept, but not promoted: it learnt nothing of {Path(data).name}" in text
        assert f"; {than}: " in text and text.endswith(f"{run} answers as before") and "\n" not in text
        assert not Ledger.read(run).times[number].promoted


def test_a_second_update_is_judged_on_both_tasks_before_it(trained, tmp_path):
    run, new = trained(tmp_path / "x")
    updated(run, new, most_loss=100)
    third = write(tmp_path / "third.jsonl", rows({"e": "pending", "a": "card money"}, 60))
    result, _ = updated(run, third, most_loss=100)
    assert set(result["lost_points"]) == {"old.jsonl", "new.jsonl"}
    assert result["forward_transfer"] is not None, "label a was known"
    assert weitiao.load(run).answers.names == ["a", "b", "c", "d", "e"]


def test_a_stopped_update_goes_on_to_the_same_weights(trained, tmp_path):
    from safetensors.torch import load_file

    weights = {}
    for name in ("whole", "stopped"):
        run, new = trained(tmp_path / name)
        settings = {
            "run": str(run),
            "data": new,
            "num_epochs": 2,
            "threads": 1,
            "learning_rate": 3e-3,
            "most_loss": 100,
        }
        config = build(update.Config, settings)
        if name == "stopped":
            events = update.run(config)
            for event in events:
                if type(event).__name__ == "CheckpointEvent":
                    break
            events.close()
            assert (run / "updates/1/config.yaml").exists()
            assert promoted(run) == run
        list(update.run(config))
        weights[name] = load_file(run / "updates/1/model/model.safetensors")
    assert all(torch.equal(tensor, weights["stopped"][key]) for key, tensor in weights["whole"].items())


def test_the_ledgers_figures_by_hand():
    """Three tasks; Chaudhry et al. 2018 and Lopez-Paz and Ranzato 2017, written out."""
    times = [
        Time("", "", "t1", True, {"t1": 0.9}),
        Time("updates/1", "replay", "t2", True, {"t1": 0.7, "t2": 0.8}, before=0.3, baseline=0.1),
        Time("updates/2", "replay", "t3", True, {"t1": 0.8, "t2": 0.6, "t3": 0.5}, before=0.2, baseline=0.4),
    ]
    found = transfers(times)
    assert found["average_forgetting"] == pytest.approx(((0.9 - 0.8) + (0.8 - 0.6)) / 2)
    assert found["backward_transfer"] == pytest.approx(((0.8 - 0.9) + (0.6 - 0.8)) / 2)
    assert found["forward_transfer"] == pytest.approx(((0.3 - 0.1) + (0.2 - 0.4)) / 2)
    assert set(transfers(times[:1]).values()) == {None}


def test_the_ledger_is_read_as_it_was_written(tmp_path):
    ledger = Ledger(
        "accuracy",
        [Time("", "", "t1", True, {"t1": 0.9}), Time("updates/1", "ewc", "t2", False, {"t1": 0.1})],
    )
    ledger.write(tmp_path)
    assert Ledger.read(tmp_path) == ledger
    assert not (tmp_path / "current").exists()
    (tmp_path / "current").write_text("../../etc")
    with pytest.raises(WeitiaoError, match="is no update of this run"):
        promoted(tmp_path)


# --- bad input


def test_bad_input_is_one_line_and_leaves_the_run_as_it_was(trained, tmp_path):
    run, new = trained(tmp_path / "x")
    there = sorted(path.name for path in run.iterdir())
    cases = [
        ({"method": "magic"}, "Unknown continual 'magic'"),
        ({"data": str(tmp_path / "nowhere.csv")}, "nowhere"),
        ({"run": str(tmp_path / "no-run")}, "no run that can be updated"),
        ({"test_fraction": 0.0}, "judged on test rows"),
        ({"memory": -1}, "memory is -1"),
    ]
    for change, message in cases:
        with pytest.raises(WeitiaoError, match=message) as error:
            updated(**{"run": run, "data": new, **change})
        assert "\n" not in str(error.value)
    assert sorted(path.name for path in run.iterdir() if path.name != "updates") == there
    assert not list((run / "updates").glob("*")) if (run / "updates").exists() else True


def test_a_training_table_that_changed_is_refused(trained, tmp_path):
    run, new = trained(tmp_path / "x")
    config = (run / "config.yaml").read_text("utf-8")
    other = write(tmp_path / "other.jsonl", rows(OLD, 40))
    old = next(line.split(": ", 1)[1] for line in config.splitlines() if line.startswith("data:"))
    (run / "config.yaml").write_text(config.replace(old, other), "utf-8")
    with pytest.raises(WeitiaoError, match=r"other\.jsonl has changed since\. Put the table back"):
        updated(run, new)
