"""The contracts of the families, tested for every member that the catalogue lists: a new file is tested by being there."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from toy import POOLED, make_parts, open_model, table

import weitiao
from weitiao.core import catalogue
from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.data.encode import IGNORED, load_tokenizer
from weitiao.tasks.base import Answers
from weitiao.tasks.relation_extraction import mark
from weitiao.training.engagement import Engagement, same_outputs
from weitiao.training.loop import train

TEXTS = ["银行卡丢了怎么办", "good money in the bank", "转账失败 pending", "the card 不能用", "查一下余额", "bad card"]


def instances(family: str) -> list:
    """One ``pytest.param`` for each member, made with its defaults."""
    return [pytest.param(name, id=name) for name in catalogue.members(family)]


def make(family: str, name: str, **options):
    return catalogue.member(family, name)(**options)


def test_the_families_have_these_members():
    """Names are settings in people's recipes: one that goes or changes breaks them."""
    golden = {
        "tuning": {"full", "head", "lora"},
        "objectives": {
            "binary_cross_entropy", "contrastive", "cosent", "cross_entropy", "focal", "squared_error",
        },
        "tasks": {"relation_extraction", "text_classification", "text_matching", "token_classification"},
        "evaluation": {"classification", "multi_label", "similarity", "spans"},
    }  # fmt: skip
    for family, names in golden.items():
        assert names <= set(catalogue.members(family)), family


# --- tuning


@pytest.mark.parametrize("name", instances("tuning"))
def test_exactly_the_trainable_parameters_move(tiny_model, name):
    model = open_model(tiny_model, make("tuning", name))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in trainable if n.startswith("head.")}, "the head is always trained"
    watch = Engagement(model)
    assert len(list(train(make_parts(model, table())))) == 6
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == trainable
    report = watch.check(model)
    assert report["trained_parameters"] == sum(before[n].numel() for n in trainable)
    assert min(report["moved"].values()) > 0


@pytest.mark.parametrize("name", instances("tuning"))
def test_training_that_moves_nothing_is_an_error(tiny_model, name):
    model = open_model(tiny_model, make("tuning", name))
    watch = Engagement(model)
    list(train(make_parts(model, table(), learning_rate=0.0)))
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
    with pytest.raises(WeitiaoError, match=r"Frozen parameter backbone\.encoder\.layer\.0\.output\.dense\.bias"):
        watch.check(model)


def test_top_layers_trains_those_alone(tiny_model):
    model = open_model(tiny_model, make("tuning", "full", top_layers=1))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    expected = {n for n, _ in model.named_parameters() if n.startswith(("head.", "backbone.encoder.layer.1."))}
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


@pytest.mark.parametrize("name", instances("tuning"))
def test_the_saved_model_predicts_as_the_trained_one(finetune, rows, name):
    """``finetune`` compares the logits before it ends; the loaded run answers the same each time."""
    run = finetune(rows, tuning=name)
    assert run.metrics["model"]["saved_logit_difference"] <= 1e-5
    assert run.metrics["engagement"]["moved"]
    again = weitiao.load(run.folder)
    np.testing.assert_array_equal(ours(run, TEXTS), ours(again, TEXTS))
    assert {answer["label"] for answer in again.predict(TEXTS)} <= set("abc")


def test_a_lora_folder_opens_in_peft(finetune, rows, tiny_model):
    from peft import PeftModel
    from transformers import AutoModel

    run = finetune(rows, tuning="lora")
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


@pytest.mark.parametrize("name", [name for name in catalogue.members("tuning") if name != "lora"])
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

    rows = [{"text": f"my card {n} is lost", "spans": [{"start": 3, "end": 7, "label": "thing"}]} for n in range(40)]
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


# --- objectives


def sample(kind: str, count: int = 6, seed: int = 0):
    """Outputs and targets that an objective of this kind reads."""
    torch.manual_seed(seed)
    logits = torch.randn(count, 3)
    if kind == "classes":
        return logits, torch.arange(count) % 3
    if kind == "labels":
        return logits, (torch.rand(count, 3) > 0.5).long()
    return F.normalize(torch.randn(count, 2, 8), dim=-1), torch.linspace(0, 1, count)


