"""Compression: the contract for every member of the family, and what each promises beyond it; on a tiny model."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers
from toy import make, make_parts, open_model

from weitiao.compression._pack import pack_zeros
from weitiao.compression._quantise import Setting, groups, quantised
from weitiao.compression._relations import relation_loss
from weitiao.compression._tokenizer import closed, indispensable, pieces_of, trimmed, used_pieces, with_margin
from weitiao.compression.base import Subject
from weitiao.compression.int8 import agreement
from weitiao.compression.layers import evenly
from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event
from weitiao.data.encode import load_tokenizer
from weitiao.models.backbone import open_backbone
from weitiao.models.heads import make_head
from weitiao.models.packed import pack as pack_texts
from weitiao.models.saving import load_head
from weitiao.models.sparse_tensors import pack, unpack
from weitiao.runtime import load
from weitiao.stages._compressed import Compressed, write_bundle, write_trainable
from weitiao.stages._predictor import load_model
from weitiao.training.engagement import Engagement
from weitiao.training.loop import train
from weitiao.training.outputs import outputs_of

TEXTS = [
    "银行卡丢了怎么办",
    "good money in the bank",
    "转账失败 pending",
    "the card 不能用",
    "查一下余额",
    "bad card",
]
SETTINGS = {  # what makes a member quick on a tiny model
    "distillation": {"distil_epochs": 1.0, "distil_precision": "fp32"},
    "int8": {"int8_texts": 12},
    "vocabulary": {"vocabulary_margin": 0.0},
}
NAMES = catalogue.members("compression")
ON_MODEL = [name for name in NAMES if catalogue.member("compression", name).on == "model"]


@pytest.fixture
def subject(tiny_model: Path) -> Subject:
    """A tiny classifier with three classes, a few labelled rows and some texts."""
    model = open_model(tiny_model).eval()
    tokenizer = load_tokenizer(tiny_model)
    task = make("tasks", "text_classification")
    rows = [{"text": f"{TEXTS[i % 6]} {i}", "label": "abc"[i % 3], "row_number": i} for i in range(24)]
    answers = task.learn({"label": [row["label"] for row in rows]})
    return Subject(
        model, tokenizer, task, answers, 32, rows, TEXTS * 2, copy.deepcopy(model), tokenizer, seed=3
    )


def trained_like(subject: Subject) -> SimpleNamespace:
    """What the export asks of a run."""
    description = {
        "task": "text_classification", "task_options": {}, "answers": subject.answers.as_json(), "max_length": 32,
        "head": {"type": "pooled", "outputs": 3, "pooling": "mean"}, "base": {"name": "tiny", "route": "folder", "sha256": ""}, "format": 1,
        "tuning": "full", "tuning_options": {},
    }  # fmt: skip
    return SimpleNamespace(description=description, folder=Path("tiny"))


def apply(subject: Subject, name: str, **settings):
    """Take a step; returns its facts."""
    step = make("compression", name, **{**SETTINGS.get(name, {}), **settings})
    if step.on == "graph" and subject.graph is None:
        subject.graph = Compressed.of(subject, trained_like(subject)).graph()
    steps = step.apply(subject)
    while True:
        try:
            assert isinstance(next(steps), Event)
        except StopIteration as end:
            return end.value


def outputs(subject: Subject) -> np.ndarray:
    return np.stack(outputs_of(subject.model, subject.encode([{"text": text} for text in TEXTS])))


def bundle(subject: Subject, folder: Path, name: str = "step") -> Path:
    write_bundle(folder, Compressed.of(subject, trained_like(subject)), "tiny", [{"step": name}])
    return folder


def size(folder: Path) -> int:
    """Bytes of a bundle without its manifest, which grows with the recipe."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != "bundle.json")


def tensor_bytes(folder: Path) -> int:
    graph = onnx.load(folder / "model.onnx").graph
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer)


def test_the_family_has_these_members():
    wanted = {"distillation", "feed_forward", "heads", "int8", "layers", "sparse", "vocabulary"}
    assert wanted <= set(NAMES)


# --- the contract, for every member


@pytest.mark.parametrize("name", NAMES)
def test_a_compressed_model_is_a_bundle_that_predicts(subject, tmp_path, name):
    before = size(bundle(subject, tmp_path / "before"))
    facts = apply(subject, name)
    assert json.loads(json.dumps(facts)) is not None, "facts go into the recipe"
    small = bundle(subject, tmp_path / "after", name)
    assert size(small) < before or name == "distillation"
    predictor = load(small, engine="onnxruntime", threads=1)
    found = np.stack(predictor.outputs(TEXTS))
    assert found.shape == (6, 3) and np.isfinite(found).all()
    if name in ON_MODEL:
        np.testing.assert_allclose(found, outputs(subject), atol=1e-4)
    assert {answer["label"] for answer in predictor.predict(TEXTS)} <= set("abc")


