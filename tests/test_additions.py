"""What is added to a loss: each member's formula computed another way, and what all of them keep to."""

import json
import math

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F
from toy import make, make_parts, open_model, table

import weitiao
from weitiao.cli import main, parse
from weitiao.core import catalogue
from weitiao.core.config import build, to_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.data.encode import IGNORED, Ragged
from weitiao.models.hub_encoder import HubEncoder
from weitiao.models.words import moved, word_embeddings
from weitiao.objectives._composed import compose
from weitiao.objectives.base import Addition
from weitiao.stages import finetune as stage
from weitiao.training import checkpoint
from weitiao.training.embeddings import CompactEmbeddings, used_ids
from weitiao.training.frozen import FrozenCache
from weitiao.training.loop import losses_of, train

ADDITIONS = [
    name
    for name in catalogue.members("objectives")
    if issubclass(catalogue.member("objectives", name), Addition)
]
TOKENS = {"type": "token", "outputs": 3, "pooling": "none"}


def backward(parts, rows):
    """The losses of a step over these examples, each gone backwards: their values, and every gradient by name."""
    batches = parts.batches.step(rows)
    count = sum(batch.count for batch in batches)
    parts.optimizer.zero_grad()
    values = []
    for batch in batches:
        for loss in losses_of(parts, batch):
            (loss / count).backward()
            values.append(float(loss.detach()) / count)
    return values, {name: p.grad.clone() for name, p in parts.model.named_parameters() if p.grad is not None}


def close(found, wanted, **tolerance):
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# --- all of them


@pytest.mark.parametrize("name", ADDITIONS)
def test_an_addition_changes_what_is_learnt(tiny_model, name):
    found = []
    for objective in ("cross_entropy", f"cross_entropy+{name}", f"cross_entropy+0.25*{name}"):
        model = open_model(tiny_model, dropout=0.1)
        events = list(train(make_parts(model, table(), objective=objective)))
        assert len(events) == 6
        found.append((weights(model), [event.loss for event in events]))
    (plain, plain_losses), *others = found
    for trained, losses in others:
        assert all(tensor.isfinite().all() for tensor in trained.values())
        changed = [key for key in plain if not torch.equal(plain[key], trained[key])]
        assert {"head.linear.weight", "backbone.embeddings.word_embeddings.weight"} <= set(changed)
        assert losses[0] != plain_losses[0]
    added, quarter = (losses[0] - plain_losses[0] for _, losses in others)
    assert quarter == pytest.approx(added / 4, rel=1e-3)


@pytest.mark.parametrize("name", ADDITIONS)
def test_the_weights_are_the_same_bits_after_all_passes_of_a_step(tiny_model, name):
    model = open_model(tiny_model, dropout=0.1)
    model.train()
    before = weights(model)
    backward(make_parts(model, table(), objective=f"cross_entropy+{name}"), np.arange(8))
    for key, tensor in weights(model).items():
        assert torch.equal(tensor, before[key]), key
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not word_embeddings(model.backbone)._forward_hooks


def test_a_pass_that_fails_leaves_the_embeddings_alone(tiny_model):
    model = open_model(tiny_model)
    packed = make_parts(model, table()).batches.batch(np.arange(4)).packed
    with pytest.raises(RuntimeError), moved(model.backbone, packed, torch.zeros(1, 7)):
        model(packed)
    assert not word_embeddings(model.backbone)._forward_hooks


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ADDITIONS)
def test_a_run_resumed_in_the_middle_ends_in_the_same_weights(tiny_model, tmp_path, name, precision):
    def begin():
        model = open_model(tiny_model, dropout=0.1)
        settings = {"precision": precision, "objective": f"cross_entropy+{name}", "micro_tokens": 40}
        return model, make_parts(model, table(), learning_rate=1e-2, **settings)

    model, parts = begin()
    for event in train(parts):
        if event.step == 4:
            state = {"step": 4, "objective": parts.losses.__self__.state()}
            path = checkpoint.save(tmp_path, model, parts.optimizer, state)
    again, parts = begin()
    state = checkpoint.load(path, again, parts.optimizer)
    parts.losses.__self__.load_state(state["objective"])
    assert len(list(train(parts, state["step"]))) == 2
    close(weights(again), weights(model), atol=0, rtol=0)