def cases():
    for name in catalogue.members("objectives"):
        for kind in catalogue.member("objectives", name).fits:
            yield pytest.param(name, kind, id=f"{name}-{kind}")


@pytest.mark.parametrize(("name", "kind"), cases())
def test_an_objective_has_a_gradient(name, kind):
    outputs, targets = sample(kind)
    outputs.requires_grad_()
    objective = make("objectives", name)
    objective.prepare(targets, 3)
    loss = objective.loss_sum(outputs, targets)
    loss.backward()
    assert loss.ndim == 0 and loss > 0
    assert outputs.grad.isfinite().all() and outputs.grad.abs().max() > 0


@pytest.mark.parametrize(("name", "kind"), cases())
def test_the_sum_over_parts_is_the_sum_over_the_whole(name, kind):
    objective = make("objectives", name)
    outputs, targets = sample(kind)
    objective.prepare(targets, 3)
    whole = objective.loss_sum(outputs, targets)
    parts = objective.loss_sum(outputs[:2], targets[:2]) + objective.loss_sum(outputs[2:], targets[2:])
    # One that compares examples must say so, for the loop keeps its steps whole.
    assert torch.isclose(whole, parts, rtol=1e-5).item() is not objective.compares_examples


@pytest.mark.parametrize("name", [n for n in catalogue.members("objectives")
                                  if "classes" in catalogue.member("objectives", n).fits])  # fmt: skip
def test_ignored_targets_contribute_nothing(name):
    objective = make("objectives", name)
    outputs, targets = sample("classes")
    outputs.requires_grad_()
    holes = targets.clone()
    holes[[1, 4]] = IGNORED
    loss = objective.loss_sum(outputs, holes)
    kept = [0, 2, 3, 5]
    torch.testing.assert_close(loss, objective.loss_sum(outputs[kept], targets[kept]))
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert (gradient[[1, 4]] == 0).all() and (gradient[kept] != 0).any(1).all()
    nothing = objective.loss_sum(outputs, torch.full_like(targets, IGNORED))
    assert nothing.item() == 0


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_cross_entropy_with_balanced_weights_is_scikit_learns():
    from sklearn.utils import compute_class_weight

    outputs, _ = sample("classes")
    targets = torch.tensor([0, 0, 0, 1, 2, 2])
    objective = make("objectives", "cross_entropy", class_weights="balanced")
    objective.prepare(torch.cat([targets, torch.tensor([IGNORED])]), 3)
    weights = compute_class_weight("balanced", classes=np.arange(3), y=targets.numpy())
    expected = -(weights[targets] * log_softmax(outputs.double().numpy())[np.arange(6), targets]).sum()
    assert float(objective.loss_sum(outputs, targets)) == pytest.approx(expected, rel=1e-5)


def test_balanced_weights_leave_out_a_class_that_never_occurs():
    objective = make("objectives", "cross_entropy", class_weights="balanced")
    objective.prepare(torch.tensor([0, 0, 1]), 3)
    assert objective.weights[:2].tolist() == pytest.approx([3 / 4, 3 / 2])
    assert objective.weights.isfinite().all()


def test_label_smoothing_spreads_the_target():
    outputs, targets = sample("classes")
    logs = log_softmax(outputs.double().numpy())
    goal = np.full((6, 3), 0.1 / 3) + 0.9 * np.eye(3)[targets]
    loss = make("objectives", "cross_entropy", label_smoothing=0.1).loss_sum(outputs, targets)
    assert float(loss) == pytest.approx(-(goal * logs).sum(), rel=1e-5)


def test_focal_without_gamma_is_cross_entropy():
    outputs, targets = sample("classes")
    plain = make("objectives", "cross_entropy").loss_sum(outputs, targets)
    torch.testing.assert_close(make("objectives", "focal", focal_gamma=0.0).loss_sum(outputs, targets), plain)


def test_focal_is_its_formula():
    outputs, targets = sample("classes")
    logs = log_softmax(outputs.double().numpy())[np.arange(6), targets]
    expected = -((1 - np.exp(logs)) ** 2 * logs).sum()
    assert float(make("objectives", "focal").loss_sum(outputs, targets)) == pytest.approx(expected, rel=1e-5)


