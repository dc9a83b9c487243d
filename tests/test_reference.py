"""The statistics of the training texts: what they say is what the texts are, and no text is in them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from weitiao.core.errors import WeitiaoError
from weitiao.data.encode import load_tokenizer
from weitiao.runtime import reference

TEXTS = ["the card is good", "bad money", "物流很快，包装也好", "不好", "a \u2603 card", ""]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


def test_lengths_and_unknown_pieces_are_those_of_the_tokenizer(tokenizer):
    facts = list(reference.measure(tokenizer, TEXTS))
    for text, (tokens, share) in zip(TEXTS, facts, strict=True):
        pieces = tokenizer.encode(text, add_special_tokens=False).tokens
        assert tokens == len(pieces)
        assert share == pytest.approx(pieces.count("[UNK]") / max(len(pieces), 1))
    assert facts[4][1] > 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"label": "good", "score": 0.9}, (["good"], 0.9)),
        ([{"label": "a", "score": 0.9}, {"label": "b", "score": 0.6}], (["a", "b"], 0.6)),
        ([{"entity_group": "PER", "word": "x", "start": 0, "end": 1, "score": 0.7}], (["PER"], 0.7)),
        ([], ([], None)),
        ("generated text", ([], None)),
    ],
)
def test_a_decision_is_read_from_every_shape_of_answer(answer, expected):
    assert reference.decision(answer) == expected


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([{"start": 0, "end": 1, "label": "x"}], ["x"]),
        (0.5, []),
        (3, ["3"]),
    ],
)
def test_classes_are_read_from_every_shape_of_label(label, names):
    assert reference.names_of(label) == names


def test_histograms_count_every_value_once():
    values = np.random.default_rng(0).geometric(0.05, 5000)
    found = reference.histogram(values)
    assert sum(found["counts"]) == 5000 and found["mean"] == pytest.approx(values.mean())
    for edge, total in zip(found["edges"], np.cumsum(found["counts"]), strict=False):
        assert total == (values <= edge).sum()
    assert max(found["counts"][1:]) < 5000 / 8  # the bins are about equally full
    same = reference.histogram([7.0] * 10)
    assert same["counts"] == [10, 0]


def test_rare_classes_are_counted_together():
    names = [str(i) for i in range(reference.MOST_CLASSES + 50) for _ in range(1 + (i < 10))]
    found = reference.counted(names)
    assert len(found) == reference.MOST_CLASSES + 1
    assert sum(found.values()) == len(names) and found["0"] == 2 and found[reference.OTHER] == 50


def test_projections_keep_distances_and_never_change():
    """A fixed number, so that a file written today can be read by a later NumPy."""
    drawn = reference.directions(384, 0)
    assert drawn[0, :3] == pytest.approx([0.092473, 0.019907, 0.053247], abs=1e-6)
    random = np.random.default_rng(1)
    moved = random.standard_normal(384).astype(np.float32)
    ratio = np.linalg.norm(reference.project(moved[None], 0)) / np.linalg.norm(moved)
    assert ratio == pytest.approx((reference.DIRECTIONS / 384) ** 0.5, rel=0.5)


def test_a_description_is_small_plain_and_without_texts(tokenizer):
    random = np.random.default_rng(0)
    texts = [f"the card number {i} 物流" * (1 + i % 9) for i in range(300)]
    embeddings = random.standard_normal((300, 384)).astype(np.float32)
    answers = [{"label": str(i % 70), "score": float(random.random())} for i in range(300)]
    found = reference.describe(
        texts, answers, tokenizer, labels=[a["label"] for a in answers], embeddings=embeddings
    )
    written = json.dumps(found, ensure_ascii=False)
    assert json.loads(written) == found
    assert len(written) < 12_000
    assert "card" not in written and "物流" not in written
    assert found["texts"] == sum(found["confidence"]["counts"]) == sum(found["characters"]["counts"]) == 300
    assert found["characters"]["mean"] == pytest.approx(np.mean([len(t) for t in texts]), abs=1e-4)
    assert np.allclose(found["embedding"]["mean"], embeddings.mean(0), atol=1e-5)
    with pytest.raises(WeitiaoError, match="no text"):
        reference.describe([], [], tokenizer)


def test_nothing_heavy_is_imported():
    code = "import sys, weitiao.runtime.reference; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
