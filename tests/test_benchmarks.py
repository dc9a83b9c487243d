"""The comparisons are fair and their results are kept: same function, same ids, same counts on both sides."""

import json
import random
from argparse import Namespace

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import data, harness, ours, peer, speed
from weitiao.core.catalogue import member
from weitiao.models.backbone import TextModel, open_backbone
from weitiao.models.heads import make_head
from weitiao.training.batches import Batches
from weitiao.training.outputs import outputs_of

TEXTS = [
    "the card is good",
    "bad money",
    "物流很快，包装也好",
    "the bank",
    "不好",
    "a good bank and a bad card",
]
TABLES = {
    "text_classification": [{"text": t, "label": str(i % 2)} for i, t in enumerate(TEXTS)],
    "text_matching": [{"text_a": t, "text_b": TEXTS[-1], "label": i / 2} for i, t in enumerate(TEXTS)],
    "relation_extraction": [
        {"text": t, "head": t[0], "tail": t[-1], "relation": "ab"[i % 2]} for i, t in enumerate(TEXTS)
    ],
    "token_classification": [{"text": t, "spans": [{"start": 0, "end": 1, "label": "x"}]} for t in TEXTS],
}
SETTINGS = {
    "batch_size": 4,
    "learning_rate": 1e-3,
    "warmup_ratio": 0.1,
    "weight_decay": 0.0,
    "max_length": 64,
    "pooling": "mean",
    "dropout": 0.0,
    "seed": 1,
}


@pytest.fixture
def settings_of(tiny_model, tmp_path):
    """Settings of a run on a small table, for both sides."""

    def make(task, rows):
        path = data.write(tmp_path / f"{task}.jsonl", rows)
        return {**SETTINGS, "data": str(path), "test_data": str(path), "task": task, "model": str(tiny_model)}

    return make


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("task", TABLES)
@pytest.mark.parametrize("way", ["dynamic", "best_eager"])
def test_the_peer_computes_the_same_function(task, pooling, way, settings_of, tiny_model):
    """On the same weights both sides give the same logits and the same loss."""
    settings = {**settings_of(task, TABLES[task]), "pooling": pooling}
    tables = peer._tables(settings)
    theirs = peer.make(settings, peer.WAYS[way], tables)
    backbone, config, _ = open_backbone(tiny_model)
    head = make_head(tables.task.head(tables.answers, pooling), backbone.shape.hidden_size)
    head.linear.load_state_dict(theirs.linear.state_dict())
    model = TextModel(backbone, head, config).eval()

    pairs = zip(outputs_of(model, tables.train), peer.outputs_of(theirs, tables.train), strict=True)
    for mine, other in pairs:
        np.testing.assert_allclose(mine, other, atol=1e-5)

    batch = Batches(tables.train, len(TEXTS), 0).batch(np.arange(len(TEXTS)))
    objective = member("objectives", tables.task.objective(tables.answers))()
    loss = objective.loss_sum(model(batch.packed, batch.marks_T), batch.targets).detach() / batch.count
    rows = peer.rows_of(tables.train)
    other = theirs(**peer.Collator(0, "longest", 64)(rows))["loss"].detach()
    assert float(loss) == pytest.approx(float(other), abs=1e-5)