def test_binary_cross_entropy_is_its_formula():
    outputs, targets = sample("labels")
    p, y = 1 / (1 + np.exp(-outputs.double().numpy())), targets.numpy()
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(1).sum()
    loss = make("objectives", "binary_cross_entropy").loss_sum(outputs, targets)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_squared_error_reads_values_and_pairs():
    outputs, targets = sample("values")
    x, y = outputs.double().numpy(), targets.double().numpy()
    expected = sum((x[i, 0] @ x[i, 1] - y[i]) ** 2 for i in range(6))
    assert float(make("objectives", "squared_error").loss_sum(outputs, targets)) == pytest.approx(expected, rel=1e-5)
    values = torch.linspace(-1, 1, 6)
    loss = make("objectives", "squared_error").loss_sum(values.unsqueeze(1), targets)
    assert float(loss) == pytest.approx(float(((values.numpy() - y) ** 2).sum()), rel=1e-5)


def test_cosent_is_a_double_loop():
    outputs, targets = sample("values")
    targets = torch.tensor([0.0, 1.0, 0.5, 0.5, 0.2, 1.0])
    cosines = [float(a @ b) for a, b in outputs.double()]
    total = 1.0
    for i in range(6):
        for j in range(6):
            if targets[i] > targets[j]:
                total += np.exp(20 * (cosines[j] - cosines[i]))
    loss = make("objectives", "cosent").loss_sum(outputs, targets)
    assert float(loss) == pytest.approx(6 * np.log(total), rel=1e-5)


def test_contrastive_is_a_loop():
    outputs, _ = sample("values")
    targets = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    x, expected = outputs.double().numpy(), 0.0
    for i in (0, 2, 3, 5):
        scores = np.array([x[i, 0] @ x[j, 1] for j in range(6)]) / 0.05
        expected += np.log(np.exp(scores).sum()) - scores[i]
    assert float(make("objectives", "contrastive").loss_sum(outputs, targets)) == pytest.approx(expected, rel=1e-4)


def test_contrastive_without_a_match_is_zero_and_differentiable():
    outputs, _ = sample("values")
    loss = make("objectives", "contrastive").loss_sum(outputs.requires_grad_(), torch.zeros(6))
    loss.backward()
    assert loss.item() == 0 and (outputs.grad == 0).all()


# --- tasks


class Records(list):
    """Records that are read by column too, as ``datasets.Dataset`` is."""

    def __getitem__(self, key):
        return [record[key] for record in self] if isinstance(key, str) else super().__getitem__(key)


def records_of(task, rows: list[dict]) -> Records:
    return Records({**task.example(row), "row_number": i + 1} for i, row in enumerate(rows))


def spans(*parts: tuple[int, int, str]) -> list[dict]:
    return [{"start": a, "end": b, "label": label} for a, b, label in parts]


# For each task: rows, and the settings to read them with. A new task must put its example here.
TABLES = {
    "text_classification": [
        ({}, [{"text": text, "label": label} for text, label in zip(TEXTS, "abcabc", strict=True)]),
        ({"multi_label": True}, [{"text": TEXTS[0], "label": "a|b"}, {"text": TEXTS[1], "label": ""},
                                 {"text": TEXTS[2], "label": ["c", "a"]}]),
    ],
    "text_matching": [
        ({}, [{"text_a": "卡丢了", "text_b": "card", "label": "1"}, {"text_a": "a", "text_b": "余额", "label": "0"}]),
        ({}, [{"text_a": "a", "text_b": "b", "label": v} for v in ("0.5", "2.5", "5", "0")]),
        ({"encoder": "bi"}, [{"text_a": "a", "text_b": "b 卡", "label": v} for v in ("yes", "no")]),
    ],
    "token_classification": [
        ({}, [{"text": "我在北京银行工作", "spans": spans((2, 6, "ORG"))}, {"text": "no names", "spans": []},
              {"text": "the card of Li", "spans": spans((4, 8, "THING"), (12, 14, "PER"))}]),
    ],
    "relation_extraction": [
        ({}, [{"text": "<e1>李明</e1>在<e2>北京</e2>工作", "label": "lives"},
              {"text": "the bank lent money", "head": "money", "tail": "bank", "label": "none"}]),
    ],
}  # fmt: skip


