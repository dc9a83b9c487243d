"""Writing in torch against ``transformers.generate``: one text, batches, beams; and constraints on both engines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import save_llama
from transformers import AutoModelForCausalLM

from weitiao.core.errors import WeitiaoError
from weitiao.generation.beams import search
from weitiao.generation.constraints import Vocabulary, constraint
from weitiao.generation.sampling import Sampling
from weitiao.generation.writing import Writing, stream, write
from weitiao.models.decoder import open_decoder
from weitiao.models.decoding import Decoding
from weitiao.tasks._prompts import open_prompts

PROMPTS = ["the end", "机器学习 is", "a b c " * 30, "x"]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def folder(request, tmp_path_factory) -> Path:
    made = save_llama(tmp_path_factory.mktemp("model") / "llama")
    if request.param == "llama":
        return made
    from transformers import AutoConfig, Qwen2Config, Qwen2ForCausalLM

    old = AutoConfig.from_pretrained(made).to_dict()
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "bos_token_id", "eos_token_id", "initializer_range")  # fmt: skip
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(Qwen2Config(**{key: old[key] for key in keys}, tie_word_embeddings=False))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def decoding(folder: Path) -> Decoding:
    return Decoding(open_decoder(folder))


@pytest.fixture(scope="module")
def ids(folder: Path) -> list[list[int]]:
    prompts = open_prompts(folder)
    return [prompts.encode(prompt) for prompt in PROMPTS]


def theirs(reference: Any, ids: list[int], count: int, **how: Any) -> list[int]:
    given = torch.tensor([ids])
    made = reference.generate(
        given,
        attention_mask=torch.ones_like(given),
        do_sample=False,
        max_new_tokens=count,
        pad_token_id=0,
        **how,
    )
    return made[0, len(ids) :].tolist()


def test_a_batch_of_uneven_prompts_is_written_as_transformers_writes_each(folder, reference, decoding, ids):
    tokenizer = open_prompts(folder).tokenizer
    writings = [Writing(tokenizer, one, Sampling(20), frozenset(), 20) for one in ids]
    found = write(decoding, ids, writings)
    assert [one.ids for one in found] == [theirs(reference, one, 20, eos_token_id=None) for one in ids]
    assert {one.reason for one in found} == {"length"}
    assert len(set(found[0].ids)) > 3, "a model that repeats one token tests nothing"


def test_texts_that_end_leave_the_batch_and_the_others_go_on(folder, reference, decoding, ids):
    tokenizer = open_prompts(folder).tokenizer
    ends = {theirs(reference, ids[0], 6, eos_token_id=None)[-1]}
    wanted = [theirs(reference, one, 16, eos_token_id=list(ends)) for one in ids]
    found = write(decoding, ids, [Writing(tokenizer, one, Sampling(16), ends, 16) for one in ids])
    assert [one.ids for one in found] == [[t for t in one if t not in ends] for one in wanted]
    assert found[0].reason == "end" and any(one.reason == "length" for one in found)


def test_scores_of_a_long_prompt_read_in_stretches(reference, decoding):
    ids = np.random.default_rng(0).integers(3, 200, 700).tolist()
    with torch.inference_mode():
        wanted = reference(torch.tensor([ids])).logits[0, -1].numpy()
    np.testing.assert_allclose(decoding.read([ids], 1)[0], wanted, atol=2e-3)


@pytest.mark.parametrize("penalty", [1.0, 0.4])
def test_beams_are_those_of_transformers(reference, decoding, ids, penalty):
    end = theirs(reference, ids[0], 3, eos_token_id=None)[-1]
    for prompt in ids[:3]:
        wanted = theirs(reference, prompt, 12, num_beams=4, length_penalty=penalty, eos_token_id=end)
        found = search(decoding, prompt, beams=4, most=12, ends={end}, length_penalty=penalty)
        assert found[0][0] == [token for token in wanted if token != end]
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_a_seed_gives_the_same_text_and_another_seed_another(folder, decoding, ids):
    tokenizer = open_prompts(folder).tokenizer

    def text(seed: int) -> str:
        return "".join(
            stream(decoding, ids[0], Writing(tokenizer, ids[0], Sampling(20, 1.5, seed=seed), (), 20))
        )

    assert text(1) == text(1) != text(2)


def test_a_constraint_holds_in_torch(folder, decoding, ids):
    prompts = open_prompts(folder)
    vocabulary = Vocabulary(prompts.tokenizer, decoding.vocabulary_size)
    pattern = constraint(
        vocabulary, prompts.ends, schema={"properties": {"n": {"type": "integer"}}, "required": ["n"]}
    )
    writings = [
        Writing(prompts.tokenizer, one, Sampling(60, 1.0, seed=3), prompts.ends, 60, pattern.start())
        for one in ids
    ]
    for one in write(decoding, ids, writings):
        assert one.text.startswith('{"n":')


def test_what_lora_adds_is_written_with(folder, reference):
    from peft import LoraConfig, inject_adapter_in_model

    decoder = open_decoder(folder)
    for use_dora in (False, True):
        config = LoraConfig(
            r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, use_dora=use_dora
        )
        adapted = inject_adapter_in_model(config, open_decoder(folder)).eval()
        cache = adapted.new_cache(1, 8)
        wanted = adapted.logits(adapted.step(torch.tensor([[5, 6, 7]]), cache))[0, -1]
        found = Decoding(adapted).read([[5, 6, 7]], 1)[0]
        np.testing.assert_allclose(found, wanted.detach().numpy(), atol=1e-4)
        assert np.abs(found - Decoding(decoder).read([[5, 6, 7]], 1)[0]).max() > 0.01


def test_a_prompt_without_room_is_refused(folder):
    prompts = open_prompts(folder)
    with pytest.raises(WeitiaoError, match="1 to 1,199"):
        prompts.check_room([1] * 1200, 1200)