def test_dropout_is_set_on_both_or_off_on_both(settings_of):
    settings = settings_of("text_classification", TABLES["text_classification"])
    tables = peer._tables(settings)
    off = peer.make(settings, peer.WAYS["dynamic"], tables)
    own = peer.make({**settings, "dropout": None}, peer.WAYS["dynamic"], tables)
    assert {m.p for m in off.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    assert {m.p for m in own.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}


def test_both_sides_see_the_ids_that_transformers_would_make(settings_of, tiny_model):
    from transformers import AutoTokenizer

    tables = peer._tables(settings_of("text_classification", TABLES["text_classification"]))
    expected = AutoTokenizer.from_pretrained(tiny_model)(TEXTS, truncation=True, max_length=64)["input_ids"]
    assert [tables.train.ids[i].tolist() for i in range(len(TEXTS))] == expected


@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_padding_is_masked_and_not_scored(padding):
    rows = [{"input_ids": [5, 6], "labels": [1, -100]}, {"input_ids": [7], "labels": [0]}]
    batch = peer.Collator(9, padding, 4)(rows)
    width = {"longest": 2, "max_length": 4}[padding]
    assert batch["input_ids"][1].tolist() == [7] + [9] * (width - 1)
    assert batch["attention_mask"].sum() == 3
    assert batch["labels"][1].tolist() == [0] + [-100] * (width - 1)


@pytest.mark.parametrize("way", [None, "dynamic", "best", "max_length"])
def test_only_real_tokens_are_counted(way, settings_of):
    """Texts of 5 tokens each: whatever is padded, a step of 4 has 20."""
    rows = [{"text": f"the {c} card", "label": c} for c in "ab" * 12]
    settings = {**settings_of("text_classification", rows), "steps": 2}
    found = ours.speed(settings) if way is None else peer.speed(settings, way)
    assert found["tokens"] == 2 * 4 * 5
    assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"])


def test_the_warm_up_is_not_timed():
    rate = ours.rate([10.0, 20.0, 21.0, 23.0], [1000, 1000, 6, 6])
    assert (rate["seconds"], rate["tokens"], rate["tokens_per_second"]) == (3.0, 12, 4.0)


@pytest.mark.parametrize("task", ["text_classification", "token_classification"])
def test_whole_runs_have_the_same_steps_and_scores(task, settings_of):
    settings = {**settings_of(task, TABLES[task]), "num_epochs": 2}
    mine, theirs = ours.finetune(settings), peer.finetune(settings, "dynamic")
    assert len(mine["losses"]) == len(theirs["losses"]) == 4
    assert mine["scores"].keys() == theirs["scores"].keys()


@pytest.mark.parametrize("grouped", [True, False])
def test_some_batches_are_batches_of_a_whole_epoch(grouped):
    lengths = random.Random(0).choices(range(2, 60), k=320)
    rows = [{"input_ids": [i] * n} for i, n in enumerate(lengths)]
    chosen = peer.some_batches(rows, 8, 6, grouped, seed=3)
    assert len({row["input_ids"][0] for row in chosen}) == 48
    widths = [[len(row["input_ids"]) for row in chosen[i : i + 8]] for i in range(0, 48, 8)]
    fill = sum(map(sum, widths)) / sum(8 * max(width) for width in widths)
    assert (fill > 0.85) == grouped


def test_sides_take_turns_and_medians_have_their_spread():
    turns = []
    sides = {name: lambda name=name: turns.append(name) or len(turns) for name in "AB"}
    assert harness.interleave(sides, 3) == {"A": [1, 3, 5], "B": [2, 4, 6]}
    assert turns == list("ABABAB")
    assert harness.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}
    # A machine that halves its speed in the second round changes no ratio.
    assert harness.ratio([30.0, 15.0], [10.0, 5.0]) == {"median": 3.0, "low": 3.0, "high": 3.0}


def test_the_faster_attention_is_the_honest_best():
    rates = {"weitiao": [40.0], "dynamic": [10.0], "best": [15.0], "best_eager": [20.0]}
    summary = speed.summarise(rates, [1e6], 100, {})["summary"]
    assert summary["best attention"] == "eager"
    assert summary["x best"].startswith("2.00 ")
    assert "x best_eager" not in summary


def test_layer_parameters_are_those_of_the_model(tiny_model):
    backbone, config, _ = open_backbone(tiny_model)
    assert speed.layer_parameters(config) == sum(p.numel() for p in backbone.encoder.parameters())
    queries = sum(p.numel() for p in backbone.encoder["layer"][-1].attention.self.parameters())
    lower = sum(p.numel() for p in backbone.encoder["layer"][:-1].parameters())
    assert speed.layer_parameters(config, "cls") == lower + queries


