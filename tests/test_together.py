"""Several adapters on one backbone: they answer as each alone does, and hold the base's weights once."""

import json

import pytest
import torch

import weitiao
from weitiao.models.backbone import open_backbone
from weitiao.models.shared import keep_own, standing_on

TUNINGS = ("bitfit", "lora", "prefix", "adapter", "ia3", "full")
TEXTS = ["good money", "bad card", "the bank"]


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    rows = [{"text": f"{TEXTS[i % 3]} {i}", "label": "abc"[i % 3]} for i in range(30)]
    how = {
        "max_length": 32,
        "precision": "fp32",
        "threads": 1,
        "show": False,
        "num_epochs": 1,
        "batch_size": 8,
    }
    for tuning in TUNINGS:
        weitiao.finetune(rows, model=str(tiny_model), output=folder / tuning, tuning=tuning, **how)
    return [folder / tuning for tuning in TUNINGS]


def test_runs_opened_together_answer_as_each_alone(runs):
    together = weitiao.load(runs)
    found = [run.predict(TEXTS) for run in together]
    assert found == [weitiao.load(folder).predict(TEXTS) for folder in runs]
    assert len({json.dumps(answers) for answers in found}) == len(runs), "each learnt something of its own"
    assert found[0] == together[0].predict(TEXTS), "the others changed nothing of the first"


def test_the_base_is_held_once(runs):
    together = weitiao.load(runs)
    tables = {run.description["tuning"]: words(run.model).data_ptr() for run in together}
    shared = {tables[name] for name in TUNINGS if name != "full"}
    assert len(shared) == 1 and tables["full"] not in shared
    tokenizers = {id(run.tokenizer) for run in together}
    assert len(tokenizers) == 1
    biases = {
        run.description["tuning"]: bias(run.model) for run in together if run.description["tuning"] != "full"
    }
    assert not torch.equal(biases["bitfit"], biases["ia3"])
    assert biases["adapter"].data_ptr() == biases["prefix"].data_ptr() != biases["bitfit"].data_ptr()


def words(model):
    (found,) = [
        p for name, p in model.named_parameters() if name.endswith("embeddings.word_embeddings.weight")
    ]
    return found


def bias(model):
    names = ("layer.0.attention.self.query.bias", "layer.0.attention.self.query.base_layer.bias")
    (found,) = [p for name, p in model.named_parameters() if name.endswith(names)]
    return found


def test_what_is_trained_is_kept_apart(tiny_model):
    base = open_backbone(tiny_model)[0].requires_grad_(False)
    mine = standing_on(base)
    assert all(a is b and m is not n for (a, b), (m, n) in [
        ((x, y), (base, mine)) for x, y in zip(base.parameters(), mine.parameters(), strict=True)
    ])  # fmt: skip
    name, trained = next((n, p) for n, p in mine.named_parameters() if n.endswith("query.bias"))
    trained.requires_grad_(True)
    keep_own(mine, base)
    own = dict(mine.named_parameters())[name]
    assert (
        own is not trained and torch.equal(own, trained) and own.requires_grad and not trained.requires_grad
    )