@pytest.mark.parametrize("name", ADDITIONS)
def test_compact_embeddings_train_as_the_whole_table(tiny_model, name):
    encoded, objective = table(), f"cross_entropy+{name}"
    whole, small = (open_model(tiny_model, dropout=0.1) for _ in range(2))
    list(train(make_parts(whole, encoded, objective=objective)))
    compact = CompactEmbeddings(small.backbone, used_ids(encoded.ids.values))
    list(train(make_parts(small, encoded, remap=compact.remap, objective=objective)))
    compact.restore()
    # Random starts and norms are summed in the same order; only the table's own gradient is laid out otherwise.
    close(weights(small), weights(whole), atol=2e-5, rtol=1e-4)


# Those that compare a step's examples are not cut, and SMART's start is random by nature (see its formula's test).
CUT = [n for n in ADDITIONS if n != "smart" and not catalogue.member("objectives", n).compares_examples]


@pytest.mark.parametrize("head", [None, TOKENS], ids=["text", "token"])
@pytest.mark.parametrize("name", CUT)
def test_a_step_in_parts_has_the_gradient_of_the_whole(tiny_model, name, head):
    if head and head["type"] not in catalogue.member("objectives", name).heads:
        pytest.skip("it is for whole texts")
    encoded = table(16)
    if head:
        random = np.random.default_rng(0)
        rows = [np.where(random.random(n) < 0.4, IGNORED, random.integers(0, 3, n)) for n in encoded.lengths]
        encoded.targets = Ragged.of(rows, np.int64)
    # A random start of its own for each part would hide what is compared.
    options = {"freelb_start": 0.0} if name == "freelb" else {}
    found = []
    for micro_tokens in (0, 30):
        model = open_model(tiny_model, **({"head": head} if head else {}))
        settings = {"batch_size": 16, "micro_tokens": micro_tokens, "objective": f"cross_entropy+{name}"}
        values, gradients = backward(make_parts(model, encoded, **settings, **options), np.arange(16))
        found.append((sum(values), gradients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    close(found[1][1], found[0][1], atol=2e-6, rtol=1e-3)


# --- the formulas, one text at a time through another implementation


class Theirs:
    """``transformers``' encoder with the toy's head, over one text's own embeddings: gradients by our names."""

    def __init__(self, tiny_model, model):
        from transformers import BertModel

        self.bert = BertModel.from_pretrained(tiny_model, add_pooling_layer=False).eval()
        self.linear = torch.nn.Linear(32, 3)
        self.linear.load_state_dict(model.head.linear.state_dict())

    def words(self, ids):
        return self.bert.embeddings.word_embeddings(ids)

    def logits(self, words_LE):
        return self.linear(self.bert(inputs_embeds=words_LE.unsqueeze(0)).last_hidden_state[0].mean(0))

    def gradients(self, total):
        total.backward()
        named = {f"backbone.{name}": p.grad for name, p in self.bert.named_parameters()}
        return named | {f"head.linear.{name}": p.grad for name, p in self.linear.named_parameters()}


def unit(gradient):
    return gradient / gradient.norm()


def shortened(noise, most):
    return noise * min(1.0, most / float(noise.norm()))


def fgm(theirs, words, target, start):
    words_ = words.detach().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(theirs.logits(words_), target), words_)
    return F.cross_entropy(theirs.logits(words + 0.7 * unit(g)), target)


def pgd(theirs, words, target, start):
    noise = torch.zeros_like(words)
    for _ in range(4):
        point = (words + noise).detach().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(theirs.logits(point), target), point)
        noise = shortened(noise + 0.4 * unit(g), 0.9)
    return F.cross_entropy(theirs.logits(words + noise), target)


def freelb(theirs, words, target, start):
    noise = (2 * start["uniform"] - 1) * 0.5 / math.sqrt(words.numel())
    total = 0.0
    for _ in range(3):
        total = total + F.cross_entropy(theirs.logits(words + noise), target) / 3
        point = (words + noise).detach().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(theirs.logits(point), target), point)
        noise = shortened(noise + 0.4 * unit(g), 0.9)
    return total


