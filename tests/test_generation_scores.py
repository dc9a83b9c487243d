"""Scores of written texts: values worked out by hand, and against rouge-score and sacreBLEU where they are installed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weitiao.core.catalogue import member
from weitiao.evaluation._overlap import (
    bleu,
    bleu_counts,
    chrf,
    chrf_counts,
    distinct,
    lead,
    marked_words,
    rouge,
    words,
)
from weitiao.evaluation.base import Predictions

PAIRS = [
    ("The cat sat on the mat.", "The cat is on the mat."),
    ("A quick, brown fox; it jumped 3.5 metres!", "The quick brown fox jumped over 3.5 metres of dogs."),
    ("nothing in common here", "entirely different words"),
    ("基于平方和优化的控制器设计", "一种基于平方和优化的飞行器控制器设计方法"),
    ("使用 BERT 模型进行文本分类。", "采用 BERT 模型的中文文本分类方法"),
    ("short", "a much longer reference than the text that was written, by far (really)"),
    ("state-of-the-art results, $5 off & more", "State-of-the-art result: $5 off, and more"),
]


def test_rouge_by_hand():
    # police killed the gunman / police kill the gunman: 3 of 4 words, 1 of 3 pairs, police ... the gunman in order.
    found = rouge("police kill the gunman", ["police killed the gunman"])
    assert found == pytest.approx({"rouge_1": 3 / 4, "rouge_2": 1 / 3, "rouge_l": 3 / 4})
    # 4 characters of 5 and of 8, in order; pairs 基于 于优 no: 基于, 优化 in both.
    found = rouge("基于优化法", ["基于平方和优化"])
    assert found == pytest.approx({"rouge_1": 2 * 4 / 12, "rouge_2": 2 * 2 / 10, "rouge_l": 2 * 4 / 12})
    assert rouge("", ["a"]) == rouge("b", ["a"]) == {"rouge_1": 0, "rouge_2": 0, "rouge_l": 0}


def test_of_several_references_the_best_counts():
    assert rouge("a b c", ["x", "a b c", "a"])["rouge_2"] == 1
    assert float(chrf(chrf_counts("abcdef", ["zzz", "abcdef"])[None])[0]) == pytest.approx(1)
    assert bleu_counts("a b", ["a", "b"])[:2].tolist() == [2, 2]


def test_bleu_by_hand():
    # the the cat sat on mat / the cat sat on the mat: 6/6, 4/5, 2/4, 1/3; lengths are equal.
    ours, theirs = "the the cat sat on mat", "the cat sat on the mat"
    grams = {1: 6 / 6, 2: 3 / 5, 3: 2 / 4, 4: 1 / 3}
    value = float(bleu(bleu_counts(ours, [theirs])[None])[0])
    assert value == pytest.approx(math.exp(sum(map(math.log, grams.values())) / 4))
    shorter = float(bleu(bleu_counts("the cat sat on", [theirs])[None])[0])
    assert shorter == pytest.approx(math.exp(1 - 6 / 4))


def test_distinct_and_lead():
    assert distinct(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert distinct(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    assert distinct(["", ""], 1) == 0
    assert lead("Costs 3.5 kg. More follows.") == "Costs 3.5 kg."
    assert lead("目的:研究方法。结果:很好。") == "目的:研究方法。"


def test_words_of_two_languages():
    assert words("使用BERT-base模型") == ["使", "用", "bert", "base", "模", "型"]
    assert marked_words("好，use it, 3.5-4") == ["好", "，", "use", "it", ",", "3.5", "-", "4"]


@pytest.mark.parametrize(("text", "reference"), PAIRS)
def test_rouge_is_that_of_rouge_score(text, reference):
    scorer = pytest.importorskip("rouge_score.rouge_scorer")

    class Words:
        tokenize = staticmethod(words)

    theirs = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Words()).score(reference, text)
    ours = rouge(text, [reference])
    assert list(ours.values()) == pytest.approx([one.fmeasure for one in theirs.values()])
    if text.isascii():  # and so are the words
        theirs = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"]).score(reference, text)
        assert list(ours.values()) == pytest.approx([one.fmeasure for one in theirs.values()])


@pytest.mark.parametrize("chosen", [[0], [0, 1, 6], [3, 4], [5], [0, 1, 2, 3, 4, 5, 6]])
def test_bleu_and_chrf_are_those_of_sacrebleu(chosen):
    sacrebleu = pytest.importorskip("sacrebleu")
    texts, references = zip(*(PAIRS[i] for i in chosen), strict=True)
    chinese = any(not text.isascii() for text in texts)
    theirs = sacrebleu.corpus_bleu(texts, [references], tokenize="zh" if chinese else "13a").score
    ours = float(bleu(sum(bleu_counts(t, [r]) for t, r in zip(texts, references, strict=True))[None])[0])
    assert 100 * ours == pytest.approx(theirs)
    theirs = sacrebleu.corpus_chrf(texts, [references]).score
    ours = float(chrf(sum(chrf_counts(t, [r]) for t, r in zip(texts, references, strict=True))[None])[0])
    assert 100 * ours == pytest.approx(theirs)


@given(text=st.text("ab 基于.", max_size=12), reference=st.text("ab 基于.", min_size=1, max_size=12))
def test_scores_lie_between_nothing_and_the_same(text, reference):
    for value in rouge(text, [reference]).values():
        assert 0 <= value <= 1
    for score, counts in ((bleu, bleu_counts), (chrf, chrf_counts)):
        assert 0 <= float(score(counts(text, [reference])[None])[0]) <= 1 + 1e-12
    if words(reference):
        assert rouge(reference, [reference])["rouge_l"] == 1


def predictions() -> Predictions:
    texts = [text for text, _ in PAIRS]
    extra = {"negative_log_likelihood": 20.0, "tokens": 10, "leads": [reference for _, reference in PAIRS]}
    return Predictions(texts, list(range(7)), [], [[r] for _, r in PAIRS], texts, None, extra)


def test_a_report_has_baselines_intervals_and_perplexity():
    evaluation = member("evaluation", "generation")()
    report = evaluation.report(predictions(), train_majority=[""] * 7)
    assert report["scores"]["perplexity"] == pytest.approx(math.exp(2))
    assert report["scores"]["rouge_1"] == pytest.approx(np.mean([rouge(t, [r])["rouge_1"] for t, r in PAIRS]))
    low, high = report["intervals"]["rouge_l"]
    assert low < report["scores"]["rouge_l"] < high
    assert report["baseline"]["untrained"]["rouge_1"] == 0
    assert report["baseline"]["lead_1"]["rouge_l"] == report["baseline"]["rouge_l"] == 1
    assert "perplexity" not in report["baseline"]
    assert report["worst_errors"][0]["text"] == "nothing in common here"
    text = evaluation.report_text(report)
    assert "ROUGE-L" in text and "lead-1" in text and "7.39" in text
