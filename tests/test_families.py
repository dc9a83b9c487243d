"""Members of the families: their names, and the contract of the tuning methods, tested for every one listed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import POOLED, make, make_parts, open_model, table

import weitiao
from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError
from weitiao.training import checkpoint
from weitiao.training.engagement import Engagement, same_outputs
from weitiao.training.loop import train

TEXTS = [
    "银行卡丢了怎么办",
    "good money in the bank",
    "转账失败 pending",
    "the card 不能用",
    "查一下余额",
    "bad card",
]
# The bridge adapts a language model that is shown pictures: tests/test_picture_words.py.
TUNINGS = [name for name in catalogue.members("tuning") if name != "bridge"]
# What needs a GPU to train is a run of weitiao.finetune there only: tests/test_tuning.py.
HERE = [name for name in TUNINGS if not catalogue.member("tuning", name).needs_gpu]


def test_the_families_have_these_members():
    """Names are settings in people's recipes: one that goes or changes breaks them."""
    golden = {
        "tuning": {
            "full", "head", "lora", "dora", "ia3", "bitfit", "adapter", "prompt", "p_tuning", "prefix", "adalora",
            "qlora",
        },
        "objectives": {
            "binary_cross_entropy", "contrastive", "cosent", "cross_entropy", "focal", "squared_error",
            "r_drop", "fgm", "pgd", "freelb", "smart", "confidence_penalty", "supervised_contrastive", "mixup",
        },
        "tasks": {"relation_extraction", "text_classification", "text_matching", "token_classification"},
        "evaluation": {"classification", "multi_label", "similarity", "spans"},
    }  # fmt: skip
    for family, names in golden.items():
        assert names <= set(catalogue.members(family)), family


# --- tuning


@pytest.mark.parametrize("name", TUNINGS)
def test_exactly_the_trainable_parameters_move(tiny_model, name):
    tuning = make("tuning", name)
    model = open_model(tiny_model, tuning)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in trainable if n.startswith("head.")}, "the head is always trained"
    watch = Engagement(model, tuning)
    assert len(list(train(make_parts(model, table(), hooks=tuning)))) == 6
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == trainable
    report = watch.check(model)
    assert report["trained_parameters"] == sum(before[n].numel() for n in trainable)
    assert min(report["moved"].values()) > 0


@pytest.mark.parametrize("name", TUNINGS)
def test_training_that_moves_nothing_is_an_error(tiny_model, name):
    tuning = make("tuning", name)
    model = open_model(tiny_model, tuning)
    watch = Engagement(model, tuning)
    list(train(make_parts(model, table(), learning_rate=0.0, hooks=tuning)))
    with pytest.raises(WeitiaoError, match="did not engage"):
        watch.check(model)


def test_one_group_that_stands_still_is_named(tiny_model):
    model = open_model(tiny_model)
    watch = Engagement(model)
    layer = model.backbone.encoder["layer"][1]
    parts = make_parts(model, table())
    layer.requires_grad_(False)
    list(train(parts))
    with pytest.raises(WeitiaoError, match="layer 1 did not move"):
        watch.check(model)


def test_a_frozen_parameter_that_changed_is_an_error(tiny_model):
    model = open_model(tiny_model, make("tuning", "head"))
    watch = Engagement(model)
    with torch.no_grad():
        model.head.linear.weight += 1
        model.head.linear.bias += 1
        model.backbone.encoder["layer"][0].output["dense"].bias[3] += 1e-3
    with pytest.raises(
        WeitiaoError, match=r"Frozen parameter backbone\.encoder\.layer\.0\.output\.dense\.bias"
    ):
        watch.check(model)


def test_top_layers_trains_those_alone(tiny_model):
    model = open_model(tiny_model, make("tuning", "full", top_layers=1))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    expected = {
        n for n, _ in model.named_parameters() if n.startswith(("head.", "backbone.encoder.layer.1."))
    }
    assert trained == expected