def smart(theirs, words, target, start):
    def apart(a, b):
        p, q = a.log_softmax(-1), b.log_softmax(-1)
        return F.kl_div(p, q, reduction="sum", log_target=True) + F.kl_div(
            q, p, reduction="sum", log_target=True
        )

    still, noise = theirs.logits(words), start["normal"] * 0.01
    for _ in range(2):
        point = (words + noise).detach().requires_grad_()
        (g,) = torch.autograd.grad(apart(theirs.logits(point), still.detach()), point)
        noise = torch.clamp(noise + 0.05 * g / g.abs().max(), -0.06, 0.06)
    return apart(theirs.logits(words + noise), still)


REFERENCES = {
    fgm: {"fgm_epsilon": 0.7},
    pgd: {"pgd_epsilon": 0.9, "pgd_step_size": 0.4, "pgd_steps": 4},
    freelb: {"freelb_epsilon": 0.9, "freelb_step_size": 0.4, "freelb_start": 0.5},
    smart: {"smart_epsilon": 0.06, "smart_step_size": 0.05, "smart_start": 0.01, "smart_steps": 2},
}


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda function: function.__name__)
def test_an_attack_is_its_formula(tiny_model, reference):
    model, encoded, name = open_model(tiny_model), table(16), reference.__name__
    parts = make_parts(model, encoded, objective=f"cross_entropy+{name}", **REFERENCES[reference])
    rows, theirs = np.arange(6), Theirs(tiny_model, model)
    torch.manual_seed(5)
    values, found = backward(parts, rows)
    # The random start is one draw for the flat row of the micro-batch's texts, shortest first.
    packed = parts.batches.batch(rows)
    torch.manual_seed(5)
    shape = (packed.tokens, 32)
    starts = {"uniform": torch.rand(shape)} if name == "freelb" else {"normal": torch.randn(shape)}
    total, at = 0.0, 0
    for row in packed.rows:
        ids = torch.from_numpy(encoded.ids[row].astype(np.int64))
        target = torch.tensor(encoded.targets[row])
        part = {kind: start[at : at + len(ids)] for kind, start in starts.items()}
        words = theirs.words(ids)
        total = total + F.cross_entropy(theirs.logits(words), target)
        total = total + reference(theirs, words, target, part)
        at += len(ids)
    assert sum(values) == pytest.approx(float(total.detach()) / 6, rel=1e-4)
    # transformers' position and type tables are whole, as ours are.
    close(found, theirs.gradients(total / 6), atol=2e-5, rtol=2e-3)


# --- the formulas in numpy


def first_pass(model, objective, encoded=None, dropout=0.0, **options):
    """The parts of a step, its one micro-batch, and the losses of the loss alone and of all of it."""
    encoded = encoded or table(16)
    parts = make_parts(model, encoded, batch_size=16, objective=objective, **options)
    (batch,) = parts.batches.step(np.arange(16))
    parts.dropout.restart(3)
    torch.manual_seed(3)
    return parts, batch, float(next(losses_of(parts, batch)).detach())


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_r_drop_is_its_formula(tiny_model):
    model = open_model(tiny_model, dropout=0.3)
    parts, batch, found = first_pass(model, "cross_entropy+r_drop", r_drop_alpha=0.6)
    parts.dropout.restart(3)
    with torch.no_grad():
        one, two = (model(batch.packed, None, parts.dropout).double().numpy() for _ in range(2))
    (a, b), y = (log_softmax(one), log_softmax(two)), batch.targets.numpy()
    p, q = np.exp(a), np.exp(b)
    divergence = (p * (a - b)).sum() + (q * (b - a)).sum()
    assert divergence > 0.01
    nll = -(a + b)[np.arange(16), y].sum()
    assert found == pytest.approx(nll + 0.3 * divergence, rel=1e-5)


def test_confidence_penalty_is_its_formula(tiny_model):
    model = open_model(tiny_model)
    _, batch, found = first_pass(model, "cross_entropy+confidence_penalty", confidence_beta=0.7)
    logs = log_softmax(model(batch.packed).detach().double().numpy())
    nll = -logs[np.arange(16), batch.targets.numpy()].sum()
    assert found == pytest.approx(nll + 0.7 * (np.exp(logs) * logs).sum(), rel=1e-5)


