"""The decoder against ``transformers``: logits, gradients, a cache with rows of their own lengths, folders both ways."""

from pathlib import Path

import numpy as np
import pytest
import torch
from decoders import save_llama
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from weitiao.core.errors import WeitiaoError
from weitiao.models import causal
from weitiao.models.decoder import Decoder, open_decoder
from weitiao.models.packed import pack

LENGTHS = [3, 5, 17, 17, 40]


@pytest.fixture(scope="module", params=["llama", "untied", "qwen2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoder") / request.param
    if request.param != "qwen2":
        return save_llama(path, tie_word_embeddings=request.param == "llama")
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=200, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=300, initializer_range=0.25, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(path)
    return path


def theirs(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def texts(lengths: list[int] = LENGTHS, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(3, 200, length) for length in lengths]


def test_logits_and_gradients_are_those_of_transformers(folder: Path):
    ours, reference, ids = open_decoder(folder), theirs(folder), texts()
    logits = ours.logits(ours(pack(ids)))
    one_by_one = [reference(torch.from_numpy(row)[None]).logits[0] for row in ids]
    assert (logits - torch.cat(one_by_one)).abs().max() < 1e-5 * logits.abs().max()
    target = torch.from_numpy(np.concatenate(ids))
    F.cross_entropy(logits, target).backward()
    F.cross_entropy(torch.cat(one_by_one), target).backward()
    gradients = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = gradients[name].grad
        assert (parameter.grad - expected).abs().max() < 1e-4 * expected.abs().max(), name


def test_a_text_sees_neither_its_neighbours_nor_what_comes_later(folder: Path):
    ours, ids = open_decoder(folder).eval(), texts()
    before = ours(pack(ids))
    ids[3] = ids[3].copy()
    ids[3][10:] = 7
    changed = (ours(pack(ids)) != before).any(1).nonzero().flatten()
    start = sum(LENGTHS[:3])
    assert changed.tolist() == list(range(start + 10, start + 17))


def test_a_whole_text_in_blocks_of_queries_is_one_softmax(monkeypatch: pytest.MonkeyPatch):
    ids, size, heads = [np.full(n, 5) for n in (9, 30, 33)], 32, 2
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(72, size, generator=generator, dtype=torch.float64).requires_grad_() for _ in "qkv"
    )
    monkeypatch.setattr(causal, "BLOCK", 8)
    assert torch.autograd.gradcheck(
        lambda *x: causal.attention(*x, pack(ids), heads)[60:], (q, k, v), fast_mode=True
    )
    out, parts = causal.attention(q, k, v, pack(ids), heads), []
    for text in torch.stack([q, k, v], 1).split([9, 30, 33]):
        own = text.view(len(text), 3, heads, -1).permute(1, 2, 0, 3)
        parts.append(F.scaled_dot_product_attention(*own, is_causal=True).transpose(0, 1).flatten(1))
    torch.testing.assert_close(out, torch.cat(parts))


def test_norm_and_rotation_have_the_gradients_of_their_formulas():
    x = torch.randn(5, 3, 8, dtype=torch.float64, requires_grad=True)
    angles = torch.randn(5, 1, 4, dtype=torch.float64)
    norm = causal.RmsNorm(8, 1e-6).double()
    torch.nn.init.normal_(norm.weight)
    assert torch.autograd.gradcheck(lambda x: causal.rotate(x, angles.cos(), angles.sin()), (x,))
    assert torch.autograd.gradcheck(lambda x, w: causal._RmsNorm.apply(x, w, 1e-6), (x, norm.weight))
    torch.testing.assert_close(norm(x), F.rms_norm(x, (8,), norm.weight, 1e-6))


@settings(max_examples=15)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 4), st.integers(0, 5))
def test_the_cache_gives_what_whole_texts_give(tmp_path_factory, lengths: list[int], more: int, seed: int):
    """Prompts of different lengths side by side, then further tokens of each, several at a time."""
    torch.manual_seed(seed)
    ours = Decoder(open_decoder(_small(tmp_path_factory)).config | {"initializer_range": 0.25}).eval()
    whole = texts([n + 2 * more for n in lengths], seed)
    expected = [ours(pack([row])) for row in whole]
    cache, longest = ours.new_cache(len(lengths), max(lengths) + 3 * more), max(lengths)
    prompt = torch.tensor([[*row[:n], *[0] * (longest - n)] for row, n in zip(whole, lengths, strict=True)])
    first = ours.step(prompt, cache, torch.tensor(lengths))
    for row, states, n in zip(first, expected, lengths, strict=True):
        torch.testing.assert_close(row[:n], states[:n], atol=2e-5, rtol=1e-4)
    for part in range(2):
        places = [slice(n + part * more, n + (part + 1) * more) for n in lengths]
        new = torch.tensor(np.stack([row[place] for row, place in zip(whole, places, strict=True)]))
        states = ours.read(None, cache, inputs_BLD=ours.embed(new))
        for row, own, place in zip(states, expected, places, strict=True):
            torch.testing.assert_close(row, own[place], atol=2e-5, rtol=1e-4)
    cache.select(torch.tensor([0]))
    assert cache.lengths_B.tolist() == [lengths[0] + 2 * more]


