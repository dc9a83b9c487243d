"""The packed encoder against transformers' own, and the hub encoder behind the same interface."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    RobertaModel,
    T5Config,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from weitiao.core.errors import WeitiaoError
from weitiao.models.encoder import Encoder, Shape
from weitiao.models.hub_encoder import HubEncoder
from weitiao.models.kernels import Dropout, attention, dropout_add
from weitiao.models.packed import pack

TINY = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
FAMILY = {
    "bert": (BertConfig(**TINY | {"pad_token_id": 0}), BertModel),
    "roberta": (RobertaConfig(**TINY, type_vocab_size=2), RobertaModel),
    "xlm-roberta": (XLMRobertaConfig(**TINY, layer_norm_eps=1e-5), XLMRobertaModel),
}
# Ragged, with a text of one token, and enough texts for several groups: some padded, some of one length.
RAGGED = [1, 2, 2, 3, 5, 5, 5, 6, 9, 20, 20, 21, 22, 23, 24, 25, 30, 30, 30, 30]
EQUAL = [7, 7, 7]


def texts(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    """Random ids; 0 and 1 are left to padding."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, TINY["vocab_size"], length) for length in lengths]


def segments(ids: list[np.ndarray]) -> list[np.ndarray]:
    """A second half of ones, as for a pair of texts."""
    return [(np.arange(len(row)) >= len(row) / 2).astype(np.int64) for row in ids]


def scattered(model: torch.nn.Module) -> torch.nn.Module:
    """Larger random weights than the usual start, so that no term is too small to be missed."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            middle = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(middle + torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def twins(name: str) -> tuple[Encoder, torch.nn.Module]:
    """Transformers' model and ours with the same weights."""
    config, kind = FAMILY[name]
    reference = scattered(kind(config, add_pooling_layer=False))
    ours = Encoder(Shape.from_config(config.to_dict()))
    ours.load_state_dict(reference.state_dict())
    return ours, reference


def one_by_one(reference: torch.nn.Module, ids: list[np.ndarray], types: list[np.ndarray] | None = None):
    """The reference's hidden states, each text alone: no padding, no mask."""
    states = []
    for number, row in enumerate(ids):
        extra = {} if types is None else {"token_type_ids": torch.from_numpy(types[number])[None]}
        states.append(reference(input_ids=torch.from_numpy(row)[None], **extra).last_hidden_state[0])
    return torch.cat(states)


def small(**changes) -> Encoder:
    torch.manual_seed(0)
    return scattered(Encoder(Shape(61, 16, 3, 4, 24, 40, **changes))).train()


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# -- the same function as transformers ------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [RAGGED, EQUAL], ids=["ragged", "equal"])
@pytest.mark.parametrize("with_types", [False, True], ids=["", "types"])
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_hidden_states_and_gradients_equal_transformers(name, with_types, lengths):
    ours, reference = twins(name)
    ids = texts(lengths)
    types = segments(ids) if with_types else None
    packed = pack(ids, ours.shape.first_position, types)
    got, wanted = ours(packed), one_by_one(reference, ids, types)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)

    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    mine = gradients(ours, (got * weights).sum())
    theirs = gradients(reference, (wanted * weights).sum())
    assert mine.keys() == theirs.keys() == dict(ours.named_parameters()).keys()
    scale = max(float(gradient.norm()) for gradient in theirs.values())
    for key, gradient in theirs.items():
        if key.endswith("key.bias"):  # adds the same to all of a query's scores: its true gradient is 0
            assert max(mine[key].norm(), gradient.norm()) < 1e-5 * scale, key
        else:
            assert (mine[key] - gradient).norm() <= 1e-4 * gradient.norm(), key


def test_xlm_roberta_equals_transformers():
    ours, reference = twins("xlm-roberta")
    ids = texts(RAGGED)
    got = ours(pack(ids, ours.shape.first_position))
    torch.testing.assert_close(got, one_by_one(reference, ids), atol=1e-5, rtol=0)