@pytest.mark.parametrize(("options", "modules"), [
    ({}, 12), ({"lora_targets": "attention"}, 6), ({"lora_layers": 1}, 6),
    ({"lora_layers": 1, "lora_targets": "attention"}, 3),
])  # fmt: skip
def test_lora_sits_where_it_is_told(tiny_model, options, modules):
    model = open_model(tiny_model, make("tuning", "lora", lora_rank=2, **options))
    adapters = [n for n, p in model.named_parameters() if p.requires_grad and "lora_A" in n]
    assert len(adapters) == modules
    assert all(p.shape[0] == 2 for n, p in model.named_parameters() if "lora_A" in n)
    if "lora_layers" in options:
        assert all(".layer.1." in n for n in adapters)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [n for n in TUNINGS if n != "head"])
def test_a_run_resumed_in_the_middle_ends_in_the_same_weights(tiny_model, tmp_path, name, precision):
    def begin():
        tuning = make("tuning", name)
        model = open_model(tiny_model, tuning, dropout=0.1)
        parts = make_parts(model, table(), learning_rate=1e-2, precision=precision, hooks=tuning)
        return model, parts, tuning

    model, parts, tuning = begin()
    for event in train(parts):
        if event.step == 4:
            path = checkpoint.save(tmp_path, model, parts.optimizer, {"step": 4}, tuning)
    again, parts, tuning = begin()
    with torch.no_grad():
        for parameter in again.parameters():
            if parameter.requires_grad:
                parameter += 1  # all of it must come from the checkpoint
    state = checkpoint.load(path, again, parts.optimizer, tuning)
    assert len(list(train(parts, state["step"]))) == 2
    assert checkpoint.trained_state(again)
    for key, value in checkpoint.trained_state(model).items():
        torch.testing.assert_close(checkpoint.trained_state(again)[key], value, atol=0, rtol=0, msg=key)


def trained_a_little(tiny_model, name, **options):
    """A model after six steps, in evaluation mode, its tuning, and its logits for the toy table's first texts."""
    tuning = make("tuning", name, **options)
    model = open_model(tiny_model, tuning)
    parts = make_parts(model, table(), learning_rate=1e-2, hooks=tuning)
    list(train(parts))
    model.eval()
    return model, tuning, parts.batches.batch(np.arange(8)).packed


@pytest.mark.parametrize("name", [n for n in TUNINGS if catalogue.member("tuning", n).merges])
def test_a_merged_model_is_plain_and_predicts_the_same(tiny_model, name):
    model, tuning, packed = trained_a_little(tiny_model, name)
    with torch.no_grad():
        adapted = model(packed)
        plain = {n for n, _ in open_model(tiny_model).named_parameters()}
        tuning.merge(model)
        assert {n for n, _ in model.named_parameters()} == plain
        torch.testing.assert_close(model(packed), adapted, atol=1e-5, rtol=0)
        base = open_model(tiny_model)
        base.head.load_state_dict(model.head.state_dict())
        assert (base(packed) - adapted).abs().max() > 1e-3, "the adapter does nothing"


@pytest.mark.parametrize("name", [n for n in TUNINGS if not catalogue.member("tuning", n).merges])
def test_what_cannot_be_merged_says_which_methods_can(tiny_model, name):
    model, tuning, packed = trained_a_little(tiny_model, name)
    if not tuning.saves_adapter or name == "bitfit":
        before = model(packed)
        tuning.merge(model)
        assert torch.equal(model(packed), before), "nothing to merge"
        return
    with pytest.raises(WeitiaoError, match=f"{name} cannot be merged .* adalora, dora, ia3, lora"):
        tuning.merge(model)


def test_same_outputs_notices_differences_and_nan():
    ones = torch.ones(3)
    assert same_outputs(ones, ones + 1e-6) < 1e-5
    for other in (ones + 1e-3, ones * float("nan")):
        with pytest.raises(WeitiaoError, match="differs from the trained one"):
            same_outputs(ones, other)


# --- saved models


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [{"text": f"{TEXTS[i % 6]} {i}", "label": "abc"[i % 3]} for i in range(60)]


