"""In-context classification: the scores are transformers' own, calibrated; the demonstrations are saved with the model."""

import numpy as np
import pytest
import torch

import weitiao
from weitiao.core.errors import WeitiaoError
from weitiao.data.cloze import word_ids
from weitiao.data.encode import load_tokenizer

WORDS = {"yes": "good", "no": "bad"}


@pytest.fixture(scope="module")
def llama(tiny_model, tmp_path_factory):
    """A random Llama with the tiny model's vocabulary, and its tokenizer without special tokens."""
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama") / "model"
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def rows(count: int = 6) -> list[dict]:
    return [
        {"text": f"the {('good', 'bad')[n % 2]} card {n}", "label": ("yes", "no")[n % 2]}
        for n in range(count)
    ]


@pytest.fixture
def train(llama, tmp_path):
    def run(**settings):
        fixed = {"model": str(llama), "precision": "fp32", "threads": 1, "few_shot": "in-context"}
        fixed |= {"verbaliser": WORDS, "max_length": 256, "test_data": rows()}
        if "few_shot" not in settings:
            fixed["demonstrations"] = 4
        return weitiao.finetune(rows(), output=tmp_path / "run", show=False, **(fixed | settings))

    return run


def test_the_scores_are_those_of_transformers_with_the_empty_answer_divided_out(train, llama):
    from transformers import LlamaForCausalLM

    run = train()
    template = run.description["task_options"]["template"]
    assert template.count("Label:") == 5, "four demonstrations and the question"
    assert template.count("Label: good\n") == template.count("Label: bad\n") == 2
    model, tokenizer = LlamaForCausalLM.from_pretrained(llama).eval(), load_tokenizer(llama)
    ids = [tokenizer.token_to_id(word) for word in ("bad", "good")]  # no, yes

    def chances(text: str) -> np.ndarray:
        prompt = tokenizer.encode(template.replace("{text}", text)).ids
        with torch.no_grad():
            return model(torch.tensor([prompt])).logits[0, -1, ids].softmax(-1).double().numpy()

    empty = np.mean([chances(text) for text in ("N/A", "", "[MASK]")], 0)
    asked = chances("my card") / empty
    (answer,) = run.predict(["my card"])
    expected = dict(zip(("no", "yes"), asked / asked.sum(), strict=True))
    assert answer["score"] == pytest.approx(expected[answer["label"]], abs=1e-4)
    assert answer["score"] == pytest.approx(max(expected.values()), abs=1e-4)
    assert run.metrics["engagement"]["moved"], "the calibration moved the head"
    assert weitiao.load(run.folder).predict(["my card"]) == [answer]


def test_words_that_begin_alike_are_refused_before_anything_is_read(train, tmp_path):
    with pytest.raises(WeitiaoError, match="the words of 'no' and 'yes' begin with the same token"):
        train(verbaliser={"yes": "good", "no": "good bank"})
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_prompt_without_room_for_a_text_says_so(train):
    with pytest.raises(WeitiaoError, match=r"The prompt alone has \d+ tokens and max_length is 16"):
        train(max_length=16)


def test_the_right_kind_of_model_is_asked_for(train, tiny_model):
    with pytest.raises(WeitiaoError, match="it needs a model that writes on"):
        train(model=str(tiny_model), max_length=32)
    with pytest.raises(WeitiaoError, match="it is for encoders"):
        train(few_shot="contrastive")


def test_auto_takes_it_where_the_model_writes_on(train):
    run = train(few_shot="auto")
    assert any(e.get("text", "").startswith("Few-shot method: in_context") for e in run.events)


def test_a_bundle_cannot_hold_it(train, tmp_path):
    with pytest.raises(WeitiaoError, match="in-context examples"):
        weitiao.export(train(), tmp_path / "bundle")


def test_the_answer_begins_after_a_space_but_not_in_chinese(llama):
    tokenizer = load_tokenizer(llama)
    assert word_ids(tokenizer, {}, ["好", "差"], "文本：{text} 评价：") == [
        [tokenizer.token_to_id("好")], [tokenizer.token_to_id("差")]
    ]  # fmt: skip
