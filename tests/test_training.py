"""The engine against what it must equal: another way to compute the same thing, a closed form, or another library."""

import contextlib
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from toy import make_parts, open_model, table

from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError
from weitiao.data.encode import Encoded, Ragged
from weitiao.models import kernels
from weitiao.models.heads import PooledHead
from weitiao.training import checkpoint, probe
from weitiao.training.batches import Batches, cut_by_tokens, in_order
from weitiao.training.embeddings import CompactEmbeddings, used_ids
from weitiao.training.frozen import FrozenCache, frozen_layers
from weitiao.training.loop import losses_of, train
from weitiao.training.optimizer import HEAD, depth, make_optimizer, make_schedule
from weitiao.training.outputs import features_of, outputs_of


def losses(parts) -> list[float]:
    return [event.loss for event in train(parts)]


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def top_layer():
    return catalogue.member("tuning", "full")(top_layers=1)


# --- the loop

# Losses of the first 8 steps, with dropout: any change of the arithmetic or of the random draws shows here.
GOLDEN = [0.6201, 1.8192, 2.1474, 0.8611, 1.2452, 1.3490, 1.0579, 1.0518]


def test_the_loss_curve_is_the_one_on_record(tiny_model):
    model, random = open_model(tiny_model, dropout=0.1), np.random.default_rng(0)
    with torch.no_grad():  # weights that do not depend on how another library draws them
        for name, parameter in sorted(model.named_parameters()):
            centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            parameter.copy_(torch.from_numpy(random.normal(centre, 0.2, parameter.shape)))
    parts = make_parts(model, table(64), learning_rate=1e-3, epochs=1)
    np.testing.assert_allclose(losses(parts), GOLDEN, atol=2e-3)


def test_five_steps_equal_a_plain_loop_over_transformers(tiny_model):
    from transformers import BertModel

    encoded = table(40)
    model = open_model(tiny_model)
    theirs, linear = BertModel.from_pretrained(tiny_model, add_pooling_layer=False).train(), nn.Linear(32, 3)
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    linear.load_state_dict(model.head.linear.state_dict())
    parts = make_parts(model, encoded, weight_decay=0.0, epochs=1, learning_rate=1e-3)
    everything = [*theirs.parameters(), *linear.parameters()]
    optimizer, expected = torch.optim.AdamW(everything, lr=1e-3, weight_decay=0.0), []
    for rows in parts.batches.epoch(0):
        longest = encoded.lengths[rows].max()
        ids, mask = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(2))
        for i, row in enumerate(rows):
            text = torch.from_numpy(encoded.ids[row].astype(np.int64))
            ids[i, : len(text)], mask[i, : len(text)] = text, 1
        hidden = theirs(ids, attention_mask=mask).last_hidden_state
        pooled = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        loss = F.cross_entropy(linear(pooled), torch.from_numpy(encoded.targets[rows]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(everything, 1.0)
        optimizer.step()
        expected.append(float(loss.detach()))
    assert len(expected) == 5
    np.testing.assert_allclose(losses(parts), expected, atol=1e-5)


@pytest.mark.parametrize("task", ["text", "token"])
def test_a_step_in_parts_has_the_gradient_of_the_whole(tiny_model, task):
    encoded, head = table(16), None
    if task == "token":
        random = np.random.default_rng(0)
        # Ignored targets are spread unevenly: the mean is over the step's valid ones, not over parts.
        rows = [np.where(random.random(n) < 0.4, -100, random.integers(0, 3, n)) for n in encoded.lengths]
        encoded.targets = Ragged.of(rows, np.int64)
        head = {"type": "token", "outputs": 3, "pooling": "none"}
    gradients, totals = [], []
    for micro_tokens in (0, 30):
        model = open_model(tiny_model, **({"head": head} if head else {}))
        parts = make_parts(model, encoded, batch_size=16, micro_tokens=micro_tokens)
        batches = parts.batches.step(np.arange(16))
        assert (len(batches) > 3) == bool(micro_tokens)
        count = sum(batch.count for batch in batches)
        loss = sum(next(losses_of(parts, batch)) / count for batch in batches)
        loss.backward()
        totals.append(float(loss.detach()))
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert totals[0] == pytest.approx(totals[1], abs=1e-6)
    for name, whole in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], whole, atol=1e-6, rtol=1e-4, msg=name)