def test_no_types_means_all_zero():
    ours, _ = twins("bert")
    ids = texts(RAGGED)
    zeros, ones = ([np.full(len(row), fill) for row in ids] for fill in (0, 1))
    torch.testing.assert_close(ours(pack(ids)), ours(pack(ids, types=zeros)), atol=0, rtol=0)
    assert not torch.allclose(ours(pack(ids)), ours(pack(ids, types=ones)), atol=1e-2)


@pytest.mark.parametrize("name", list(FAMILY))
def test_the_longest_text_has_positions_and_no_longer_one(name):
    ours, _ = twins(name)
    longest = ours.shape.max_length
    assert longest == {"bert": 40}.get(name, 38)
    ours(pack(texts([longest]), ours.shape.first_position))
    with pytest.raises(IndexError):
        ours(pack(texts([longest + 1]), ours.shape.first_position))


def test_bf16_autocast_is_close_to_fp32():
    ours, _ = twins("bert")
    packed = pack(texts(RAGGED))
    exact = ours(packed)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = ours(packed)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 5e-2 * exact.norm()
    (rounded.float().square().sum()).backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in ours.parameters())


@given(st.permutations(range(12)))
def test_the_order_of_texts_does_not_change_a_text(order):
    ours = small().eval()
    ids = texts(RAGGED[:12])
    with torch.no_grad():
        before = ours(pack(ids)).split([len(row) for row in ids])
        after = ours(pack([ids[i] for i in order])).split([len(ids[i]) for i in order])
    for place, text in enumerate(order):
        torch.testing.assert_close(after[place], before[text], atol=1e-5, rtol=0)


# -- packing --------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.booleans())
def test_groups_tile_the_row_and_lose_nothing(lengths, by_length):
    ids = texts(sorted(lengths) if by_length else lengths)
    packed = pack(ids, first_position=2, types=segments(ids))
    assert packed.ids_T.tolist() == np.concatenate(ids).tolist()
    assert packed.types_T.tolist() == np.concatenate(segments(ids)).tolist()
    assert packed.positions_T.tolist() == [2 + i for row in ids for i in range(len(row))]
    assert packed.lengths_B.tolist() == [len(row) for row in ids]
    assert packed.owner_T.tolist() == [number for number, row in enumerate(ids) for _ in row]
    assert packed.positions_T[packed.starts_B].eq(2).all()

    end = text = 0
    for group in packed.groups:
        assert group.first == end
        end = group.last
        part = packed.ids_T[group.first : group.last]
        sizes = [len(row) for row in ids[text : text + group.batch]]
        assert (sum(sizes), max(sizes)) == (len(part), group.length)
        if group.real_t is None:
            assert set(sizes) == {group.length}
        else:
            cells = part[group.padded_BL].view(group.batch, group.length)
            real = group.bias_B1L[:, 0] == 0
            for row in range(group.batch):
                assert cells[row, real[row]].tolist() == ids[text + row].tolist()
            assert cells.flatten()[group.real_t].tolist() == part.tolist()
        text += group.batch
    assert (end, text) == (len(packed.ids_T), len(ids))


def test_padding_of_sorted_texts_is_bounded():
    lengths = np.sort(np.random.default_rng(0).integers(1, 200, 500))
    groups = pack(texts(list(lengths))).groups
    assert len(groups) > 3
    for group in groups:
        assert group.batch <= 8 or 1 - (group.last - group.first) / (group.batch * group.length) <= 0.3


def test_a_batch_moves_whole():
    ids = texts(RAGGED)
    packed = pack(ids, types=segments(ids))
    moved = packed.to("meta")
    assert packed.to("cpu") is packed
    tensors = [moved.ids_T, moved.positions_T, moved.lengths_B, moved.types_T, moved.starts_B]
    tensors += [t for g in moved.groups for t in (g.padded_BL, g.real_t, g.bias_B1L) if t is not None]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(tensors) > 6


# -- attention and dropout ------------------------------------------------------------------------------


class FixedMask(Dropout):
    """The same masks at each call, as numerical differentiation needs."""

    def mask(self, like, probability):
        self.restart(0)
        return super().mask(like, probability)