_FOLDERS: dict[str, Path] = {}


def _small(factory: pytest.TempPathFactory) -> Path:
    if "small" not in _FOLDERS:
        _FOLDERS["small"] = save_llama(factory.mktemp("small") / "llama")
    return _FOLDERS["small"]


def test_a_full_cache_is_refused(tmp_path_factory):
    ours = open_decoder(_small(tmp_path_factory))
    with pytest.raises(ValueError, match="2 \\+ 3 tokens do not fit a cache of 4"):
        cache = ours.new_cache(1, 4)
        ours.step(torch.tensor([[3, 4]]), cache)
        ours.step(torch.tensor([[3, 4, 5]]), cache)


def test_only_the_wanted_rows_and_recomputed_layers_change_nothing(tmp_path_factory):
    ours, packed = open_decoder(_small(tmp_path_factory)).train(), pack(texts())
    rows = torch.tensor([0, 4, 30, 81])
    whole, some = ours(packed), ours(packed, rows_R=rows)
    torch.testing.assert_close(some, whole[rows])
    whole.square().sum().backward()
    kept = [p.grad.clone() for p in ours.parameters()]
    ours.zero_grad()
    ours.checkpointing = True
    ours(packed, inputs_TD=ours.embed(packed.ids_T)).square().sum().backward()
    for grad, parameter in zip(kept, ours.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_a_new_decoder_is_saved_so_that_transformers_opens_it(tmp_path: Path, folder: Path):
    torch.manual_seed(0)
    ours = Decoder(open_decoder(folder).config)
    (tmp_path / "model").mkdir()
    ours.save(tmp_path / "model")
    ids = texts([12])
    theirs_ = theirs(tmp_path / "model")(torch.from_numpy(ids[0])[None]).logits[0]
    torch.testing.assert_close(ours.logits(ours(pack(ids))), theirs_, atol=1e-5, rtol=1e-4)
    again = open_decoder(tmp_path / "model").state_dict()
    assert all(torch.equal(again[name], value) for name, value in ours.state_dict().items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope yarn"),
        ({"model_type": "gpt2"}, "model_type gpt2"),
        ({"mlp_bias": True}, "biases"),
    ],
)
def test_what_is_not_computed_here_is_refused(tmp_path_factory, change: dict, named: str):
    config = open_decoder(_small(tmp_path_factory)).config
    with pytest.raises(WeitiaoError, match=named):
        Decoder(config | change)


def test_a_missing_tensor_is_named(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    save_llama(tmp_path / "broken")
    path = tmp_path / "broken" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path)
    with pytest.raises(WeitiaoError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        open_decoder(tmp_path / "broken")