@pytest.mark.parametrize("name", ON_MODEL)
def test_a_compressed_model_can_be_trained_on_and_saved(subject, tmp_path, name):
    apply(subject, name)
    write_trainable(tmp_path / "model", Compressed.of(subject, trained_like(subject)))
    description = json.loads((tmp_path / "model" / "weitiao.json").read_text(encoding="utf-8"))
    again = load_model(tmp_path / "model", description)
    encoded = subject.encode([{"text": text} for text in TEXTS])
    np.testing.assert_array_equal(np.stack(outputs_of(again, encoded)), outputs(subject))
    assert load_tokenizer(tmp_path / "model").get_vocab_size() == subject.tokenizer.get_vocab_size()
    opened, config, beside = open_backbone(tmp_path / "model")
    assert config["num_hidden_layers"] == len(opened.encoder["layer"])
    load_head(tmp_path / "model", make_head(description["head"], 32), beside)
    model = subject.model.requires_grad_(True)
    watch = Engagement(model)
    list(train(make_parts(model, subject.labelled(), epochs=1)))
    assert min(watch.check(model)["moved"].values()) > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_the_same_each_time(subject, name):
    other = copy.deepcopy(subject)
    other.tokenizer = subject.tokenizer
    facts = [apply(each, name) for each in (subject, other)]
    assert facts[0] == facts[1]
    if name in ON_MODEL:
        np.testing.assert_array_equal(outputs(subject), outputs(other))
    else:
        assert subject.graph.SerializeToString() == other.graph.SerializeToString()


@pytest.mark.parametrize(("name", "settings", "said"), [
    ("layers", {"keep_layers": 3}, "has 2 layers"),
    ("layers", {"these_layers": ["0", "2"]}, "from 0 to 1"),
    ("layers", {"these_layers": ["one"]}, "from 0 to 1"),
    ("heads", {"keep_heads": 5}, "4 heads"),
    ("feed_forward", {"keep_width": 65}, "64 wide"),
    ("distillation", {"output_weight": 0.0, "hidden_weight": 0.0, "relation_weight": 0.0}, "Nothing to distil"),
    ("distillation", {"layer_map": ["0"]}, "must name 2 layers"),
    ("distillation", {"student": "no-such-model-anywhere"}, "no-such-model-anywhere"),
])  # fmt: skip
def test_settings_that_do_not_fit_change_nothing(subject, name, settings, said):
    before = outputs(subject)
    with pytest.raises(WeitiaoError, match=said):
        apply(subject, name, **settings)
    np.testing.assert_array_equal(outputs(subject), before)


@pytest.mark.parametrize("name", NAMES)
def test_without_texts_a_step_says_what_it_needs_or_needs_none(subject, name):
    subject.rows, subject.texts = [], []
    if name in ("sparse",):
        apply(subject, name)
        return
    with pytest.raises(WeitiaoError, match=r"--(corpus|calibration)"):
        apply(subject, name)


# --- vocabulary


def test_a_trimmed_vocabulary_cuts_the_corpus_as_before_and_knows_other_texts(subject):
    old, before = subject.tokenizer, outputs(subject)
    facts = apply(subject, "vocabulary")
    for text in TEXTS:
        assert subject.tokenizer.encode(text).tokens == old.encode(text).tokens
    np.testing.assert_allclose(outputs(subject), before, atol=1e-6)
    assert (
        facts["pieces_after"] == subject.model.backbone.shape.vocab_size == subject.tokenizer.get_vocab_size()
    )
    assert subject.model.config["vocab_size"] == facts["pieces_after"]