@pytest.mark.parametrize("dropout", [None, FixedMask(1)], ids=["plain", "dropout"])
@pytest.mark.parametrize("lengths", [[3, 3], [1, 2, 4]], ids=["equal", "padded"])
def test_attention_gradient_in_float64(lengths, dropout):
    packed = pack(texts(lengths))
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(sum(lengths), 4, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(3)
    ]
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, packed, 2, dropout, 0.3), inputs)


def test_attention_takes_gradients_of_any_layout():
    packed = pack(texts([2, 3, 5]))
    leaves = [torch.randn(10, 4, requires_grad=True) for _ in range(3)]
    weights = torch.randn(4, 10)
    out = attention(*leaves, packed, 2, None, 0.0)

    def grads(loss):
        return torch.autograd.grad(loss, leaves, retain_graph=True)

    torch.testing.assert_close(grads((out.t() * weights).sum()), grads((out * weights.t()).sum()))
    torch.testing.assert_close(grads(out.sum()), grads((out * torch.ones(10, 4)).sum()))


def test_backward_twice_gives_the_same_gradient():
    model, dropout = small(), Dropout(1)
    loss = model(pack(texts(RAGGED)), dropout).square().sum()
    first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    again = torch.autograd.grad(loss, list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


class EveryValue:
    """Bits that hold each 16-bit number once: sums over them are exact expectations."""

    def random_raw(self, count):
        assert count == 2**14
        return np.arange(2**16, dtype=np.uint16).view(np.uint64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.3, 0.5, 0.9])