def test_micro_batches_do_not_change_training(tiny_model):
    curves = [losses(make_parts(open_model(tiny_model), table(), micro_tokens=m)) for m in (0, 25)]
    np.testing.assert_allclose(*curves, atol=1e-5)


def test_bf16_losses_stay_close_to_fp32(tiny_model):
    curves = [losses(make_parts(open_model(tiny_model), table(), precision=p)) for p in ("fp32", "bf16")]
    np.testing.assert_allclose(*curves, atol=0.03)
    assert curves[0] != curves[1], "bf16 was not in use"


def test_training_learns(tiny_model):
    encoded = table(24)
    # The class can be read from the second token.
    for row in range(24):
        encoded.ids.values[encoded.ids.offsets[row] + 1] = 10 + encoded.targets[row]
    curve = losses(make_parts(open_model(tiny_model), encoded, learning_rate=3e-3, epochs=10))
    assert np.mean(curve[-3:]) < 0.3 < 0.8 < np.mean(curve[:3])


def test_a_run_that_is_taken_up_again_ends_the_same(tiny_model, tmp_path):
    straight = make_parts(open_model(tiny_model, dropout=0.1), table(), schedule="linear")
    wanted = losses(straight)
    first = make_parts(open_model(tiny_model, dropout=0.1), table(), schedule="linear")
    list(itertools.islice(train(first), 2))
    saved = checkpoint.save(tmp_path, first.model, first.optimizer, {"step": 2})
    second = make_parts(open_model(tiny_model, dropout=0.1), table(), schedule="linear")
    state = checkpoint.load(saved, second.model, second.optimizer)
    assert [event.loss for event in train(second, state["step"])] == wanted[2:]
    for name, tensor in weights(straight.model).items():
        assert torch.equal(tensor, dict(second.model.named_parameters())[name]), name


def test_events_count_up(tiny_model):
    parts = make_parts(open_model(tiny_model), table(), schedule="linear")
    events = list(train(parts))
    assert [event.step for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event.epoch for event in events] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    assert sum(event.tokens for event in events) == 2 * table().lengths.sum()
    rates = [event.learning_rate for event in events]
    assert rates == pytest.approx([1e-3 * (1 - i / 6) for i in range(6)])


def test_a_loss_that_is_not_finite_stops_the_run(tiny_model):
    model = open_model(tiny_model)
    with torch.no_grad():
        model.head.linear.weight.fill_(float("nan"))
    before = weights(model)
    with pytest.raises(WeitiaoError, match="nan at step 1"):
        list(train(make_parts(model, table())))
    assert torch.equal(
        before["backbone.embeddings.LayerNorm.weight"], model.backbone.embeddings.LayerNorm.weight
    )


def test_gradients_are_clipped(tiny_model):
    parts = make_parts(open_model(tiny_model), table(), learning_rate=1e-9)
    parts.max_grad_norm = 1e-3
    seen = []
    parts.optimizer.register_step_post_hook(  # afterwards: the optimizer itself scales them
        lambda optimizer, *_: seen.append(
            math.sqrt(sum(float(p.grad.pow(2).sum()) for g in optimizer.param_groups for p in g["params"]))
        )
    )
    events = list(train(parts))
    assert all(event.grad_norm > 0.01 for event in events), "the norm before clipping is reported"
    assert seen == pytest.approx([1e-3] * 6, rel=1e-2)


# --- what makes it faster must not change it