def test_supervised_contrastive_is_a_loop(tiny_model):
    model, encoded = open_model(tiny_model), table(16)
    encoded.targets[:] = [0] * 8 + [1] * 7 + [2]  # the last text has no other of its class
    _, batch, found = first_pass(
        model, "cross_entropy+supervised_contrastive", encoded, supcon_temperature=0.2
    )
    plain = first_pass(model, "cross_entropy", encoded)[2]
    z = model.head.features(model.hidden(batch.packed, None, None), batch.packed).detach().double().numpy()
    z, y, expected = z / np.linalg.norm(z, axis=1, keepdims=True), batch.targets.numpy(), 0.0
    for i in range(16):
        below = sum(np.exp(z[i] @ z[a] / 0.2) for a in range(16) if a != i)
        friends = [p for p in range(16) if p != i and y[p] == y[i]]
        for p in friends:
            expected -= np.log(np.exp(z[i] @ z[p] / 0.2) / below) / len(friends)
    assert found - plain == pytest.approx(expected, rel=1e-4)


def test_mixup_is_its_formula(tiny_model):
    model = open_model(tiny_model)
    _, batch, found = first_pass(model, "cross_entropy+mixup", mixup_alpha=0.8)
    plain = first_pass(model, "cross_entropy")[2]
    torch.manual_seed(3)
    share = float(torch.distributions.Beta(0.8, 0.8).sample())
    other = torch.randperm(16).numpy()
    h = model.head.features(model.hidden(batch.packed, None, None), batch.packed).detach().double().numpy()
    w, b = (p.detach().double().numpy() for p in model.head.linear.parameters())
    logs, y = log_softmax((share * h + (1 - share) * h[other]) @ w.T + b), batch.targets.numpy()
    rows = np.arange(16)
    expected = -(share * logs[rows, y] + (1 - share) * logs[rows, y[other]]).sum()
    assert 0.01 < share < 0.99
    assert found - plain == pytest.approx(expected, rel=1e-4)


def test_labels_have_a_distribution_each(tiny_model):
    """R-Drop and the confidence penalty of two labels are those of two binary answers."""
    encoded = table(16)
    encoded.targets = np.random.default_rng(1).integers(0, 2, (16, 3))
    model = open_model(tiny_model, dropout=0.3)
    objective = "binary_cross_entropy+r_drop+confidence_penalty"
    parts, batch, found = first_pass(model, objective, encoded, r_drop_alpha=2.0, confidence_beta=0.5)
    parts.dropout.restart(3)
    with torch.no_grad():
        one, two = (model(batch.packed, None, parts.dropout).double().sigmoid().numpy() for _ in range(2))
    y, expected = batch.targets.numpy(), 0.0
    for p in (one, two):
        expected -= (y * np.log(p) + (1 - y) * np.log(1 - p)).sum() / 3
    for p, q in ((one, two), (1 - one, 1 - two)):
        expected += (p * np.log(p / q) + q * np.log(q / p)).sum() / 3
    expected += 0.5 * (one * np.log(one) + (1 - one) * np.log(1 - one)).sum() / 3
    assert found == pytest.approx(expected, rel=1e-4)


# --- other models and other ways to train


def test_another_librarys_encoder_is_moved_as_the_packed_one(tiny_model):
    ours = open_model(tiny_model)
    theirs = HubEncoder.from_folder(tiny_model)
    batch = make_parts(ours, table()).batches.batch(np.arange(8))
    assert any(group.real_t is not None for group in batch.packed.groups), "nothing is padded"
    noise = torch.randn(batch.tokens, 32) * 0.3
    with torch.no_grad():
        still = theirs(batch.packed)
        with moved(ours.backbone, batch.packed, noise), moved(theirs, batch.packed, noise):
            found, wanted = theirs(batch.packed), ours.backbone(batch.packed)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert (found - still).abs().max() > 0.1