def unigram(pieces: list[tuple[str, float]]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *pieces], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def test_a_piece_that_is_gone_falls_back_to_smaller_ones():
    letters = [(letter, -8.0) for letter in "abcdefg▁"]
    words = [("▁ab", -2.0), ("cd", -2.0), ("efg", -2.0), ("x▁y", -3.0), ("ef", -4.0)]
    tokenizer = unigram(letters + words)
    spec = json.loads(tokenizer.to_str())
    kept = used_pieces(tokenizer, ["ab cd"], ()) | indispensable(spec)
    assert "efg" not in kept and "x▁y" in kept, "x has no piece of its own"
    new, old_ids = trimmed(spec, kept)
    small = Tokenizer.from_str(json.dumps(new))
    assert small.encode("ab cd").tokens == tokenizer.encode("ab cd").tokens
    assert small.encode("efg").tokens == ["▁", "e", "f", "g"]
    assert [old_ids[i] for i in small.encode("ab cd").ids] == tokenizer.encode("ab cd").ids
    assert "efg" in with_margin(spec, kept | {"efgab"}, 0.1), "the likeliest of the letters in use"


def test_a_bpe_vocabulary_keeps_what_its_pieces_are_merged_from():
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    corpus = ["lower newer wider slower", "the newest and the widest of the lowest"] * 3
    tokenizer.train_from_iterator(corpus, BpeTrainer(vocab_size=60, special_tokens=["<unk>"]))
    spec = json.loads(tokenizer.to_str())
    kept = closed(spec, used_pieces(tokenizer, ["the newest"], ()) | indispensable(spec))
    new, _ = trimmed(spec, kept)
    small = Tokenizer.from_str(json.dumps(new))
    assert len(kept) < len(pieces_of(spec))
    assert small.encode("the newest").tokens == tokenizer.encode("the newest").tokens
    assert "<unk>" not in small.encode("slower widest").tokens


def test_a_tokenizer_of_words_is_refused():
    spec = json.loads(Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")).to_str())
    with pytest.raises(WeitiaoError, match="WordLevel"):
        pieces_of(spec)


# --- layers, heads, feed-forward


def test_dropping_layers_keeps_those_named(subject):
    old = subject.model.backbone.state_dict()
    assert apply(subject, "layers", these_layers=["1"])["kept"] == [1]
    new = subject.model.backbone.state_dict()
    name = "intermediate.dense.weight"
    torch.testing.assert_close(new[f"encoder.layer.0.{name}"], old[f"encoder.layer.1.{name}"], rtol=0, atol=0)
    assert evenly(12, 4) == [2, 5, 8, 11]


def test_merging_adds_what_the_other_layer_does_differently(subject):
    old = subject.model.backbone.state_dict()
    apply(subject, "layers", these_layers=["0"], layer_way="merge")
    new, name = subject.model.backbone.state_dict(), "attention.self.query.weight"
    torch.testing.assert_close(new[f"encoder.layer.0.{name}"], old[f"encoder.layer.1.{name}"])


def test_a_layer_that_does_nothing_goes_first(subject):
    with torch.no_grad():
        layer = subject.model.backbone.encoder["layer"][0]
        for part in (layer.attention.output, layer.output):
            part["dense"].weight.zero_()
            part["dense"].bias.zero_()
    assert apply(subject, "layers", keep_layers=1)["kept"] == [1]


def test_heads_without_effect_go_first_and_leave_the_outputs_alone(subject):
    with torch.no_grad():
        for layer in subject.model.backbone.encoder["layer"]:
            layer.attention.output["dense"].weight[:, 8:16] = 0  # the second of four heads, 8 wide
    before = outputs(subject)
    assert apply(subject, "heads", keep_heads=3)["kept"] == [[0, 2, 3], [0, 2, 3]]
    np.testing.assert_allclose(outputs(subject), before, atol=1e-5)
    assert subject.model.backbone.encoder["layer"][0].attention.self["query"].weight.shape == (24, 32)
    assert subject.model.config["num_attention_heads"] == 3


def test_neurons_without_effect_go_first_and_leave_the_outputs_alone(subject):
    with torch.no_grad():
        for layer in subject.model.backbone.encoder["layer"]:
            layer.output["dense"].weight[:, ::2] = 0
    before = outputs(subject)
    facts = apply(subject, "feed_forward", keep_width=32)
    np.testing.assert_allclose(outputs(subject), before, atol=1e-5)
    assert max(facts["importance_lost"]) < 1e-6


def test_importances_are_those_of_removing_a_head(subject):
    """First order: the gradient of the loss by a gate on a head, here against finite differences."""
    from weitiao.compression._importance import importances

    subject.rows = subject.rows[:1]
    *_, scores = importances(subject, lambda layer: layer.attention.output["dense"], 8)
    encoded, layer = subject.labelled(), subject.model.backbone.encoder["layer"][1]
    loss = make("objectives", "cross_entropy")

    def with_gate(gate: float) -> float:
        weight = layer.attention.output["dense"].weight
        old = weight.detach().clone()
        with torch.no_grad():
            weight[:, 16:24] *= gate
            logits = torch.from_numpy(np.stack(outputs_of(subject.model, encoded)))
            weight.copy_(old)
        return float(loss.loss_sum(logits.double(), torch.from_numpy(encoded.targets)))

    slope = (with_gate(1.01) - with_gate(0.99)) / 0.02
    assert float(scores[1][2]) == pytest.approx(abs(slope), rel=0.02)


# --- sparse


@pytest.mark.parametrize(
    "settings", [{}, {"sparse_epochs": 1.0}, {"sparse_way": "movement", "sparse_epochs": 1.0}]
)
def test_just_so_many_weights_become_zero_and_the_files_shrink(subject, tmp_path, settings):
    dense = tensor_bytes(bundle(subject, tmp_path / "dense"))
    facts = apply(subject, "sparse", sparsity=0.8, **settings)
    assert facts["share"] == pytest.approx(0.8, abs=0.002)
    matrices = sum(
        w.numel() for n, w in subject.model.backbone.named_parameters() if "layer" in n and w.ndim == 2
    )
    assert type(subject.model.backbone.encoder["layer"][0].output["dense"]).__name__ == "Linear"
    for name, weight in subject.model.backbone.named_parameters():
        assert "original" not in name
        if "layer" in name and weight.ndim == 2:
            assert float((weight == 0).float().mean()) == pytest.approx(0.8, abs=0.002)
    small = bundle(subject, tmp_path / "sparse")
    saved = 4 * matrices * (0.8 - 1 / 32)
    assert dense - tensor_bytes(small) == pytest.approx(saved, rel=0.02)
    found = np.stack(load(small, engine="onnxruntime", threads=1).outputs(TEXTS))
    np.testing.assert_allclose(found, outputs(subject), atol=1e-4)


def test_magnitude_takes_the_smallest(subject):
    layer = subject.model.backbone.encoder["layer"][0].intermediate["dense"]
    old = layer.weight.detach().clone()
    apply(subject, "sparse", sparsity=0.5)
    gone, left = old[layer.weight == 0].abs(), old[layer.weight != 0].abs()
    assert float(gone.max()) <= float(left.min())
    torch.testing.assert_close(layer.weight[layer.weight != 0], old[layer.weight != 0], rtol=0, atol=0)


def test_packed_tensors_come_back_bit_by_bit(tmp_path):
    random = torch.Generator().manual_seed(0)
    sparse = torch.randn(37, 11, generator=random) * (torch.rand(37, 11, generator=random) < 0.3)
    tensors = {"a": sparse, "b": torch.randn(4, 4, generator=random), "c": torch.zeros(5)}
    small = pack(tensors)
    assert {"a::bits", "a::values", "a::shape", "b", "c::bits"} <= set(small)
    back = unpack(small)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=0)
    small["a::values"] = small["a::values"][:-1]
    with pytest.raises(ValueError, match="bits are set"):
        unpack(small)