def test_compact_embeddings_train_as_the_whole_table(tiny_model):
    encoded = table(40)
    dense = open_model(tiny_model)
    before = dense.backbone.embeddings.word_embeddings.weight.detach().clone()
    wanted = losses(make_parts(dense, encoded, epochs=1))
    model = open_model(tiny_model)
    compact = CompactEmbeddings(model.backbone, used_ids(encoded.ids.values))
    assert len(model.backbone.embeddings.word_embeddings.weight) == len(compact.used) < 200
    got = losses(make_parts(model, encoded, epochs=1, remap=compact.remap))
    compact.restore()
    compact.restore()
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    for name, tensor in weights(dense).items():
        torch.testing.assert_close(dict(model.named_parameters())[name], tensor, atol=1e-6, rtol=0, msg=name)
    after = model.backbone.embeddings.word_embeddings.weight.detach()
    untouched = np.setdiff1d(np.arange(len(before)), compact.used)
    assert torch.equal(after[untouched], before[untouched])
    assert not torch.equal(after[compact.used], before[compact.used])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_frozen_cache_does_not_change_the_losses(tiny_model, precision):
    curves = []
    for cached in (False, True):
        model = open_model(tiny_model, top_layer())
        parts = make_parts(model, table(), precision=precision, micro_tokens=60)
        assert frozen_layers(model) == 1
        if cached:
            parts.frozen = FrozenCache(model, parts.batches, 1, parts.accelerator.autocast)
        curves.append(losses(parts))
    np.testing.assert_allclose(*curves, atol=1e-6 if precision == "fp32" else 1e-2)


def test_frozen_layers_are_counted_from_the_bottom(tiny_model):
    assert frozen_layers(open_model(tiny_model)) == 0
    assert frozen_layers(open_model(tiny_model, catalogue.member("tuning", "head")())) == 2
    assert frozen_layers(open_model(tiny_model, catalogue.member("tuning", "lora")(lora_layers=1))) == 1
    assert frozen_layers(open_model(tiny_model, catalogue.member("tuning", "lora")())) == 0


@pytest.mark.parametrize("frozen", ["nothing", "weight", "input"])
def test_the_linear_kernel_is_linear(frozen):
    torch.manual_seed(0)
    layer = kernels.Linear(24, 16)
    x = torch.randn(30, 24, requires_grad=frozen != "input")
    layer.requires_grad_(frozen != "weight")
    goal = torch.randn(30, 16)
    wanted = F.linear(x, layer.weight, layer.bias)
    leaves = [t for t in (x, layer.weight, layer.bias) if t.requires_grad]
    exact = torch.autograd.grad((wanted * goal).sum(), leaves)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wanted, atol=0.05, rtol=0.02)
    (out.float() * goal).sum().backward()
    for leaf, gradient in zip(leaves, exact, strict=True):
        assert leaf.grad.dtype == torch.float32
        assert (leaf.grad - gradient).norm() < 0.02 * gradient.norm()
    for tensor in (x, layer.weight, layer.bias):
        assert (tensor.grad is not None) == tensor.requires_grad
    assert torch.equal(layer(x), wanted), "outside autocast it is nn.Linear"


# --- batches


@given(
    count=st.integers(1, 60), batch_size=st.integers(1, 20), batch_tokens=st.sampled_from([0, 40, 100]),
    micro_tokens=st.sampled_from([0, 25, 60]), epoch=st.integers(0, 3), seed=st.integers(0, 9),
)  # fmt: skip
def test_every_example_comes_once_an_epoch(count, batch_size, batch_tokens, micro_tokens, epoch, seed):
    encoded = table(count, seed)
    batches = Batches(encoded, batch_size, seed, batch_tokens=batch_tokens, micro_tokens=micro_tokens)
    steps = batches.epoch(epoch)
    assert len(steps) == batches.steps_per_epoch
    assert sorted(np.concatenate(steps)) == list(range(count))
    for rows in steps:
        parts = batches.step(rows)
        assert sorted(np.concatenate([part.rows for part in parts])) == sorted(rows)
        if micro_tokens:
            # A part may exceed the budget by less than one text.
            assert all(part.tokens < micro_tokens + 20 for part in parts)
        else:
            assert len(parts) == 1
        for part in parts:
            texts = part.packed.ids_T.split(part.packed.lengths_B.tolist())
            for place, row in enumerate(part.rows):
                assert texts[part.order[place, 0]].tolist() == encoded.ids[row].tolist()
                assert part.targets[place] == encoded.targets[row]
    if not batch_tokens:
        assert all(len(rows) == batch_size for rows in steps[:-1])