@pytest.mark.parametrize("tuning", ["lora", "prompt", "prefix", "adapter", "bitfit"])
def test_attacks_work_where_the_embeddings_are_frozen(tiny_model, tuning):
    found = []
    for objective in ("cross_entropy", "cross_entropy+fgm"):
        method = make("tuning", tuning)
        model = open_model(tiny_model, method)
        list(train(make_parts(model, table(), hooks=method, objective=objective, learning_rate=1e-2)))
        found.append(weights(model))
    name = "backbone.embeddings.word_embeddings.weight"
    name = name if name in found[0] else name.replace("backbone.", "backbone.inner.")
    assert torch.equal(found[0][name], found[1][name])
    assert any(not torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("name", ADDITIONS)
def test_layers_computed_again_draw_the_same_masks(tiny_model, name):
    found = []
    for again in (False, True):
        model = open_model(tiny_model, dropout=0.1)
        model.train()
        model.backbone.checkpointing = again
        torch.manual_seed(2)
        found.append(backward(make_parts(model, table(), objective=f"cross_entropy+{name}"), np.arange(8)))
    assert found[0][0] == found[1][0]
    close(found[1][1], found[0][1], atol=1e-6, rtol=1e-4)


def test_what_reads_no_words_cannot_be_attacked():
    with pytest.raises(WeitiaoError, match="this model reads none"):
        word_embeddings(torch.nn.Linear(2, 2))


def test_kept_states_of_frozen_layers_are_no_ground_for_an_attack(tiny_model):
    model = open_model(tiny_model, make("tuning", "full", top_layers=1))
    parts = make_parts(model, table(), objective="cross_entropy+fgm")
    parts.frozen = FrozenCache(model, parts.batches, 1, parts.accelerator.autocast)
    with pytest.raises(RuntimeError, match="embeddings have no gradient"):
        backward(parts, np.arange(8))


def test_an_attack_makes_the_loss_larger(tiny_model):
    parts = make_parts(open_model(tiny_model), table(), objective="cross_entropy+fgm+pgd")
    (clean, fast, slow), _ = backward(parts, np.arange(8))
    assert clean < fast and clean < slow


# --- what is written on the command line


@pytest.mark.parametrize(("text", "weights_of"), [
    ("cross_entropy", {"cross_entropy": 1}),
    ("Cross-Entropy + R-Drop+fgm", {"cross_entropy": 1, "r_drop": 1, "fgm": 1}),
    ("cross_entropy+0.5*supervised-contrastive", {"cross_entropy": 1, "supervised_contrastive": 0.5}),
    ("2*focal + 1e-3 * cross_entropy", {"focal": 2, "cross_entropy": 0.001}),
])  # fmt: skip
def test_sums_are_read(text, weights_of):
    composed = compose(text, {})
    found = {
        type(part).__module__.rsplit(".", 1)[1]: w for w, part in (*composed.losses_in, *composed.additions)
    }
    assert found == weights_of


def test_flags_of_all_parts_are_known():
    flags = ["--objective", "cross-entropy+0.5*fgm+r-drop", "--fgm-epsilon", "0.3", "--label-smoothing=0.1"]
    config = build(stage.Config, parse(stage, flags))
    assert config.objective == "cross_entropy+0.5*fgm+r_drop"
    composed = compose(config.objective, config.member_values)
    assert composed.losses_in[0][1].label_smoothing == 0.1
    assert [(weight, getattr(part, "fgm_epsilon", None)) for weight, part in composed.additions] == [
        (0.5, 0.3),
        (1, None),
    ]
    assert to_yaml(build(stage.Config, yaml.safe_load(to_yaml(config)))) == to_yaml(config)
    with pytest.raises(WeitiaoError, match="Unknown option --pgd-epsilon"):
        parse(stage, [*flags, "--pgd-epsilon", "1"])


def test_losses_of_one_kind_add_up(tiny_model):
    single = [first_pass(open_model(tiny_model), name)[2] for name in ("cross_entropy", "focal")]
    both = first_pass(open_model(tiny_model), "0.5*cross_entropy+3*focal")[2]
    assert both == pytest.approx(0.5 * single[0] + 3 * single[1], rel=1e-5)


@pytest.mark.parametrize(("objective", "said"), [
    ("cross_entropy+r_dorp", "Did you mean 'r_drop'?"),
    ("r_drop+fgm", "has no loss to add to: begin with one, as in cross_entropy+r_drop+fgm. Losses: binary_cross"),
    ("cross_entropy+squared_error", "no targets suit all of it (cross_entropy: classes; squared_error: values)"),
    ("squared_error+r_drop", "no targets suit all of it"),
    ("cross_entropy+fgm+fgm", "names fgm twice"),
    ("cross_entropy+0*fgm", "'0' is no weight for fgm"),
    ("cross_entropy+-1*fgm", "'-1' is no weight for fgm"),
    ("cross_entropy+much*fgm", "'much' is no weight for fgm"),
    ("cross_entropy+nan*fgm", "'nan' is no weight for fgm"),
    ("binary_cross_entropy+fgm", "is for labels; this task has classes. Choices: confidence_penalty, cosine_pairs"),
])  # fmt: skip
def test_what_cannot_work_is_one_line_before_training(tiny_model, tmp_path, capsys, objective, said):
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20)))
    output = tmp_path / "run"
    words = ["finetune", "--data", data, "--model", tiny_model, "--output", output, "--objective", objective]
    assert main([str(word) for word in words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("weitiao: ")]
    assert len(lines) == 1 and said in lines[0]
    assert not output.exists()


@pytest.mark.parametrize(("settings", "said"), [
    ({"objective": "cross_entropy+supervised_contrastive", "label": "a"}, "at least two"),
    ({"objective": "cross_entropy+r_drop", "dropout": 0}, "can't work with --dropout 0"),
])  # fmt: skip
def test_data_and_settings_that_do_not_suit_are_refused(tiny_model, tmp_path, settings, said):
    label = settings.pop("label", "")
    rows = [{"text": f"text {i}", "label": label or "ab"[i % 2]} for i in range(20)]
    with pytest.raises(WeitiaoError, match=said):
        weitiao.finetune(rows, model=str(tiny_model), output=tmp_path / "run", show=False, **settings)
    assert not (tmp_path / "run" / "model").exists()


def test_a_tagger_cannot_compare_whole_texts():
    objective = compose("cross_entropy+supervised_contrastive", {})
    with pytest.raises(WeitiaoError, match="heads of the kinds pooled, marker, cloze; this task's is token"):
        objective.check("classes", "token", None)


def test_one_class_is_refused_by_the_contrastive_part_itself():
    with pytest.raises(WeitiaoError, match="two classes or more"):
        make("objectives", "supervised_contrastive").prepare(torch.zeros(5, dtype=torch.long), 1)


# --- from end to end


ROWS = [
    {"text": f"{['good money', 'bad card', 'the bank'][i % 3]} {i}", "label": "abc"[i % 3]} for i in range(60)
]


def finetune(tiny_model, folder, **settings):
    how = {"max_length": 32, "precision": "fp32", "threads": 1, "show": False, "num_epochs": 2}
    return weitiao.finetune(ROWS, model=str(tiny_model), output=folder, **how, **settings)


def test_a_composed_objective_from_end_to_end(tiny_model, tmp_path):
    runs = {
        name: finetune(tiny_model, tmp_path / name, objective=objective, learning_rate=3e-3, **options)
        for name, objective, options in (
            ("plain", "cross_entropy", {}),
            ("both", "cross_entropy+r_drop+fgm", {"r_drop_alpha": 2.0, "fgm_epsilon": 0.5}),
            ("again", "cross_entropy,R-Drop,fgm", {"r_drop_alpha": 2.0, "fgm_epsilon": 0.5}),
        )
    }
    written = (tmp_path / "both" / "config.yaml").read_text()
    assert "objective: cross_entropy+r_drop+fgm" in written
    assert "r_drop_alpha: 2.0" in written and "fgm_epsilon: 0.5" in written
    files = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in runs]
    assert files[0] != files[1] and files[1] == files[2]
    assert runs["both"].predict(["good money 1"])
    first = [json.loads(line) for line in (tmp_path / "both" / "events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in first if event["event"] == "step"]
    assert losses[0] > 2.5 * math.log(3) and losses[-1] < losses[0]  # three losses of three classes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frozen_layers_are_attacked_too(tiny_model, tmp_path, precision):
    """Where their states would be kept (``--top-layers``), an attack runs through them instead."""
    how = {"max_length": 32, "threads": 1, "show": False, "num_epochs": 1, "precision": precision}
    model = []
    for name in ("cross_entropy", "cross_entropy+fgm", "cross_entropy+confidence_penalty"):
        folder = tmp_path / name
        weitiao.finetune(ROWS, model=str(tiny_model), output=folder, objective=name, top_layers=1, **how)
        model.append((folder / "model" / "model.safetensors").read_bytes())
    assert len(set(model)) == 3