def test_results_are_kept_once_and_the_table_is_made_from_them(tmp_path, capsys):
    options = Namespace(output=tmp_path, only=[], again=False)
    scores = iter([0.5, 0.75])
    entry = harness.Entry("mini", {"seeds": [1]}, lambda: {"summary": {"score": next(scores)}, "all": [1, 2]})
    harness.measure("demo", entry, options)
    harness.measure("demo", entry, options)
    kept = json.loads((tmp_path / "demo" / "mini" / "result.json").read_text("utf-8"))
    assert kept["summary"] == {"score": 0.5}
    assert kept["environment"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "seeds:" in (tmp_path / "demo" / "mini" / "config.yaml").read_text("utf-8")
    table = (tmp_path / "README.md").read_text("utf-8")
    assert "## demo" in table and "| mini | 0.5 |" in table
    harness.measure("demo", entry, Namespace(output=tmp_path, only=["other"], again=True))
    assert "| mini | 0.5 |" in (tmp_path / "README.md").read_text("utf-8")
    harness.measure("demo", entry, Namespace(output=tmp_path, only=[], again=True))
    assert "| mini | 0.75 |" in (tmp_path / "README.md").read_text("utf-8")


def test_a_failed_measurement_leaves_nothing_and_spoils_nothing(tmp_path):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        harness.measure(
            "demo", harness.Entry("a", {}, fail), Namespace(output=tmp_path, only=[], again=False)
        )
    assert not list(tmp_path.rglob("*.*"))
    harness.keep(tmp_path / "demo" / "a", {}, {"summary": {}})
    with pytest.raises(TypeError):
        harness.keep(tmp_path / "demo" / "a", {}, {"summary": {1, 2}, (1, 2): 3})
    assert json.loads((tmp_path / "demo" / "a" / "result.json").read_text("utf-8")) == {"summary": {}}
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["a"]


def test_parts_of_a_long_entry_are_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "SCRATCH", tmp_path)
    values = iter([{"x": 1}, {"x": 2}])
    assert [harness.remembered("part", lambda: next(values)) for _ in range(2)] == [{"x": 1}] * 2
    harness.forget(["part"])
    assert harness.remembered("part", lambda: next(values)) == {"x": 2}


def test_samples_are_seeded_and_have_every_label():
    rows = [{"text": str(i), "label": "common" if i else "rare"} for i in range(500)]
    assert data.sample(rows, 20, 1) == data.sample(rows, 20, 1) != data.sample(rows, 20, 2)
    for seed in range(5):
        chosen = data.sample(rows, 20, seed)
        assert len(chosen) == 20 and {row["label"] for row in chosen} == {"common", "rare"}
    assert len(data.sample(rows, 0, 1)) == 500


@pytest.mark.parametrize("name", data.DATASETS)
def test_each_data_set_is_read_by_its_task(name, shared_data):
    from weitiao.core.config import make_member

    task = make_member("tasks", data.DATASETS[name].task, {})
    for split in ("train", "test"):
        rows = data.DATASETS[name].read(split)
        assert len(rows) >= 1000
        roles = {c.role: next((a for a in (c.role, *c.aliases) if a in rows[0]), None) for c in task.columns}
        assert all(role in ("head", "tail") or column for role, column in roles.items())


def test_the_command_lists_what_there_is(capsys):
    assert command.main([]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {
        "accuracy",
        "cold_predict",
        "decoding",
        "inference",
        "loss",
        "pooling",
        "service",
        "speed",
    } <= set(listed)
    assert listed == sorted(listed)
    assert not {"data", "harness", "ours", "peer", "load"} & set(listed), "these are not benchmarks"
    assert command.main(["sped"]) == 2
    assert "'sped'" in capsys.readouterr().err


def test_every_benchmark_names_its_entries_once(tmp_path):
    import importlib

    options = command.parser().parse_args(["--output", str(tmp_path)])
    for name in command.names():
        found = [entry.name for entry in importlib.import_module(f"benchmarks.{name}").entries(options)]
        assert found and len(set(found)) == len(found)