def test_batch_tokens_fills_steps():
    encoded = table(200)
    batches = Batches(encoded, 8, 0, batch_tokens=100)
    sums = [encoded.lengths[rows].sum() for rows in batches.epoch(0)]
    assert all(80 <= total <= 120 for total in sums[:-1])


def test_the_order_follows_from_seed_and_epoch():
    first, again, other = (Batches(table(40), 8, seed) for seed in (1, 1, 2))
    assert np.array_equal(np.concatenate(first.epoch(3)), np.concatenate(again.epoch(3)))
    orders = [first.epoch(0), first.epoch(1), other.epoch(0)]
    for a, b in itertools.combinations(orders, 2):
        assert not np.array_equal(np.concatenate(a), np.concatenate(b))


def test_pairs_stay_together():
    ids = Ragged.of([[2, 10 + i] + [5] * (i * 7 % 5) for i in range(12)])
    marks = np.array([[1]] * 6)
    encoded = Encoded(ids, targets=np.arange(6, dtype=np.float32), per_example=2, marks=None)
    batch = Batches(encoded, 6, 0).batch(np.array([3, 0, 5]))
    texts = batch.packed.ids_T.split(batch.packed.lengths_B.tolist())
    for place, row in enumerate(batch.rows):
        assert [int(texts[t][1]) for t in batch.order[place]] == [10 + 2 * row, 11 + 2 * row]
        assert batch.targets[place] == row
    alone = Encoded(ids, targets=np.arange(12), marks=np.repeat(marks, 2, 0))
    batch = Batches(alone, 6, 0).batch(np.array([7, 2, 9]))
    assert batch.packed.ids_T[batch.marks_T[:, 0]].tolist() == [10 + row for row in batch.rows]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(10, 200))
def test_cuts_are_even_and_complete(lengths, most):
    lengths = np.array(lengths)
    parts = cut_by_tokens(np.arange(len(lengths)), lengths, most)
    assert sorted(np.concatenate(parts)) == list(range(len(lengths)))
    assert all(lengths[part].sum() < most + lengths.max() for part in parts)
    assert all(lengths[a].max() <= lengths[b].min() for a, b in itertools.pairwise(parts))


def test_outputs_come_in_the_tables_order(tiny_model):
    encoded = table(30)
    model = open_model(tiny_model)
    together, batches = outputs_of(model, encoded), Batches(encoded, 1, 0)
    assert model.training
    with torch.no_grad():
        for row in range(30):
            batch = batches.batch(np.array([row]))
            np.testing.assert_allclose(together[row], model(batch.packed)[0], atol=1e-5)
    head = model.head.linear
    with torch.no_grad():
        logits = head(torch.from_numpy(np.stack(features_of(model, encoded))))
    np.testing.assert_allclose(np.stack(together), logits, atol=1e-5)
    assert sorted(np.concatenate(list(in_order(encoded, 50)))) == list(range(30))


@pytest.mark.parametrize("lengths", [[3], [3, 5], [1, 1, 1]])
def test_token_outputs_belong_to_their_texts(tiny_model, lengths):
    """Also where a batch has one text, or as many tokens as texts."""
    model = open_model(tiny_model, head={"type": "token", "outputs": 4, "pooling": "none"})
    encoded = Encoded(Ragged.of(np.arange(5, 5 + n) for n in lengths))
    assert [out.shape for out in outputs_of(model, encoded)] == [(n, 4) for n in lengths]