def test_only_weights_are_packed_in_a_graph():
    """An all-zero vector is a zero point, which engines must see as a constant to compute in whole numbers."""
    zeros = {"weight": np.zeros((64, 64), np.int8), "zero_point": np.zeros(4096, np.int8)}
    nodes = [helper.make_node("Identity", [name], [f"{name}.out"]) for name in zeros]
    outputs = [helper.make_tensor_value_info(f"{name}.out", TensorProto.INT8, None) for name in zeros]
    tensors = [numpy_helper.from_array(value, name) for name, value in zeros.items()]
    packed, saved = pack_zeros(helper.make_model(helper.make_graph(nodes, "g", [], outputs, tensors)))
    assert saved > 3000
    assert "zero_point" in {t.name for t in packed.graph.initializer}
    assert "weight" not in {t.name for t in packed.graph.initializer}


# --- int8


def test_int8_keeps_groups_in_floating_point_until_decisions_agree(subject):
    loose = copy.deepcopy(subject)
    loose.tokenizer = subject.tokenizer
    assert apply(loose, "int8", int8_agreement=0.0)["in_floating_point"] == []
    facts = apply(subject, "int8", int8_agreement=1.0, int8_budget=1.0, int8_texts=24)
    assert facts["agreement_here"] == 1.0 or len(facts["in_floating_point"]) == facts["groups"]


