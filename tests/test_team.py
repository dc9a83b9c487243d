"""Large models: optimizers that hold less, means of checkpoints, and two processes that train as one would."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from safetensors.torch import load_file
from test_survival import command, kill_at

import weitiao
from weitiao.core.errors import WeitiaoError
from weitiao.core.runs import read_events, read_json
from weitiao.training import checkpoint
from weitiao.training.estimate import estimate
from weitiao.training.loop import train
from weitiao.training.optimizer import make_optimizer, state_bytes
from weitiao.training.team import Team


@pytest.fixture(scope="module")
def settings(example_data: Path, tiny_model: Path, tmp_path_factory: Any) -> dict[str, Any]:
    import pandas

    rows = pandas.read_csv(example_data / "banking77" / "train.csv.gz")
    groups = [group for _, group in list(rows.groupby("category"))[:3]]
    folder = tmp_path_factory.mktemp("data") / "cards"
    folder.mkdir()
    for name, first, last in (("train", 0, 15), ("dev", 24, 32), ("test", 32, 40)):
        pandas.concat(group[first:last] for group in groups).to_csv(folder / f"{name}.csv", index=False)
    # 45 texts in steps of 8: the last step of an epoch has 5, so that the processes' shares differ.
    return {
        "data": str(folder), "model": str(tiny_model), "num_epochs": 2, "batch_size": 8, "micro_tokens": 64,
        "learning_rate": 1e-3, "max_length": 32, "precision": "fp32", "dropout": 0.0, "threads": 1,
    }  # fmt: skip


# --- optimizers


def test_adafactor_steps_as_the_paper_says_but_for_the_scale_by_the_parameter():
    """Shazeer & Stern 2018, algorithm 4, in float64, with relative step sizes left out."""
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3).double()
    optimizer = make_optimizer(model, 1e-2, 0.0, 1.0, None, "adafactor")
    weight = model.weight.detach().clone()
    rows, columns = torch.zeros(3, 1).double(), torch.zeros(1, 5).double()
    for number in range(1, 6):
        inputs = torch.randn(7, 5).double()
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        grad = model.weight.grad.clone()
        optimizer.step()
        keep = 1 - number**-0.8
        rows = keep * rows + (1 - keep) * grad.square().mean(1, keepdim=True)
        columns = keep * columns + (1 - keep) * grad.square().mean(0, keepdim=True)
        update = grad / (rows @ columns / rows.mean()).sqrt()
        update /= max(1.0, float(update.square().mean().sqrt()))
        weight -= 1e-2 * update
        torch.testing.assert_close(model.weight.detach(), weight, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["adamw", "muon", "adafactor"])
def test_the_estimate_knows_what_an_optimizer_holds(tiny_model, kind):
    model = toy.open_model(tiny_model)
    parts = toy.make_parts(model, toy.table(8), epochs=1)
    parts.optimizer = make_optimizer(model, 1e-3, 0.0, 1.0, None, kind)
    expected = state_bytes(parts.optimizer)
    list(train(parts))
    held = sum(
        value.numel() * value.element_size()
        for state in parts.optimizer.state.values()
        for key, value in state.items()
        if key != "step"
    )
    assert held == expected
    if kind == "adafactor":
        assert expected < state_bytes(make_optimizer(model, 1e-3, 0.0, 1.0, None)) / 5


def test_checkpointing_and_adafactor_lower_the_estimate(tiny_model):
    model = toy.open_model(tiny_model)
    parts = toy.make_parts(model, toy.table(8), epochs=1)
    usual = estimate(parts, 0).memory_bytes
    parts.optimizer = make_optimizer(model, 1e-3, 0.0, 1.0, None, "adafactor")
    trained = sum(p.numel() for p in model.parameters())
    assert usual - estimate(parts, 0).memory_bytes > 6 * trained


def test_adafactor_learns_what_it_is_shown(tiny_model):
    model = toy.open_model(tiny_model)
    parts = toy.make_parts(model, toy.table(24), epochs=30)
    parts.optimizer = make_optimizer(model, 1e-3, 0.0, 1.0, None, "adafactor")
    losses = [event.loss for event in train(parts)]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


def test_a_run_with_adafactor_resumes_to_the_same_weights(settings, tmp_path):
    mine = {**settings, "optimizer": "adafactor", "checkpoint_steps": 3}
    whole = weitiao.finetune(output=tmp_path / "whole", show=False, **mine)
    assert len([event for event in whole.events if event["event"] == "step"]) == 12
    flags = [str(part) for key, value in mine.items() for part in (f"--{key.replace('_', '-')}", value)]
    kill_at("tempfile.mkdtemp", "step-00000009", 1, "finetune", *flags, "--output", tmp_path / "killed")
    weitiao.finetune(output=tmp_path / "killed", resume=True, show=False)
    mine, theirs = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed")
    )
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_an_optimizer_in_8_bits_without_a_gpu_is_one_clear_error(settings, tmp_path):
    with pytest.raises(
        WeitiaoError, match="adamw-8bit needs a GPU and the package bitsandbytes: take --optimizer"
    ):
        weitiao.finetune(output=tmp_path / "run", optimizer="adamw-8bit", show=False, **settings)
    assert not (tmp_path / "run").exists()


# --- means of checkpoints


def test_the_mean_of_checkpoints_is_that_made_by_hand(tiny_model, tmp_path):
    model = toy.open_model(tiny_model)
    parts = toy.make_parts(model, toy.table(16), epochs=3)
    paths = []
    for event in train(parts):
        if event.step % 2 == 0:
            paths.append(checkpoint.save(tmp_path, model, parts.optimizer, {"step": event.step}))
    checkpoint.load_mean(paths[-2:], model)
    first, second = (load_file(path / "weights.safetensors") for path in paths[-2:])
    for name, value in checkpoint.trained_state(model).items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2)
    checkpoint.keep(tmp_path, 1, {2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000006"]


def test_a_run_ends_with_the_mean_where_it_scores_higher(settings, tmp_path):
    data = str(Path(settings["data"]) / "train.csv")  # too few texts for a dev part: the mean is taken
    mine = {**settings, "data": data, "num_epochs": 3}
    found = {}
    for count in (1, 2):
        run = weitiao.finetune(output=tmp_path / str(count), average_checkpoints=count, show=False, **mine)
        found[count] = load_file(run.folder / "model" / "model.safetensors")
    notes = [event.get("text", "") for event in run.events]
    assert any(note.startswith("Mean of the weights of the last 2 epochs: taken") for note in notes)
    assert any(not torch.equal(found[1][name], found[2][name]) for name in found[1])
    run = weitiao.finetune(output=tmp_path / "dev", average_checkpoints=2, show=False, **settings)
    (note,) = [e["text"] for e in run.events if e["event"] == "note" and "Mean of the weights" in e["text"]]
    scores = [e["scores"][e["monitor"]] for e in run.events if e["event"] == "evaluation"]
    kept = read_json(run.folder / "metrics.json")["evaluation"]["dev"]["scores"]
    assert kept["accuracy"] >= max(scores) - 1e-9 or "not taken" in note


# --- several processes


def steps(folder: Path) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in read_events(folder) if event["event"] == "step"}


def flags(settings: dict[str, Any], **more: Any) -> list[str]:
    every = {**settings, **more}
    return [str(part) for key, value in every.items() for part in (f"--{key.replace('_', '-')}", value)]


def test_two_processes_train_as_one_would(settings, tmp_path):
    one = weitiao.finetune(output=tmp_path / "one", show=False, **settings)
    two = tmp_path / "two"
    code, said = command("finetune", *flags(settings, processes=2, output=two))
    assert code == 0, said
    ours, theirs = steps(one.folder), steps(two)
    assert ours.keys() == theirs.keys() == set(range(1, 13))
    assert max(abs(ours[step] - theirs[step]) for step in ours) < 1e-4
    for file in ("model.safetensors", "head.safetensors"):
        a, b = (load_file(folder / "model" / file) for folder in (one.folder, two))
        assert a.keys() == b.keys()
        for name in a:
            # A key's bias has no gradient but rounding errors, which Adam scales up to whole steps.
            assert "key.bias" in name or (a[name] - b[name]).abs().mean() < 2e-5, name
    mine, its = (read_json(folder / "metrics.json") for folder in (one.folder, two))
    assert its["environment"]["processes"] == 2
    assert its["engagement"]["trained_parameters"] == mine["engagement"]["trained_parameters"]
    assert its["evaluation"]["test"]["scores"]["accuracy"] == mine["evaluation"]["test"]["scores"]["accuracy"]
    assert len([e for e in read_events(two) if e["event"] == "step"]) == 12  # one process writes
    assert "RANK" not in os.environ


@pytest.mark.soak
def test_processes_go_on_from_each_other_s_checkpoints(settings, tmp_path):
    mine = {**settings, "checkpoint_steps": 3, "tuning": "lora"}
    one = weitiao.finetune(output=tmp_path / "one", show=False, **mine)
    two = tmp_path / "two"
    kill_at("tempfile.mkdtemp", "step-00000009", 1, "finetune", *flags(mine, processes=2, output=two))
    code, said = command("finetune", "--output", two, "--resume")
    assert code == 0, said
    ours, theirs = steps(one.folder), steps(two)
    assert max(abs(ours[step] - theirs[step]) for step in ours) < 1e-4
    a, b = (load_file(folder / "model" / "adapter_model.safetensors") for folder in (one.folder, two))
    assert all((a[name] - b[name]).abs().mean() < 2e-5 for name in a)


@pytest.mark.soak
def test_torchrun_launches_it_too(settings, tmp_path):
    """As ``accelerate launch`` does on GPUs; without one that starts a single process, whatever number it is given."""
    import subprocess
    import sys

    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "weitiao", "finetune", *flags(settings, output=tmp_path / "two")]
    done = subprocess.run(launch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_json(tmp_path / "two" / "metrics.json")["environment"]["processes"] == 2
    one = weitiao.finetune(output=tmp_path / "one", show=False, **settings)
    ours, theirs = steps(one.folder), steps(tmp_path / "two")
    assert ours.keys() == theirs.keys()
    assert max(abs(ours[step] - theirs[step]) for step in ours) < 1e-4


@pytest.mark.parametrize(
    "wrong", [{"tuning": "adalora"}, {"objective": "cross_entropy+fgm"}, {"optimizer": "adafactor"}]
)
@pytest.mark.soak
def test_what_processes_cannot_share_is_refused(settings, tmp_path, wrong):
    code, said = command("finetune", *flags(settings, processes=2, output=tmp_path / "run", **wrong))
    assert code == 2 and "needs one process" in said.splitlines()[-1], said
    assert not (tmp_path / "run").exists()


# --- kept in main memory


def test_offload_without_a_gpu_is_a_note_and_the_same_run(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    plain = weitiao.finetune(output=tmp_path / "plain", show=False, **settings)
    kept = weitiao.finetune(output=tmp_path / "kept", show=False, cpu_offload=True, **settings)
    assert steps(plain.folder) == steps(kept.folder)
    notes = [event["text"] for event in kept.events if event["event"] == "note"]
    assert [note for note in notes if "--cpu-offload: there is no GPU here" in note]


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_model_that_is_kept_apart_trains_as_one_that_is_not(settings, tmp_path, monkeypatch, tuning):
    """A group of one process, its parts kept in main memory: on a GPU, or here on the processor itself."""
    mine = {**settings, "tuning": tuning, "checkpoint_steps": 3}
    plain = weitiao.finetune(output=tmp_path / "plain", show=False, **mine)
    monkeypatch.setattr(Team, "join", lambda *_: Team.of_one())
    kept = weitiao.finetune(output=tmp_path / "kept", show=False, cpu_offload=True, **mine)
    assert not torch.distributed.is_initialized()
    ours, theirs = steps(plain.folder), steps(kept.folder)
    assert ours.keys() == theirs.keys()
    assert max(abs(ours[step] - theirs[step]) for step in ours) < 1e-4
    assert kept.metrics["model"]["saved_logit_difference"] <= 1e-5
    with pytest.raises(WeitiaoError, match="--tuning adalora needs one process: leave --cpu-offload out"):
        weitiao.finetune(
            output=tmp_path / "other", show=False, cpu_offload=True, **{**mine, "tuning": "adalora"}
        )
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_offloaded_takes_less_of_a_gpu(settings, tmp_path):
    taken = {}
    for offload in (False, True):
        torch.cuda.reset_peak_memory_stats()
        run = weitiao.finetune(output=tmp_path / str(offload), show=False, cpu_offload=offload, **settings)
        taken[offload] = run.metrics["cost"]["actual_gpu_bytes"]
    assert taken[True] < taken[False]


def test_a_share_covers_each_text_once_and_all_have_as_many_batches(tiny_model):
    from weitiao.training.batches import Batches

    encoded = toy.table(24)
    batches = Batches(encoded, 8, 0, micro_tokens=30)
    for rows in ([3], [5, 9], list(range(11))):
        import numpy as np

        teams = [Team(rank, 3) for rank in range(3)]
        shares = [team.share(batches, np.array(rows)) for team in teams]
        seen = sorted(
            row
            for share in shares
            for batch, weight in zip(share.batches, share.weights, strict=True)
            for row in batch.rows.tolist()
            if weight
        )
        assert seen == rows
        assert len({len(share.batches) for share in shares}) == 1
        assert all(share.count == len(rows) for share in shares)
        assert all(share.tokens == int(encoded.lengths[rows].sum()) for share in shares)


# --- the learning-rate range test


def test_the_range_test_suggests_a_rate_that_trains(settings, tmp_path):
    from weitiao.cli import main

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(settings), encoding="utf-8")
    assert main(["tune", str(recipe), "--learning-rate-test", "--output", str(tmp_path / "rates")]) == 0
    found = read_json(tmp_path / "rates" / "learning-rate.json")
    assert found["rates"][0] == pytest.approx(1e-7) and found["rates"] == sorted(found["rates"])
    assert 1e-6 < found["suggestion"] < 1e-1
    html = (tmp_path / "rates" / "learning-rate.html").read_text(encoding="utf-8")
    assert "<script" not in html and "polyline" in html and f"{found['suggestion']:.1e}" in html
    assert not (tmp_path / "rates" / "model").exists()


def test_the_suggestion_is_the_steepest_fall_of_a_known_curve():
    from weitiao.stages._rate_test import suggestion

    rates = [10 ** (-6 + place / 20) for place in range(101)]
    losses = [
        2 - 1 / (1 + 10 ** (-3 * (place / 20 - 2))) + (100 if place > 95 else 0) for place in range(101)
    ]
    assert 1e-4 <= suggestion(rates, losses) < 5e-4  # the bend lies at 1e-4, and smoothing lags behind it
    with pytest.raises(WeitiaoError, match="does not fall at any rate"):
        suggestion(rates, [1 + place for place in range(101)])