# --- optimizer and schedule


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.34])
@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_schedules_are_those_of_transformers(kind, warmup):
    from transformers import get_scheduler

    name, total = ("constant_with_warmup" if kind == "constant" else kind), 29
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(name, optimizer, math.ceil(total * warmup), total)
    ours = make_schedule(kind, total, warmup)
    for step in range(total):
        assert ours(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_groups_of_the_optimizer(tiny_model):
    model = open_model(tiny_model)
    optimizer = make_optimizer(model, 1.0, 0.01, 0.5, None)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        group = of.pop(id(parameter))
        plain = name.endswith("bias") or "LayerNorm" in name or "embeddings" in name
        assert group["weight_decay"] == (0.0 if plain else 0.01), name
        # The head has the full rate; each layer under it half of the one above.
        assert group["lr"] == {HEAD: 1.0, 2: 0.5, 1: 0.25, 0: 0.125}[depth(name)], name
    assert not of


def test_muon_steps_the_matrices_of_layers_as_torch_does_and_the_rest_as_adamw(tiny_model, monkeypatch):
    # On a CPU without products in bf16 ours computes in fp32, torch's in bf16 all the same.
    monkeypatch.setattr("weitiao.training.muon._fast_bf16", lambda: True)
    ours, theirs = open_model(tiny_model), open_model(tiny_model)
    optimizer = make_optimizer(ours, 1e-2, 0.1, 1.0, None, "muon")
    named = dict(theirs.named_parameters())
    inner = {name for name, p in named.items() if p.ndim == 2 and ".layer." in name}
    assert 0 < len(inner) < len(named)
    groups = [
        {"params": [p for name, p in named.items() if name not in inner and plain(name, p) == bare],
         "weight_decay": 0.0 if bare else 0.1}
        for bare in (False, True)
    ]  # fmt: skip
    references = [
        torch.optim.Muon([named[name] for name in inner], lr=1e-2, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=1e-2),
    ]
    for number in range(4):
        torch.manual_seed(number)
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        optimizer.step()
        for reference in references:
            reference.step()
    for (name, mine), its in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6, msg=name)


def plain(name: str, parameter: torch.nn.Parameter) -> bool:
    return parameter.ndim < 2 or "embed" in name


def test_orthogonal_steps_reach_equally_far_in_every_direction():
    from weitiao.training.muon import orthogonal

    torch.manual_seed(0)
    for shape in ((24, 60), (60, 24)):
        uneven = torch.randn(shape) @ torch.diag(torch.logspace(-0.5, 0.5, shape[1]))
        values = torch.linalg.svdvals(orthogonal(uneven).float())
        assert values.min() > 0.3 and values.max() < 1.3, values