@pytest.mark.parametrize("way", ["static", "dynamic"])
def test_int8_outputs_are_near_those_of_the_exact_model(subject, tmp_path, way):
    wanted = outputs(subject)
    apply(subject, "int8", int8_way=way, int8_agreement=0.0)
    small = bundle(subject, tmp_path / "small", "int8")
    found = np.stack(load(small, engine="onnxruntime", threads=1).outputs(TEXTS))
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()
    ops = [node.op_type for node in subject.graph.graph.node]
    assert ("DynamicQuantizeLinear" if way == "dynamic" else "QuantizeLinear") in ops
    assert not groups(subject.graph.graph), "a weight is left in floating point"


def test_static_int8_answers_do_not_depend_on_the_batch(subject, tmp_path):
    apply(subject, "int8", int8_agreement=0.0)
    predictor = load(bundle(subject, tmp_path / "small", "int8"), engine="onnxruntime", threads=1)
    together = predictor.outputs(TEXTS)
    for text, row in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(predictor.outputs([text])[0], row, atol=2e-3)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_whole_number_products_do_not_overflow_on_any_processor(tmp_path, engine):
    """All inputs and weights at their largest: without VNNI, two products of 255 * 127 do not fit in 16 bits."""
    weight = np.full((64, 32), 0.5, np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")], "g",
        [value("x", TensorProto.FLOAT, [None, 64])], [value("y", TensorProto.FLOAT, [None, 32])],
        [numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    small = quantised(model, {"x": Setting(0.0, 1.0)})
    (whole,) = [numpy_helper.to_array(t) for t in small.graph.initializer if t.name.endswith(".int8")]
    assert 2 * 255 * int(np.abs(whole.astype(int)).max()) < 2**15
    (tmp_path / "model.onnx").write_bytes(small.SerializeToString())
    if not catalogue.member("engines", engine).installed():
        pytest.skip(f"{engine} is not installed")
    opened = catalogue.member("engines", engine)(tmp_path / "model.onnx", threads=1)
    x = np.ones((4, 64), np.float32)
    np.testing.assert_allclose(opened.run({"x": x}, ["y"])[0], x @ weight, rtol=1e-3)


def test_agreement_counts_decisions():
    one, other = [np.array([1.0, 2.0]), np.array([3.0, 1.0])], [np.array([0.0, 9.0]), np.array([1.0, 3.0])]
    assert agreement(one, other) == 0.5
    assert agreement([np.array([[1.0, 0.0], [0.0, 1.0]])], [np.array([[1.0, 0.0], [1.0, 0.0]])]) == 0.5


# --- distillation


def test_distillation_brings_a_student_nearer_to_its_teacher(subject):
    wanted = outputs(subject)
    apply(subject, "layers", keep_layers=1)
    before = np.abs(outputs(subject) - wanted).mean()
    subject.texts = [f"{text} {number}" for number in range(20) for text in TEXTS]
    facts = apply(subject, "distillation", distil_epochs=6.0, distil_learning_rate=2e-3)
    assert facts["last_loss"] < facts["first_loss"] and facts["relations"] and facts["layer_map"] == [(0, 1)]
    assert np.abs(outputs(subject) - wanted).mean() < 0.8 * before


def test_another_encoder_can_be_the_student(subject, tmp_path):
    """Half as wide, so its states go through a projection."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=subject.model.backbone.shape.vocab_size, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "student")
    subject.tokenizer.save(str(tmp_path / "student" / "tokenizer.json"))
    facts = apply(subject, "distillation", student=str(tmp_path / "student"))
    assert facts["layer_map"] == [(0, 1)] and facts["relations"]
    assert subject.model.backbone.shape.hidden_size == 16
    assert outputs(subject).shape == (6, 3)


def test_relations_of_equal_states_are_equal_whatever_the_padding():
    random = np.random.default_rng(0)
    packed = pack_texts([random.integers(0, 9, n) for n in (3, 4, 5, 9)])
    states = torch.randn(21, 8, generator=torch.Generator().manual_seed(0))
    assert float(relation_loss(states, states, packed, 4)) == pytest.approx(0, abs=1e-6)
    other = states.clone().requires_grad_()
    moved = relation_loss(other * 1.5, torch.cat([states, states], 1), packed, 4)
    moved.backward()
    assert (
        float(moved.detach()) > 0 and torch.isfinite(other.grad).all() and float(other.grad.abs().sum()) > 0
    )
    alone = sum(
        float(
            relation_loss(part * 1.5, torch.cat([part, part], 1), pack_texts([np.zeros(len(part), int)]), 4)
        )
        for part in states.split([3, 4, 5, 9])
    )
    assert float(moved.detach()) == pytest.approx(alone, rel=1e-4)