def test_dropout_mask_has_mean_one(dtype, p):
    dropout = Dropout()
    dropout.bits = EveryValue()
    mask = dropout.mask(torch.empty(2**16, dtype=dtype), p)
    assert mask.dtype == dtype
    values = mask.double().unique().tolist()
    factor = float(torch.tensor(1 / (1 - p), dtype=dtype))
    assert values == ([0.0, factor] if p else [1.0])
    assert abs(float(mask.double().mean()) - 1) <= factor * 2**-16
    assert abs(float((mask == 0).double().mean()) - p) < (2**-15 if dtype == torch.float32 else 5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_rate_is_within_binomial_bounds(dtype):
    count, p = 200_001, 0.1
    mask = Dropout(5).mask(torch.empty(count, dtype=dtype), p)
    expected = 1 - 1 / float(mask.max())
    assert abs(int((mask == 0).sum()) - count * expected) < 5 * math.sqrt(count * p * (1 - p))
    # Neighbours fall independently of each other.
    both = int(((mask[1:] == 0) & (mask[:-1] == 0)).sum())
    assert abs(both - count * expected**2) < 6 * math.sqrt(count) * expected


def test_masks_follow_from_seed_and_step():
    like = torch.empty(1000)

    def masks(seed, step):
        dropout = Dropout(seed)
        dropout.mask(like, 0.5)  # what was drawn before a step does not matter
        dropout.restart(step)
        return [dropout.mask(like, 0.5) for _ in range(2)]

    once, again = masks(3, 7), masks(3, 7)
    assert torch.equal(once[0], again[0]) and torch.equal(once[1], again[1])
    assert not torch.equal(once[0], once[1])
    assert not torch.equal(once[0], masks(3, 8)[0])
    assert not torch.equal(once[0], masks(4, 7)[0])


def test_dropout_add_is_dropout_then_add():
    x, residual = torch.randn(2, 50, 8)
    dropped = x * Dropout(2).mask(x, 0.4)
    torch.testing.assert_close(dropout_add(x, residual, Dropout(2), 0.4), residual + dropped)
    assert torch.equal(dropout_add(x, residual, None, 0.4), residual + x)
    assert torch.equal(dropout_add(x, residual, Dropout(2), 0.0), residual + x)


@pytest.mark.parametrize(("hidden", "weights"), [(0.5, 0.0), (0.0, 0.5), (0.0, 0.0)])
def test_each_probability_has_its_place(hidden, weights):
    model = small(hidden_dropout_prob=hidden, attention_probs_dropout_prob=weights)
    packed = pack(texts(RAGGED))
    assert torch.allclose(model(packed, Dropout(0)), model(packed)) == (hidden == weights == 0)
    embedded = model.embeddings(packed, Dropout(0)), model.embeddings(packed, None)
    assert torch.equal(*embedded) == (hidden == 0)


# -- starting above the bottom, and checkpointing -------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("layers", [0, 2, 3])
def test_upper_layers_continue_where_lower_ones_stopped(layers, bf16):
    model, packed = small(), pack(texts(RAGGED))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden_TD = model.lower(packed, layers)
        assert not hidden_TD.requires_grad
        got = model(packed, first_layer=layers, hidden_TD=hidden_TD)
        assert torch.equal(got, model(packed))
    if layers < 3:
        moved = gradients(model, got.float().square().sum())
        assert {int(name.split(".")[2]) for name in moved} == set(range(layers, 3))


def test_starting_higher_needs_hidden_states():
    with pytest.raises(ValueError, match="first_layer=2"):
        small()(pack(texts(EQUAL)), first_layer=2)


@pytest.mark.parametrize("first_layer", [0, 1])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_checkpointing_changes_no_gradient(bf16, first_layer):
    model, packed = small(), pack(texts(RAGGED))
    start = {"first_layer": first_layer, "hidden_TD": model.lower(packed, first_layer)} if first_layer else {}

    def run(checkpointing):
        model.checkpointing = checkpointing
        dropout = Dropout(11)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(packed, dropout, **start).float().square().sum()
        after_forward = dropout.bits.random_raw(2).tolist()
        found = gradients(model, loss)
        return found, after_forward, dropout.bits.random_raw(2).tolist()

    plain, checkpointed = run(False), run(True)
    assert plain[0].keys() == checkpointed[0].keys()
    assert all(torch.equal(plain[0][name], checkpointed[0][name]) for name in plain[0])
    assert plain[1:] == checkpointed[1:]  # the stream of masks stands where it would have stood


def test_checkpointing_keeps_less():
    model, packed = small(), pack(texts(RAGGED))

    def kept(checkpointing):
        model.checkpointing, sizes = checkpointing, []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(packed, Dropout(0))
        return sum(sizes)

    model.eval()
    evaluating = kept(True)
    model.train()
    assert kept(True) < kept(False) / 3
    assert evaluating > kept(False) / 2  # not training: no checkpointing


# -- any model of transformers --------------------------------------------------------------------------

HUB = {
    "distilbert": DistilBertConfig(
        vocab_size=61, dim=16, n_layers=2, n_heads=4, hidden_dim=24, max_position_embeddings=40
    ),
    "electra": ElectraConfig(**TINY | {"embedding_size": 8, "num_hidden_layers": 2}),
    "modernbert": ModernBertConfig(
        **TINY | {"num_hidden_layers": 2, "local_attention": 8, "attention_dropout": 0.1, "mlp_dropout": 0.1},
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
    ),
    "deberta-v2": DebertaV2Config(
        **TINY
        | {"num_hidden_layers": 2, "type_vocab_size": 2, "relative_attention": True, "pad_token_id": 0},
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
    ),
    "mpnet": MPNetConfig(**TINY | {"num_hidden_layers": 2}),
}


@pytest.fixture(scope="module", params=list(HUB))
def saved(request, tmp_path_factory):
    """A folder with a random model of the architecture, and the model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    model = scattered(AutoModel.from_config(copy.deepcopy(HUB[request.param])))
    model.save_pretrained(folder)
    return folder, model, request.param


def test_hub_encoder_equals_the_model_itself(saved):
    folder, reference, name = saved
    encoder = HubEncoder.from_folder(folder)
    ids = texts(RAGGED)
    takes_types = name in ("electra", "deberta-v2")
    for types in (None, segments(ids)):
        got = encoder(pack(ids, types=types))
        wanted = one_by_one(reference, ids, types if takes_types else None)
        torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-5)
    assert encoder.takes_types == takes_types
    assert (encoder.hidden_size, encoder.num_hidden_layers, encoder.vocab_size) == (16, 2, 61)
    assert encoder.max_length == encoder.shape.max_length == {"mpnet": 38}.get(name, 40)
    wanted_names = {name for name in reference.state_dict() if not name.startswith("pooler.")}
    assert set(encoder.model.state_dict()) == wanted_names


def test_hub_encoder_drops_out_only_when_told(saved):
    folder, _, _ = saved
    encoder = HubEncoder.from_folder(folder).train()
    packed = pack(texts(RAGGED))
    torch.manual_seed(1)
    assert torch.equal(encoder(packed), encoder(packed))
    first, second = encoder(packed, Dropout()), encoder(packed, Dropout())
    assert not torch.equal(first, second)
    torch.manual_seed(4)
    once = encoder(packed, Dropout())
    torch.manual_seed(4)
    assert torch.equal(once, encoder(packed, Dropout()))


def test_hub_encoder_trains_all_its_parameters(saved):
    folder, _, architecture = saved
    encoder = HubEncoder.from_folder(folder)
    packed = pack(texts(RAGGED), types=segments(texts(RAGGED)))

    def run(checkpointing):
        encoder.checkpointing = checkpointing
        torch.manual_seed(2)
        return gradients(encoder, encoder(packed, Dropout()).square().sum())

    plain = run(False)
    assert plain.keys() == {name for name, _ in encoder.named_parameters()}
    if architecture == "mpnet":
        with pytest.raises(WeitiaoError, match="no gradient checkpointing"):
            run(True)
        return
    checkpointed = run(True)
    assert encoder.checkpointing
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_what_a_hub_encoder_saves_opens_again(saved, tmp_path):
    folder, _, _ = saved
    encoder, packed = HubEncoder.from_folder(folder), pack(texts(RAGGED))
    encoder.model.save_pretrained(tmp_path)
    assert torch.equal(HubEncoder.from_folder(tmp_path)(packed), encoder(packed))


def test_hub_encoder_takes_a_changed_config(saved):
    folder, _, _ = saved
    config = AutoConfig.from_pretrained(folder).to_dict()
    config |= {key: 0.0 for key in config if "dropout" in key and isinstance(config[key], float)}
    encoder = HubEncoder.from_folder(folder, config)
    packed = pack(texts(RAGGED))
    torch.testing.assert_close(encoder(packed, Dropout()), encoder(packed))


def test_hub_encoder_opens_half_precision_weights_in_fp32(tmp_path):
    AutoModel.from_config(HUB["distilbert"]).bfloat16().save_pretrained(tmp_path)
    encoder = HubEncoder.from_folder(tmp_path)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_hub_encoder_says_what_a_folder_lacks(tmp_path):
    with pytest.raises(WeitiaoError, match="Cannot open the model"):
        HubEncoder.from_folder(tmp_path)

    model = AutoModel.from_config(HUB["distilbert"])
    state = {name: t for name, t in model.state_dict().items() if "lin1.weight" not in name}
    model.save_pretrained(tmp_path / "part", state_dict=state)
    with pytest.raises(WeitiaoError, match=r"lacks the tensor transformer\.layer\.0\.ffn\.lin1\.weight"):
        HubEncoder.from_folder(tmp_path / "part")

    torch.save(model.state_dict(), tmp_path / "pickle.bin")
    (tmp_path / "pickled").mkdir()
    model.config.save_pretrained(tmp_path / "pickled")
    (tmp_path / "pickle.bin").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(WeitiaoError, match="safetensors"):
        HubEncoder.from_folder(tmp_path / "pickled")

    both = T5Config(vocab_size=61, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4)
    AutoModel.from_config(both).save_pretrained(tmp_path / "both")
    with pytest.raises(WeitiaoError, match="encoder-decoder"):
        HubEncoder.from_folder(tmp_path / "both")


@pytest.mark.parametrize("first_layer", [0, 1, 2])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_states_of_some_tokens_are_those_of_all(first_layer: int, checkpointing: bool):
    torch.manual_seed(0)
    encoder = Encoder(Shape(60, 32, 2, 2, 64, 64))
    encoder.checkpointing = checkpointing
    packed = pack([np.arange(n) for n in (3, 9, 12)])
    start = (
        {"first_layer": first_layer, "hidden_TD": encoder.lower(packed, first_layer)} if first_layer else {}
    )
    rows = torch.tensor([0, 3, 5, 23])
    some, whole = encoder(packed, rows_R=rows, **start), encoder(packed, **start)
    assert some.shape == (4, 32)
    assert torch.allclose(some, whole[rows], atol=1e-6)