def test_the_head_can_have_its_own_rate_and_frozen_parameters_none(tiny_model):
    model = open_model(tiny_model, top_layer())
    optimizer = make_optimizer(model, 1e-3, 0.01, 1.0, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates.get(id(parameter)) == (
            None if not parameter.requires_grad else 0.5 if name.startswith("head.") else 1e-3
        )


def test_depths():
    names = {"backbone.embeddings.LayerNorm.bias": 0, "backbone.encoder.layer.11.output.dense.weight": 12,
             "backbone.model.layers.3.attn.Wqkv.weight": 4, "head.linear.weight": HEAD}  # fmt: skip
    assert {name: depth(name) for name in names} == names


# --- probe


def blobs(count: int, classes: int, seed: int = 0):
    random = np.random.default_rng(seed)
    targets = random.integers(0, classes, count)
    centres = np.random.default_rng(9).normal(size=(classes, 10))
    features = centres[targets] + random.normal(size=(count, 10)) * 1.5
    return (features * np.linspace(0.1, 5, 10) + 3).astype(np.float32), targets


@pytest.mark.parametrize("classes", [2, 4])
def test_a_probe_is_logistic_regression(classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = blobs(400, classes)
    head = PooledHead(10, classes, "mean")
    probe.fit(head, x, y, penalty=1.0)
    scaler = StandardScaler().fit(x)
    theirs = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(scaler.transform(x), y)
    with torch.no_grad():
        ours = torch.softmax(head.linear(torch.from_numpy(x)), -1).numpy()
    assert abs((ours.argmax(1) == y).mean() - theirs.score(scaler.transform(x), y)) <= 0.01
    if classes > 2:  # with two, scikit-learn has one weight vector where the softmax has two
        np.testing.assert_allclose(ours, theirs.predict_proba(scaler.transform(x)), atol=5e-3)


def test_a_probe_for_several_labels_is_one_regression_each():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = blobs(300, 3)
    labels = np.stack([y == 0, y != 2], 1).astype(np.int64)
    head = PooledHead(10, 2, "mean")
    # The loss is a mean over labels, so each label's share of the penalty is its half.
    probe.fit(head, x, labels, penalty=0.5)
    z = StandardScaler().fit_transform(x)
    with torch.no_grad():
        ours = torch.sigmoid(head.linear(torch.from_numpy(x))).numpy()
    for i in (0, 1):
        theirs = (
            LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(z, labels[:, i]).predict_proba(z)[:, 1]
        )
        np.testing.assert_allclose(ours[:, i], theirs, atol=5e-3)


def test_a_probe_for_values_is_ridge_regression():
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    x, _ = blobs(200, 2)
    y = (x @ np.arange(10) / 50 + np.random.default_rng(1).normal(size=200)).astype(np.float32)
    head = PooledHead(10, 1, "mean")
    probe.fit(head, x, y, penalty=0.1)
    z = StandardScaler().fit_transform(x)
    theirs = Ridge(alpha=0.1 * 200).fit(z, y).predict(z)
    with torch.no_grad():
        np.testing.assert_allclose(head.linear(torch.from_numpy(x))[:, 0], theirs, atol=1e-3)


# --- checkpoints


def test_a_damaged_checkpoint_is_passed_over(tiny_model, tmp_path):
    parts = make_parts(open_model(tiny_model), table())
    list(itertools.islice(train(parts), 1))
    good = checkpoint.save(tmp_path, parts.model, parts.optimizer, {"step": 1})
    bad = checkpoint.save(tmp_path, parts.model, parts.optimizer, {"step": 2})
    file = bad / "weights.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    skipped = []
    assert checkpoint.newest(tmp_path, skipped=skipped) == good
    assert skipped == [bad.name]
    assert checkpoint.newest(tmp_path / "nowhere") is None


def test_the_best_and_the_newest_checkpoints_are_kept(tiny_model, tmp_path):
    parts = make_parts(open_model(tiny_model, catalogue.member("tuning", "head")()), table())
    list(itertools.islice(train(parts), 1))
    for step in range(1, 6):
        path = checkpoint.save(tmp_path, parts.model, parts.optimizer, {"step": step})
    checkpoint.keep(tmp_path, 2, {2})
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-{n:08d}" for n in (2, 4, 5)]
    held = set(checkpoint.load_file(path / "weights.safetensors"))
    assert held == {"head.linear.weight", "head.linear.bias"}, "frozen parameters are not in a checkpoint"


def test_the_autocast_of_an_evaluation_is_used(tiny_model):
    encoded, model = table(8), open_model(tiny_model)
    plain = np.stack(outputs_of(model, encoded, autocast=contextlib.nullcontext))
    coarse = np.stack(outputs_of(model, encoded, autocast=lambda: torch.autocast("cpu", torch.bfloat16)))
    assert 0 < np.abs(plain - coarse).max() < 0.1
