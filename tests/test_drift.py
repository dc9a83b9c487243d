"""Drift is seen where there is some, and nothing is cried where chance alone is at work."""

import csv
import gzip
import io
import json

import numpy as np
import pytest

from weitiao.core.errors import WeitiaoError
from weitiao.data.encode import Encoded, Ragged, load_tokenizer
from weitiao.runtime import reference
from weitiao.service.drift import LEAST, SIGNALS, Drift, stability_index

CLASSES = [f"class {i}" for i in range(70)]


def texts_of(path, column):
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [row[column] for row in csv.DictReader(io.StringIO(file.read()))]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def questions(example_data):
    """2,000 training and 1,000 test questions of banking77, shuffled."""
    order = np.random.default_rng(0).permutation
    train, test = (
        texts_of(example_data / "banking77" / f"{part}.csv.gz", "text") for part in ("train", "test")
    )
    return [train[i] for i in order(len(train))[:2000]], [test[i] for i in order(len(test))[:1000]]


@pytest.fixture(scope="module")
def embed(tiny_model, tokenizer):
    """Unit vectors from the tiny model, mean-pooled."""
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(tiny_model).eval()

    def run(texts):
        rows = []
        with torch.inference_mode():
            for text in texts:
                ids = torch.tensor([tokenizer.encode(text).ids[:60]])
                rows.append(model(ids).last_hidden_state[0].mean(0).numpy())
        vectors = np.stack(rows)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return run


def answers_for(texts, seed, scores=(8, 2)):
    random = np.random.default_rng(seed)
    return [
        {"label": CLASSES[random.integers(len(CLASSES))], "score": float(random.beta(*scores))} for _ in texts
    ]


def measured(texts, tokenizer):
    return reference.measure(Encoded(Ragged.of(tokenizer.encode(text).ids for text in texts)), tokenizer)


def feed(drift, texts, answers, tokenizer, embeddings=None):
    facts = measured(texts, tokenizer)
    for i, (text, answer, (tokens, share)) in enumerate(zip(texts, answers, facts, strict=True)):
        names, score = reference.decision(answer)
        vector = embeddings[i] if embeddings is not None and i < len(embeddings) else None
        drift.add(tokens, share, names, score, vector, len(text))
    return drift.measured()


@pytest.fixture(scope="module")
def described(questions, tokenizer, embed):
    train, _ = questions
    return reference.describe(train, answers_for(train, 0), tokenizer, embeddings=embed(train[:300]))


def test_new_texts_of_the_same_kind_are_no_drift(described, questions, tokenizer, embed):
    _, test = questions
    found = feed(Drift(described), test, answers_for(test, 1), tokenizer, embed(test[:300]))
    assert found.keys() == SIGNALS.keys()
    assert max(value for name, value in found.items()) < 0.1, found


def test_another_language_is_drift_in_all_that_depends_on_the_text(
    described, questions, tokenizer, embed, example_data
):
    with gzip.open(example_data / "csl" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    key = max(rows[0], key=lambda name: len(str(rows[0][name])))
    foreign = [row[key] for row in rows][:300]
    found = feed(Drift(described), foreign, answers_for(foreign, 2), tokenizer, embed(foreign))
    for signal in ("length", "length_ks", "characters", "embedding"):
        assert found[signal] > 0.3, (signal, found)
    assert found["embedding_ks"] > 0.15
    assert found["decisions"] < 0.1 and found["confidence"] < 0.1


@pytest.mark.parametrize(
    ("signal", "change"),
    [
        ("length", lambda text: text + " the card" * 20),
        ("unknown", lambda text: text + " \u2603"),
        ("decisions", None),
        ("confidence", None),
    ],
)
def test_each_signal_sees_its_own_change(signal, change, described, questions, tokenizer):
    _, test = questions
    test = test[:400]
    answers = answers_for(test, 3, (2, 2) if signal == "confidence" else (8, 2))
    if signal == "decisions":
        answers = [{**answer, "label": CLASSES[i % 2]} for i, answer in enumerate(answers)]
    found = feed(Drift(described), list(map(change, test)) if change else test, answers, tokenizer)
    assert found[signal] > 0.3, found
    others = {name for name in ("unknown", "decisions", "confidence") if name != signal}
    assert all(found[name] < 0.1 for name in others), found


def test_chance_alone_stays_below_the_usual_threshold():
    """200 windows of one distribution, 10 and 70 bins, the smallest window: 0.2 is the field's 'significant'."""
    random = np.random.default_rng(4)
    for bins in (10, 70):
        share = random.dirichlet(np.full(bins, 5.0))
        expected = random.multinomial(3000, share)
        found = [stability_index(expected, random.multinomial(LEAST, share)) for _ in range(200)]
        assert max(found) < 0.2
        assert np.mean(found) < 0.03


def test_the_stability_index_is_the_textbook_one_on_many_texts():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.3, 0.3])
    expected = float(((q - p) * np.log(q / p)).sum())
    assert stability_index(p * 1e7, q * 1e7) == pytest.approx(expected, abs=1e-5)


def test_nothing_is_said_of_few_texts_and_the_old_are_forgotten(described, questions, tokenizer):
    _, test = questions
    drift = Drift(described, window=300)
    assert feed(drift, test[: LEAST - 1], answers_for(test[: LEAST - 1], 5), tokenizer) == {}
    long = [text * 6 for text in test[:300]]
    assert feed(drift, long, answers_for(long, 5), tokenizer)["length"] > 0.5
    assert feed(drift, test[300:600], answers_for(test[300:600], 5), tokenizer)["length"] < 0.1
    assert drift.samples() == 300


def test_embeddings_are_wanted_of_some_texts_only(described):
    drift = Drift(described)
    wanted = 0
    for _ in range(100):
        wanted += drift.wants_embedding()
        drift.add(5, 0.0)
    assert wanted == 10
    assert not Drift(None).wants_embedding() and Drift(None).measured() == {}
    without = Drift({name: part for name, part in described.items() if name != "embedding"})
    assert not without.wants_embedding()


def test_an_embedding_of_another_size_is_left_out(described):
    drift = Drift(described, least=10)
    for _ in range(20):
        drift.add(5, 0.0, embedding=np.ones(7, np.float32))
    assert "embedding" not in drift.measured()


def test_a_reference_of_another_format_is_refused(described):
    with pytest.raises(WeitiaoError, match=r"format 2.*export the model again"):
        Drift({**described, "version": 2})
