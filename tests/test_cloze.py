"""Cloze prompts: the gap's place, words of the vocabulary, and a masked-LM head against transformers' own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import weitiao
from weitiao.core.errors import WeitiaoError
from weitiao.data.cloze import prompts, word_ids
from weitiao.data.encode import load_tokenizer

TEMPLATE = "{text} it is {mask} card"
WORDS = {"positive": "good", "negative": "bad|money"}


@pytest.fixture(scope="module")
def masked_model(tiny_model, tmp_path_factory):
    """The tiny model as a BertForMaskedLM, its tokenizer beside it."""
    import shutil

    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("masked") / "model"
    shutil.copytree(tiny_model, folder)
    torch.manual_seed(3)
    config = BertConfig.from_pretrained(tiny_model)
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


def rows(count: int = 24) -> list[dict]:
    return [
        {"text": f"the {('good', 'bad')[n % 2]} bank {n}", "label": ("positive", "negative")[n % 2]}
        for n in range(count)
    ]


@pytest.fixture
def train(masked_model, tmp_path):
    def run(**settings):
        fixed = {
            "model": str(masked_model),
            "max_length": 32,
            "precision": "fp32",
            "threads": 1,
            "num_epochs": 0,
        }
        fixed |= {"template": TEMPLATE, "verbaliser": WORDS, "few_shot": "cloze", "test_data": rows()}
        return weitiao.finetune(rows(), output=tmp_path / "run", show=False, **(fixed | settings))

    return run


def logits_there(folder, tokenizer, text: str) -> np.ndarray:
    """transformers' own logits at the gap, for the classes in the order of their names."""
    from transformers import BertForMaskedLM

    model = BertForMaskedLM.from_pretrained(folder).eval()
    found = tokenizer.encode(f"{text} it is [MASK] card")
    with torch.no_grad():
        logits_V = model(torch.tensor([found.ids])).logits[0, found.tokens.index("[MASK]")]
    good, bad, money = (tokenizer.token_to_id(word) for word in ("good", "bad", "money"))
    return np.array([(logits_V[bad] + logits_V[money]) / 2, logits_V[good]])


def test_before_training_the_logits_are_those_of_transformers(masked_model, tokenizer):
    from weitiao.core.config import make_member
    from weitiao.models.backbone import TextModel, open_backbone
    from weitiao.models.heads import make_head
    from weitiao.tasks.base import Answers
    from weitiao.training.outputs import outputs_of

    task = make_member("tasks", "text_classification", {"template": TEMPLATE, "verbaliser": WORDS})
    answers = Answers("classes", ["negative", "positive"])
    backbone, config, beside = open_backbone(masked_model)
    head = make_head(task.head(answers, "mean"), backbone.shape.hidden_size)
    task.start(head, beside, backbone, tokenizer, answers)
    encoded = task.encode_rows([{"text": "my bank 转账"}], tokenizer, 32, None)
    (ours,) = outputs_of(TextModel(backbone, head, config), encoded)
    np.testing.assert_allclose(ours, logits_there(masked_model, tokenizer, "my bank 转账"), atol=1e-4)


def test_a_trained_cloze_opens_again_and_exports(train, tmp_path):
    run = train(num_epochs=12, learning_rate=3e-3)
    assert run.metrics["evaluation"]["test"]["scores"]["accuracy"] > 0.9
    assert run.metrics["engagement"]["moved"]["head"] > 0
    again = weitiao.load(run.folder)
    texts = ["the good bank", "the bad bank"]
    assert [answer["label"] for answer in again.predict(texts)] == ["positive", "negative"]
    certificate = weitiao.export(run, tmp_path / "bundle")
    assert certificate
    bundle = weitiao.load(
        tmp_path / "bundle", precision="fp32"
    )  # else what is fastest here, which may be bf16
    for ours, there in zip(bundle.predict(texts), again.predict(texts), strict=True):
        assert ours["label"] == there["label"]
        assert ours["score"] == pytest.approx(there["score"], abs=1e-4)


@given(st.text(st.sampled_from("good 钱[MASK]x"), max_size=60), st.integers(12, 40), st.booleans())
def test_the_gap_survives_every_cut(tokenizer, text, max_length, first):
    template = "{mask} card {text} bank" if first else "the {text} it is {mask}"
    ((ids, gap, uncut),) = prompts(tokenizer, [text], template, max_length)
    mask = tokenizer.token_to_id("[MASK]")
    whole = tokenizer.encode(template.replace("{mask}", "[MASK]").replace("{text}", text)).ids
    assert uncut == len(whole)
    assert len(ids) == min(len(whole), max_length)
    assert ids[gap] == mask
    assert ids[-1] == whole[-1], "the template's end and the special tokens stay"
    if first:
        assert gap == 1
    else:
        assert gap == len(ids) - 2


@pytest.mark.parametrize(("settings", "message"), [
    ({"verbaliser": {"positive": "good", "negative": "mediocre"}}, r"'mediocre' \(class 'negative'\) is not one piece"),
    ({"verbaliser": {"positive": "good", "neutral": "bad"}}, "a class 'neutral' that the data does not have"),
    ({"template": "{text} {text} {mask}"}, "must hold {text} once and {mask} once"),
    ({"template": "{text} is"}, "--few-shot cloze: it needs a prompt"),
    ({"template": ""}, "--few-shot cloze: it needs a prompt"),
    ({"multi_label": True, "few_shot": ""}, "cannot go with --multi-label"),
])  # fmt: skip
def test_what_cannot_work_is_said_before_training(train, tmp_path, settings, message):
    with pytest.raises(WeitiaoError, match=message) as error:
        train(**settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_wrong_word_is_answered_with_words_that_fit(tokenizer):
    with pytest.raises(WeitiaoError, match="such as: good"):
        word_ids(tokenizer, {"a": "goods"}, ["a"])


@pytest.mark.parametrize("few_shot", ["cloze", ""])
def test_a_model_without_a_masked_head_is_refused(train, tiny_model, few_shot):
    with pytest.raises(WeitiaoError, match="ForMaskedLM"):
        train(model=str(tiny_model), few_shot=few_shot)
