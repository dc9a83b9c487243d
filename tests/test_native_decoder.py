"""A decoder's kernels in C against torch: the same numbers, gradients included, for odd lengths and shared keys."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from weitiao.models import fused_decoder, native, native_decoder
from weitiao.models.causal import RmsNorm, rotate
from weitiao.models.decoder import Decoder
from weitiao.models.language_head import LanguageHead
from weitiao.models.packed import pack
from weitiao.models.sizes import decoder_config

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler, or no AVX-512 BF16")

LENGTHS = ([1], [1, 2, 15], [16, 17], [31, 33, 40], [8, 86, 130], [300])


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """To bf16's precision: two roundings of the largest value."""
    assert torch.isfinite(ours).all()
    assert (ours.float() - theirs).abs().max() <= 2**-6 * theirs.abs().max().clamp(min=0.1)


def angles(packed, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    rates = 100.0 ** -(torch.arange(0, d, 2) / d)
    turns = packed.positions_T.unsqueeze(1) * rates
    return turns.cos().unsqueeze(1), turns.sin().unsqueeze(1)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("heads", "shared", "d"), [(4, 4, 32), (6, 2, 64), (3, 1, 32)])
def test_causal_attention_and_its_gradient(lengths: list[int], heads: int, shared: int, d: int):
    packed, tokens = pack([np.full(length, 5) for length in lengths]), sum(lengths)
    turns = angles(packed, d)
    x = normal(tokens, (heads + 2 * shared) * d).requires_grad_()
    grad = normal(tokens, heads * d, seed=1)
    out = fused_decoder.attention(x, turns, packed, heads, shared)
    out.backward(grad)
    wide = x.detach().float().requires_grad_()
    q, k, v = wide.view(tokens, -1, d).split([heads, shared, shared], 1)
    q, k = rotate(q, *turns), rotate(k, *turns)
    k, v = (part.repeat_interleave(heads // shared, 1) for part in (k, v))
    texts = zip(*(part.split(lengths) for part in (q, k, v)), strict=True)
    rows = [
        F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in text), is_causal=True)
        .transpose(0, 1).flatten(1) for text in texts
    ]  # fmt: skip
    reference = torch.cat(rows)
    reference.backward(grad.float())
    close(out, reference.detach())
    close(x.grad, wide.grad)


def test_no_token_sees_a_later_one():
    packed = pack([np.full(70, 5)])
    turns = angles(packed, 32)
    x = normal(70, 3 * 32)
    before = fused_decoder.attention(x, turns, packed, 1, 1)
    x[41:] = 9.0
    after = fused_decoder.attention(x, turns, packed, 1, 1)
    assert torch.equal(before[:41], after[:41]) and not torch.equal(before[41:], after[41:])


@pytest.mark.parametrize("size", [32, 320])
def test_rms_norm_of_a_sum_and_its_gradients(size: int):
    norm = RmsNorm(size, 1e-5)
    torch.nn.init.normal_(norm.weight, 1.0, 0.3)
    parts = [normal(37, size, seed=seed).requires_grad_() for seed in (1, 2)]
    grads = [normal(37, size, seed=seed) for seed in (3, 4)]
    torch.autograd.backward(norm.after(*parts), grads)
    mine = [parts[0].grad, parts[1].grad, norm.weight.grad.clone()]
    norm.zero_grad()
    wide = [part.detach().float().requires_grad_() for part in parts]
    total = wide[0] + wide[1]
    torch.autograd.backward(
        (total, F.rms_norm(total, (size,), norm.weight, 1e-5)), [g.float() for g in grads]
    )
    for ours, theirs in zip(mine, [wide[0].grad, wide[1].grad, norm.weight.grad], strict=True):
        close(ours, theirs)
    alone = normal(37, size, seed=1)
    close(norm(alone), F.rms_norm(alone.float(), (size,), norm.weight, 1e-5).detach())


def test_swiglu_and_its_gradient():
    x, grad = (4 * normal(9, 2 * 96)).requires_grad_(), normal(9, 96, seed=1)
    out = fused_decoder.swiglu(x)
    out.backward(grad)
    wide = x.detach().float().requires_grad_()
    gate, up = wide.chunk(2, 1)
    reference = F.silu(gate) * up
    reference.backward(grad.float())
    close(out, reference.detach())
    close(x.grad, wide.grad)


@pytest.mark.parametrize("pieces", [1, 16, 1000, 4099])
def test_softmax_gives_the_loss_and_its_gradient(pieces: int):
    logits = 3 * normal(5, pieces)
    targets = torch.arange(5) % pieces
    wide = logits.float().requires_grad_()
    reference = F.cross_entropy(wide, targets, reduction="none")
    reference.sum().backward()
    losses = native_decoder.softmax_gradient(logits, targets)
    torch.testing.assert_close(losses, reference.detach(), atol=1e-5, rtol=1e-5)
    close(logits, wide.grad)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_decoder_trains_alike_with_and_without(monkeypatch, checkpointing: bool):
    """The kernels against torch's operations in bf16: both stay near fp32's gradients, and as near as each other."""
    config = decoder_config("tiny", 90, 64, {}) | {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
    }
    torch.manual_seed(1)
    model = Decoder(config)
    head = LanguageHead(lambda: model.output_VD)
    model.checkpointing = checkpointing
    random = np.random.default_rng(0)
    packed = pack([random.integers(0, 90, n) for n in (5, 20, 33)])
    targets = torch.from_numpy(random.integers(0, 90, 58))

    def gradients(low: bool) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            states = model(packed)
        loss = head.loss_sum(states, targets)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])

    exact, ours = gradients(False), gradients(True)
    monkeypatch.setattr(native, "library", lambda: None)
    torchs = gradients(True)
    size = exact[1].norm()
    assert ours[0] == pytest.approx(exact[0], rel=2e-3)
    assert (ours[1] - exact[1]).norm() < 0.03 * size
    assert (ours[1] - exact[1]).norm() < 1.5 * (torchs[1] - exact[1]).norm()
