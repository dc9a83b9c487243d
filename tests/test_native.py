"""The kernels in C against torch: the same numbers, gradients included, for every length and head size."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weitiao.models import fused, native
from weitiao.models.encoder import Encoder, Shape
from weitiao.models.kernels import Dropout
from weitiao.models.packed import pack

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler, or no AVX-512 BF16")

LENGTHS = ([1], [1, 2, 15], [16, 17], [31, 33, 40], [8, 86, 130], [300])


def packed_of(lengths: list[int]):
    return pack([np.full(length, 5) for length in lengths])


def random_qkv(tokens: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, 3 * size, generator=torch.Generator().manual_seed(seed)).bfloat16()


def attention_in_fp32(qkv: torch.Tensor, lengths: list[int], heads: int) -> torch.Tensor:
    """Text by text, in torch's own words."""
    parts = []
    for text in qkv.split(lengths):
        q, k, v = (x.view(len(text), heads, -1).transpose(0, 1) for x in text.chunk(3, 1))
        parts.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1))
    return torch.cat(parts)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """To bf16's precision: two roundings of the largest value."""
    assert torch.isfinite(ours).all()
    assert (ours.float() - theirs).abs().max() <= 2**-6 * theirs.abs().max()


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("head", [32, 64, 96])
def test_attention_and_its_gradient(lengths: list[int], head: int):
    heads, size = 3, 3 * head
    qkv = random_qkv(sum(lengths), size).requires_grad_()
    grad = torch.randn(sum(lengths), size, generator=torch.Generator().manual_seed(1)).bfloat16()
    out = fused.attention(qkv, packed_of(lengths), heads, None, 0.1)
    out.backward(grad)
    wide = qkv.detach().float().requires_grad_()
    reference = attention_in_fp32(wide, lengths, heads)
    reference.backward(grad.float())
    close(out, reference)
    for ours, theirs in zip(qkv.grad.chunk(3, 1), wide.grad.chunk(3, 1), strict=True):
        # The gradient of a lone token's query and key is exactly zero; ours is what two roundings leave of it.
        assert (ours.float() - theirs).abs().max() <= 2**-6 * wide.grad.abs().max()


def test_attention_drops_as_many_weights_as_asked_and_its_gradient_knows_which():
    length, size, p = 32, 32, 0.25
    qkv = random_qkv(length, size)
    qkv[:, 2 * size :] = torch.eye(length)  # the output then shows the attention weights themselves
    qkv.requires_grad_()
    dropout, rates = Dropout(3), []
    for _ in range(20):
        shown = fused.attention(qkv, packed_of([length]), 1, dropout, p)
        rates.append((shown == 0).float().mean().item())
    assert np.mean(rates) == pytest.approx(p, abs=0.01)
    kept = (shown != 0).float() / (1 - p)
    grad = random_qkv(length, size, 5)[:, :size]
    shown.backward(grad)
    wide = qkv.detach().float().requires_grad_()
    q, k, v = wide.chunk(3, 1)
    (torch.softmax(q @ k.t() / size**0.5, -1) * kept @ v).backward(grad.float())
    close(qkv.grad, wide.grad)


def test_masks_differ_by_call_head_and_text_but_repeat_from_the_same_state():
    heads, lengths = 2, [32, 32]
    qkv = random_qkv(64, 64)
    qkv[:, 128:] = torch.eye(32).repeat(2, 2)
    drop = Dropout(1)
    state = drop.bits.state
    first, second = (fused.attention(qkv, packed_of(lengths), heads, drop, 0.5) != 0 for _ in range(2))
    with drop.replay(state):
        again = fused.attention(qkv, packed_of(lengths), heads, drop, 0.5) != 0
    assert torch.equal(first, again)
    masks = [first[:32, :32], first[:32, 32:], first[32:, :32], first[32:, 32:], second[:32, :32]]
    for a, b in itertools.combinations(masks, 2):
        assert 0.4 < (a == b).float().mean() < 0.6, "two masks are not independent"


@pytest.mark.parametrize("size", [32, 384, 768])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_add_norm_and_its_gradients(size: int, p: float):
    tokens, eps = 37, 1e-12
    make = torch.Generator().manual_seed(2)
    x, residual, grad = (torch.randn(tokens, size, generator=make).bfloat16() for _ in range(3))
    norm = nn.LayerNorm(size, eps=eps)
    nn.init.normal_(norm.weight, 1.0, 0.2)
    nn.init.normal_(norm.bias)
    kept = torch.ones(tokens, size)
    if p:  # of a positive x without residual and norm, those that stay come out above the mean
        ones = torch.ones(tokens, size).bfloat16()
        kept = (fused.add_norm(nn.LayerNorm(size), ones, 0 * ones, Dropout(4), p) > 0).float() / (1 - p)
        assert (kept > 0).float().mean() == pytest.approx(1 - p, abs=0.05)
    x.requires_grad_(), residual.requires_grad_()
    out = fused.add_norm(norm, x, residual, Dropout(4), p)
    out.backward(grad)
    mine = [out, x.grad, residual.grad, norm.weight.grad.clone(), norm.bias.grad.clone()]
    norm.zero_grad()
    wide = [t.detach().float().requires_grad_() for t in (x, residual)]
    reference = norm(wide[1] + wide[0] * kept)
    reference.backward(grad.float())
    for ours, theirs in zip(
        mine, [reference, *(t.grad for t in wide), norm.weight.grad, norm.bias.grad], strict=True
    ):
        close(ours, theirs)


def test_column_sums():
    x = torch.randn(1001, 48).bfloat16()
    assert torch.allclose(native.column_sums(x), x.float().sum(0), atol=1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_encoder_trains_alike_with_and_without(monkeypatch, checkpointing: bool):
    shape = Shape(60, 64, 2, 2, 128, 64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(0)
    encoder = Encoder(shape)
    encoder.checkpointing = checkpointing
    packed, weights = pack([np.arange(n) for n in (3, 20, 41)]), torch.randn(64, 64)

    def gradients() -> list[torch.Tensor]:
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            hidden = encoder(packed, Dropout(0))
        (hidden.float() * weights).sum().backward()
        return [p.grad.clone() for p in encoder.parameters() if p.grad is not None]

    mine = gradients()
    monkeypatch.setattr(native, "library", lambda: None)
    theirs = gradients()
    # A key's bias has no gradient (softmax does not see it); what is computed there is rounding.
    largest = max(other.norm() for other in theirs)
    for ours, other in zip(mine, theirs, strict=True):
        assert (ours - other).norm() <= 0.05 * other.norm() + 2e-3 * largest


def test_checkpointing_draws_the_same_masks():
    shape = Shape(60, 64, 2, 2, 128, 64, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    torch.manual_seed(0)
    encoder, weights, found = Encoder(shape), torch.randn(64, 64), []
    for checkpointing in (False, True):
        encoder.checkpointing = checkpointing
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            hidden = encoder(pack([np.arange(n) for n in (3, 20, 41)]), Dropout(7))
        (hidden.float() * weights).sum().backward()
        found.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert all(map(torch.equal, *found))


def test_without_a_compiler_torch_does_the_work(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    assert not fused.usable(torch.zeros(2, 64).bfloat16(), 2)


def test_wrapped_layers_are_called_one_by_one():
    x = torch.randn(4, 32)
    layers = [nn.Linear(32, 32) for _ in range(3)]
    assert torch.equal(fused.joined(layers, x), torch.cat([layer(x) for layer in layers], 1))