@pytest.fixture(scope="module")
def finetune(tiny_model, tmp_path_factory):
    """Fine-tune the tiny model; runs are kept by their settings."""
    runs = {}

    def run(data, **settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in runs:
            folder = tmp_path_factory.mktemp("runs") / "run"
            fixed = {"model": str(tiny_model), "max_length": 32, "precision": "fp32", "threads": 1}
            runs[key] = weitiao.finetune(data, output=folder, show=False, **fixed, **settings)
        return runs[key]

    return run


def inputs_there(folder: Path, texts: list[str]):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")


def ours(run, texts: list[str], key: str = "text") -> list[np.ndarray]:
    return run.outputs([{key: text} for text in texts])[1]


@pytest.mark.parametrize("name", HERE)
def test_the_saved_model_predicts_as_the_trained_one(finetune, rows, name):
    """``finetune`` compares the logits before it ends; the loaded run answers the same each time."""
    run = finetune(rows, tuning=name)
    assert run.metrics["model"]["saved_logit_difference"] <= 1e-5
    assert run.metrics["engagement"]["moved"]
    again = weitiao.load(run.folder)
    np.testing.assert_array_equal(ours(run, TEXTS), ours(again, TEXTS))
    assert {answer["label"] for answer in again.predict(TEXTS)} <= set("abc")


@pytest.mark.parametrize("name", [n for n in HERE if catalogue.member("tuning", n).opens_in_peft])
def test_an_adapter_folder_opens_in_peft(finetune, rows, tiny_model, name):
    from peft import PeftModel
    from transformers import AutoModel

    run = finetune(rows, tuning=name)
    folder = run.folder / "model"
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_model), folder).eval()
    inputs = inputs_there(folder, TEXTS)
    with torch.no_grad():
        hidden = theirs(**inputs).last_hidden_state
        plain = AutoModel.from_pretrained(tiny_model).eval()(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        logits = run.model.head.linear((hidden * mask).sum(1) / mask.sum(1))
    assert (hidden - plain).abs().max() > 1e-3, "the adapter does nothing"
    np.testing.assert_allclose(logits, ours(run, TEXTS), atol=1e-5)


def test_own_pooling_opens_as_sequence_classification(finetune, rows):
    from transformers import BertForSequenceClassification

    run = finetune(rows, tuning="full", pooling="own")
    folder = run.folder / "model"
    theirs = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = theirs(**inputs_there(folder, TEXTS)).logits
    np.testing.assert_allclose(logits, ours(run, TEXTS), atol=1e-5)
    assert theirs.config.id2label == dict(enumerate("abc"))


@pytest.mark.parametrize("name", [n for n in TUNINGS if not catalogue.member("tuning", n).saves_adapter])
def test_with_mean_pooling_the_backbone_opens(finetune, rows, name):
    from transformers import AutoModel

    run = finetune(rows, tuning=name)
    folder = run.folder / "model"
    theirs = AutoModel.from_pretrained(folder).eval()
    inputs = inputs_there(folder, TEXTS)
    with torch.no_grad():
        mask = inputs["attention_mask"].unsqueeze(-1)
        hidden = theirs(**inputs).last_hidden_state
        logits = run.model.head.linear((hidden * mask).sum(1) / mask.sum(1))
    np.testing.assert_allclose(logits, ours(run, TEXTS), atol=1e-5)


def test_token_classification_opens(finetune):
    from transformers import AutoModelForTokenClassification

    rows = [
        {"text": f"my card {n} is lost", "spans": [{"start": 3, "end": 7, "label": "thing"}]}
        for n in range(40)
    ]
    run = finetune(rows, task="token_classification", tuning="full", num_epochs=1)
    folder = run.folder / "model"
    theirs = AutoModelForTokenClassification.from_pretrained(folder).eval()
    texts = ["good money in the bank", "my card"]
    inputs = inputs_there(folder, texts)
    with torch.no_grad():
        logits = theirs(**inputs).logits
    for row, own in enumerate(ours(run, texts)):
        np.testing.assert_allclose(logits[row, : len(own)], own, atol=1e-5)
    assert list(theirs.config.id2label.values()) == ["O", "B-thing", "I-thing"]


def test_pooled_heads_are_described_as_they_are_built(tiny_model):
    for pooling in ("mean", "cls", "own"):
        model = open_model(tiny_model, head={**POOLED, "pooling": pooling})
        assert (model.head.pooler is not None) == (pooling == "own")
