"""Back-translation through tiny random Marian models: nonsense, but through everything that a real pair goes through."""

from random import Random

import pytest

from weitiao.augmentation.back_translation import SENTENCE, BackTranslation
from weitiao.core.config import build
from weitiao.core.errors import WeitiaoError
from weitiao.stages import finetune

WORDS = ["<pad>", "</s>", "<unk>", *"abcdefghijklm", "good", "card", "bank", "银行", "转账", "。", "."]


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """Folders of two translation models."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp(f"marian-{seed}")
        config = MarianConfig(
            vocab_size=len(WORDS), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=300,
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, forced_eos_token_id=1,
        )  # fmt: skip
        MarianMTModel(config).save_pretrained(folder)
        tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = Whitespace()
        tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
        folders.append(str(folder))
    return folders


def member(marian, rate=1.0):
    made = BackTranslation(rate=rate, translator=marian[0], translator_back=marian[1])
    made.prepare()
    return made


@pytest.mark.parametrize(("text", "sentences"), [
    ("银行 转账。good card. 3.14 is", ["银行 转账。", "good card.", "3.14 is"]),
    ("  one\n\ntwo ! ", ["one", "two !"]),
    ("。", ["。"]), ("", []), (" \n", []),
])  # fmt: skip
def test_a_text_is_cut_into_sentences(text, sentences):
    assert [part[0] for part in SENTENCE.finditer(text)] == sentences


def test_the_same_seed_gives_the_same_text_and_others_differ(marian):
    rewriter, text = member(marian), "good card. 银行 转账。"
    found = [rewriter.apply(text, [], Random(seed)) for seed in (0, 0, 1, 2)]
    assert found[0] == found[1] != (text, []) and len({new for new, _ in found}) > 1
    import torch

    state = torch.random.get_rng_state()
    rewriter.apply(text, [], Random(5))
    assert torch.equal(state, torch.random.get_rng_state()), "training's own random numbers stay"


def test_sentences_with_entities_stay_and_spans_move_with_the_others(marian):
    text = "good card good. 转账 银行 转账。good bank."
    span = (text.index("银行"), text.index("银行") + 2)
    for seed in range(5):
        new, ((start, end),) = member(marian).apply(text, [span], Random(seed))
        assert new[start:end] == "银行" and "转账 银行 转账。" in new and new != text


def test_one_sentence_of_two_at_a_low_rate(marian):
    text = "good card. bank bank."
    new, _ = member(marian, rate=0.01).apply(text, [], Random(0))
    assert new.startswith("good card.") != new.endswith("bank bank.")


@pytest.mark.parametrize(("folders", "said"), [
    (("", ""), "--translator FOLDER is missing"),
    (("here", ""), "--translator-back FOLDER is missing"),
    (("nowhere", "nowhere"), "nowhere is no model's folder"),
])  # fmt: skip
def test_what_is_missing_is_one_line(folders, said):
    settings = {"data": "x", "augment": "back_translation"}
    settings |= dict(zip(("translator", "translator_back"), folders, strict=True))
    with pytest.raises(WeitiaoError, match=said) as caught:
        finetune.checked(build(finetune.Config, settings))
    assert "\n" not in str(caught.value)


def test_a_model_that_does_not_translate_is_refused(tiny_model):
    with pytest.raises(WeitiaoError, match="is no translation model that can be opened") as caught:
        BackTranslation(translator=str(tiny_model), translator_back=str(tiny_model)).prepare()
    assert "\n" not in str(caught.value)