def perfect(task, encoded, answers: Answers) -> list[np.ndarray]:
    """The outputs of a model that is always right."""
    targets = encoded.targets
    if answers.kind == "values":
        if encoded.per_example == 2:  # unit vectors whose cosine is the target
            return [np.array([[1.0, 0.0], [t, (1 - t * t) ** 0.5]]) for t in targets]
        return [np.array([t]) for t in targets]
    if answers.kind == "labels":
        return [np.where(t == 1, 5.0, -5.0) for t in targets]
    return [10 * np.eye(len(answers.names))[np.maximum(targets[i], 0)] for i in range(len(encoded))]


def task_cases():
    for name in catalogue.members("tasks"):
        assert name in TABLES, f"{name} has no example: add one to TABLES"
        for number, (options, rows) in enumerate(TABLES[name]):
            yield pytest.param(name, options, rows, id=f"{name}-{number}")


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


@pytest.mark.parametrize(("name", "options", "rows"), task_cases())
def test_perfect_outputs_decode_to_the_gold(tokenizer, name, options, rows):
    task = make("tasks", name, **options)
    records = records_of(task, rows)
    answers = task.learn(records)
    assert Answers(**json.loads(json.dumps(answers.as_json()))) == answers
    encoded = task.encode(records, tokenizer, 48, answers)
    assert len(encoded) == len(rows) and (encoded.uncut > 2).all()
    outputs = perfect(task, encoded, answers)
    predictions = task.predictions(outputs, encoded, records, answers)
    gold, predicted = predictions.gold, predictions.predicted
    if answers.kind == "values":
        np.testing.assert_allclose(predicted, gold, atol=1e-6)
    else:
        np.testing.assert_equal(predicted, gold)
    assert predictions.row_numbers == [i + 1 for i in range(len(rows))]
    evaluation = catalogue.member("evaluation", task.evaluation(answers))()
    scores = evaluation.scores(predictions)
    assert scores[evaluation.monitor] == pytest.approx(1.0)
    objective = make("objectives", task.objective(answers))
    assert answers.kind in objective.fits
    head = task.head(answers, "mean")
    assert head["outputs"] in (0, 1) if answers.kind == "values" else head["outputs"] == len(answers.names)
    # Without the answers there are no targets, and the same token ids.
    bare = task.encode([task.example({k: v for k, v in r.items() if k not in ("label", "spans")}) for r in rows],
                       tokenizer, 48, None)  # fmt: skip
    assert bare.targets is None
    np.testing.assert_array_equal(bare.ids.values, encoded.ids.values)


@pytest.mark.parametrize(("name", "options", "rows"), task_cases())
def test_many_rows_are_encoded_as_few(tokenizer, name, options, rows):
    """Long tables go through in chunks; the joined result is that of each row alone."""
    task = make("tasks", name, **options)
    records = records_of(task, rows)
    answers = task.learn(records)
    count = 2 * 2000 // len(records) + 1
    whole, few = (task.encode(Records(records * n), tokenizer, 48, answers) for n in (count, 1))
    assert len(whole) == count * len(records)
    for name_ in ("ids", "types", "targets", "marks", "offsets", "uncut"):
        one, many = getattr(few, name_), getattr(whole, name_)
        assert (one is None) == (many is None), name_
        if one is not None:
            np.testing.assert_equal([np.array(one[-i]) if isinstance(one, list) else one[len(one) - i] for i in (1, 2)],
                                    [np.array(many[-i]) if isinstance(many, list) else many[len(many) - i] for i in (1, 2)])  # fmt: skip


