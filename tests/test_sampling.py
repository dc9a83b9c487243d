"""Choosing tokens as ``transformers`` does, and text that grows without half a character or half a stop text."""

import numpy as np
import pytest
import torch
from decoders import SPECIAL, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from weitiao.core.errors import WeitiaoError
from weitiao.generation.sampling import REPLACEMENT, Detokenizer, Sampler, Sampling, Stops, candidates

TOKENIZER = byte_tokenizer()
SIZE = TOKENIZER.get_vocab_size()
IDS = st.lists(st.integers(0, SIZE - 1), max_size=40)
SETTINGS = {
    "temperature": st.floats(0.1, 5),
    "top_k": st.integers(0, 60),
    "top_p": st.floats(0.01, 1),
    "min_p": st.floats(0, 1),
}


@given(seed=st.integers(0, 999), width=st.floats(0.1, 10), **SETTINGS)
def test_what_the_filters_leave_is_what_transformers_leaves(seed, width, temperature, top_k, top_p, min_p):
    logits = np.random.default_rng(seed).normal(0, width, 50).astype(np.float32)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    ids, probabilities = candidates(logits, sampling)
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    steps = [TemperatureLogitsWarper(temperature)]
    steps += [TopKLogitsWarper(top_k)] if top_k else []
    steps += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    steps += [MinPLogitsWarper(min_p)] if min_p else []
    for step in steps:
        scores = step(None, scores)
    theirs = torch.softmax(scores, -1)[0].numpy()
    ours = np.zeros(50)
    ours[ids] = probabilities
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@given(logits=st.lists(st.floats(-50, 50, width=32), min_size=5, max_size=5), penalty=st.floats(0.2, 4))
def test_the_repetition_penalty_is_that_of_transformers(logits, penalty):
    ours = np.array(logits, np.float32)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([[1, 3, 3]]), torch.tensor([logits]))
    Sampler(Sampling(repetition_penalty=penalty), [1, 3, 3]).pick(ours)
    np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=1e-5)


def test_what_was_picked_is_penalised_next():
    sampler = Sampler(Sampling(repetition_penalty=100))
    assert [sampler.pick(np.array([3, 2, 1], np.float32)) for _ in range(3)] == [0, 1, 2]


@given(seed=st.integers(0, 999), temperature=st.floats(0.1, 3))
def test_the_likeliest_is_always_a_candidate_and_greedy_picks_it(seed, temperature):
    logits = np.random.default_rng(seed).normal(0, 3, 200).astype(np.float32)
    best = int(logits.argmax())
    for narrow in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
        assert Sampler(Sampling(temperature=temperature, **narrow)).pick(logits.copy()) == best
    assert Sampler(Sampling()).pick(logits) == best


def test_tokens_come_as_often_as_they_are_likely():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(Sampling(temperature=1.0, seed=1))
    counts = np.bincount([sampler.pick(logits.copy()) for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(counts, np.exp(logits), atol=0.015)  # four standard deviations


@pytest.mark.parametrize("bad", [
    {"max_new_tokens": 0}, {"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": float("inf")},
    {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": -0.1}, {"min_p": 2}, {"repetition_penalty": 0},
    {"stop": [""]}, {"stop": [3]}, {"seed": -1},
])  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(bad):
    (name,) = bad
    with pytest.raises(WeitiaoError, match=name):
        Sampling(**bad)


def test_one_stop_text_may_stand_alone():
    assert Sampling(stop="END").stop == ("END",)


# --- text from tokens


def grown(ids: list[int]) -> list[str]:
    text = Detokenizer(TOKENIZER)
    return [*(text.push(token) for token in ids), text.flush()]


@given(text=st.text(max_size=30))
def test_any_text_comes_out_again_and_never_half_a_character(text):
    pieces = grown(TOKENIZER.encode(text).ids)
    assert "".join(pieces) == text
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in pieces)


@given(ids=IDS)
def test_any_tokens_give_the_text_that_decoding_them_at_once_gives(ids):
    assert "".join(grown(ids)) == TOKENIZER.decode(ids, skip_special_tokens=True)


def test_a_character_comes_with_its_last_token():
    ids = TOKENIZER.encode("a中b").ids
    assert len(ids) > 3
    pieces = grown(ids)
    assert pieces[0] == "a"
    assert [piece for piece in pieces if piece] == ["a", "中", "b"]


def test_special_tokens_leave_no_text():
    ids = [*TOKENIZER.encode("x").ids, SPECIAL.index("<|im_end|>"), *TOKENIZER.encode("y").ids]
    assert "".join(grown(ids)) == "xy"


def test_a_leading_space_is_kept_between_words_of_a_metaspace_tokenizer():
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.Unigram([("▁the", -1.0), ("▁end", -1.0), ("s", -2.0)]))
    tokenizer.decoder = decoders.Metaspace()
    text = Detokenizer(tokenizer)
    assert [text.push(token) for token in (0, 1, 2, 0)] == ["the", " end", "s", " the"]


# --- stop texts

WORDS = st.text("ab.", max_size=8)


@given(pieces=st.lists(WORDS, max_size=12), stops=st.lists(WORDS.filter(len), max_size=3))
def test_what_is_shown_is_the_text_before_the_first_stop(pieces, stops):
    gate, shown, whole = Stops(stops), "", "".join(pieces)
    for piece in pieces:
        shown += gate.push(piece)
        assert whole.startswith(shown)
        assert not any(stop in shown for stop in stops)
    shown += gate.flush()
    assert gate.hit == any(stop in whole for stop in stops)
    if gate.hit:
        assert any(whole[len(shown) :].startswith(stop) for stop in stops)
    else:
        assert shown == whole


def test_text_that_cannot_become_a_stop_is_shown_at_once():
    gate = Stops(["END"])
    assert gate.push("abc") == "abc"
    assert gate.push("E") == ""
    assert gate.push("N") == ""
    assert gate.push("x") == "ENx"
    assert gate.push("yEND and more") == "y"
    assert (gate.hit, gate.push("z"), gate.flush()) == (True, "", "")