@pytest.mark.parametrize(("name", "options", "rows"), task_cases())
def test_results_for_people_name_the_gold(tokenizer, name, options, rows):
    task = make("tasks", name, **options)
    records = records_of(task, rows)
    answers = task.learn(records)
    encoded = task.encode(records, tokenizer, 48, answers)
    found = task.answers(perfect(task, encoded, answers), encoded, records, answers)
    for record, result in zip(records, found, strict=True):
        if name == "token_classification":
            seen = [(s["start"], s["end"], s["entity_group"], s["word"]) for s in result]
            text = record["text"]
            assert seen == [(s["start"], s["end"], s["label"], text[s["start"] : s["end"]]) for s in record["spans"]]
        elif answers.kind == "labels":
            assert sorted(label["label"] for label in result) == record["label"]
        elif answers.kind == "classes":
            assert result["label"] == record["label"] and result["score"] > 0.99
        elif not answers.names:
            assert result["score"] == pytest.approx(float(record["label"]), abs=1e-6)
        else:
            assert result["score"] == pytest.approx(answers.names.index(record["label"]), abs=1e-6)


@pytest.mark.parametrize("name", instances("tasks"))
def test_a_row_without_text_is_a_bad_row(name):
    task = make("tasks", name)
    with pytest.raises(BadRow):
        task.example({"label": "a"})
    with pytest.raises(BadRow):
        task.example({"text": 5, "text_a": 5, "text_b": 5, "label": "a"})


CHINESE, PIECES = "我在北京银行工作了吗", ["card", "the", "money", "xy", "Li", "7", "，", "."]


@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(list(CHINESE)), st.sampled_from(PIECES)),
            st.sampled_from(["", "", "A", "B"]),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_spans_come_back_at_their_places(tokenizer, pieces):
    """Chinese, English and mixed text; spans begin and end at a word or a Chinese character."""
    text, found, after_latin = "", [], False
    for piece, kind, joined in pieces:
        latin = piece.isalnum() and piece.isascii()
        # Two Latin words must not run together, for their border would be inside one word.
        if not joined or (latin and after_latin):
            text += " "
        if kind:
            found.append((len(text), len(text) + len(piece), kind))
        text, after_latin = text + piece, latin
    task = make("tasks", "token_classification")
    rows = [{"text": text, "spans": spans(*found)}, {"text": "a b", "spans": spans((0, 1, "A"), (2, 3, "B"))}]
    records = records_of(task, rows)
    answers = task.learn(records)
    encoded = task.encode(records, tokenizer, 64, answers)
    predictions = task.predictions(perfect(task, encoded, answers), encoded, records, answers)
    assert predictions.predicted[0] == found


def test_without_split_chinese_offsets_are_the_tokenizers(tokenizer):
    task = make("tasks", "token_classification", split_chinese=False)
    records = records_of(task, [{"text": "在北京 card", "spans": spans((1, 3, "A"), (4, 8, "B"))}])
    answers = task.learn(records)
    encoded = task.encode(records, tokenizer, 64, answers)
    predictions = task.predictions(perfect(task, encoded, answers), encoded, records, answers)
    assert predictions.predicted == [[(1, 3, "A"), (4, 8, "B")]]


def test_special_tokens_are_not_scored(tokenizer):
    task = make("tasks", "token_classification")
    records = records_of(task, [{"text": "card 卡", "spans": spans((0, 4, "A"))}])
    targets = task.encode(records, tokenizer, 64, task.learn(records)).targets[0].tolist()
    assert targets == [IGNORED, 1, 0, IGNORED]


@pytest.mark.parametrize("span", [(0, 99, "A"), (3, 3, "A"), (-1, 2, "A")])
def test_a_span_outside_the_text_is_a_bad_row(span):
    with pytest.raises(BadRow, match="outside the text"):
        make("tasks", "token_classification").example({"text": "card", "spans": spans(span)})


@given(
    before=st.integers(0, 80),
    between=st.integers(0, 10),
    after=st.integers(0, 80),
    swapped=st.booleans(),
    chinese=st.booleans(),
)
def test_relation_markers_point_at_the_markers_even_when_cut(tokenizer, before, between, after, swapped, chinese):
    filler = "银行" if chinese else "the "
    first, last = ("李明", "北京") if chinese else ("Li ", "bank ")
    text = filler * before + first + filler[:1] * between + " " + last + filler * after
    places = [len(filler * before), len(filler * before) + 2, 0, 0]
    start = len(filler * before + first + filler[:1] * between) + 1
    places[2:] = [start, start + len(last.strip())]
    if swapped:
        places = places[2:] + places[:2]
    record = {"text": text, "places": places, "label": "x", "row_number": 1}
    task = make("tasks", "relation_extraction")
    encoded = task.encode([record], tokenizer, 48, Answers("classes", ["x"]))
    assert len(encoded.ids[0]) <= 48 and encoded.uncut[0] >= len(encoded.ids[0])
    if before + after > 48:
        assert encoded.uncut[0] > 48, "a cut text must be known as one"
        assert len(encoded.ids[0]) > 30, "the window is wider than need be"
    tokens = [tokenizer.id_to_token(int(i)) for i in encoded.ids[0]]
    head, tail = encoded.marks[0]
    assert (tokens[head], tokens[tail]) == ("@", "#")
    entity = {2: text[places[0]], 3: text[places[2]]}
    assert tokens[head + 1][0] == entity[2].lower() and tokens[tail + 1][0] == entity[3].lower()


def test_markers_are_put_around_entities():
    assert mark("李明在北京", [0, 2, 3, 5]) == ("@ 李明 @ 在 # 北京 #", (0, 9))
    marked, (head, tail) = mark("the bank lent money", [14, 19, 4, 8])
    assert marked == "the # bank # lent @ money @" and (head, tail) == (18, 4)


def test_the_tagged_and_the_named_entities_are_the_same():
    task = make("tasks", "relation_extraction")
    tagged = task.example({"text": "<e1>李明</e1>在<e2>北京</e2>"})
    assert tagged == task.example({"text": "李明在北京", "head": "李明", "tail": "北京"})
    for row in ({"text": "no tags"}, {"text": "a b", "head": "a", "tail": "c"}):
        with pytest.raises(BadRow):
            task.example(row)


def test_pairs_have_types_and_a_bi_encoder_reads_each_alone(tokenizer):
    rows = [{"text_a": "卡", "text_b": "card x"}]
    cross = make("tasks", "text_matching").encode(rows, tokenizer, 32, None)
    assert cross.types[0].tolist() == [0, 0, 0, 1, 1, 1]
    bi = make("tasks", "text_matching", encoder="bi").encode(rows, tokenizer, 32, None)
    assert bi.per_example == 2 and len(bi) == 1 and bi.lengths.tolist() == [7]
    assert [len(bi.ids[i]) for i in (0, 1)] == [3, 4]


@pytest.mark.parametrize(("labels", "options", "kind"), [
    (["0", "1"], {}, "classes"), (["0", "1", "2", "3", "4", "5"], {}, "values"), (["0.5", "1"], {}, "values"),
    (["0", "1"], {"answer": "similarity"}, "values"), (["0.5", "1"], {"answer": "class"}, "classes"),
    (["no", "yes"], {"encoder": "bi"}, "values"),
])  # fmt: skip
def test_matching_guesses_what_is_answered(labels, options, kind):
    task = make("tasks", "text_matching", **options)
    records = records_of(task, [{"text_a": "a", "text_b": "b", "label": label} for label in labels])
    assert task.learn(records).kind == kind


def test_the_majority_answer():
    def majority(name, rows, **options):
        task = make("tasks", name, **options)
        records = records_of(task, rows)
        return task.majority(records, task.learn(records))

    assert majority("text_classification", [{"text": "x", "label": label} for label in "abb"]) == "b"
    several = [{"text": "x", "label": label} for label in ("a|b", "b|a", "c")]
    assert majority("text_classification", several, multi_label=True) == ["a", "b"]
    pairs = [{"text_a": "x", "text_b": "y", "label": label} for label in ("0", "1", "2.5", "5")]
    assert majority("text_matching", pairs) == pytest.approx(8.5 / 20)


def test_a_list_of_labels_asks_for_multi_label():
    with pytest.raises(BadRow, match="--multi-label"):
        make("tasks", "text_classification").example({"text": "x", "label": ["a"]})


def test_pooled_heads_are_described_as_they_are_built(tiny_model):
    for pooling in ("mean", "cls", "own"):
        model = open_model(tiny_model, head={**POOLED, "pooling": pooling})
        assert (model.head.pooler is not None) == (pooling == "own")
