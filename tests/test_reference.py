"""The statistics of the training texts: what they say is what the texts are, and no text is in them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from served import make_bundle, tiny_tokenizer

from weitiao.core.errors import WeitiaoError
from weitiao.data.encode import Encoded, Ragged
from weitiao.runtime import load, reference
from weitiao.service.drift import Drift
from weitiao.service.work import Work

TEXTS = ["the card is good", "bad money", "物流很快，包装也好", "不好", "a \u2603 card", ""]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    made = load(make_bundle(tmp_path_factory.mktemp("reference") / "tiny"))
    yield made
    made.close()


@pytest.mark.parametrize("per_example", [1, 2])
def test_lengths_and_unknown_pieces_are_those_that_the_model_reads(per_example):
    tokenizer = tiny_tokenizer()
    encodings = [tokenizer.encode(text) for text in TEXTS]
    encoded = Encoded(Ragged.of(e.ids for e in encodings), per_example=per_example)
    found = reference.measure(encoded, tokenizer)
    assert len(found) == len(TEXTS) // per_example
    for place, (tokens, share) in enumerate(found):
        parts = encodings[place * per_example : (place + 1) * per_example]
        pieces = [piece for encoding in parts for piece in encoding.tokens]
        assert tokens == len(pieces)
        assert share == pytest.approx(pieces.count("[UNK]") / len(pieces))
    assert found[4 // per_example][1] > 0


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


def records(count, seed=0):
    random = np.random.default_rng(seed)
    words = ["the", "card", "bank", "money", "good", "bad", "物流", "很快"]
    return [
        {
            "text": " ".join(random.choice(words, random.integers(1, 15))),
            "label": "ab"[i % 2],
            "row_number": i,
        }
        for i in range(count)
    ]


def test_a_table_is_described_by_its_bundle(predictor):
    found = reference.describe_table(predictor, records(700), rows=300, embedded=50)
    assert found["texts"] == sum(found["confidence"]["counts"]) == sum(found["tokens"]["counts"]) == 300
    assert set(found["classes"]) == {"a", "b"} and set(found["decisions"]) <= {"good", "bad"}
    assert found["embedding"]["texts"] == 50 and found["embedding"]["dimension"] == 16
    assert found == reference.describe_table(predictor, records(700), rows=300, embedded=50)
    without = reference.describe_table(predictor, [{"text": "a card", "row_number": 1}])
    assert without["classes"] == {} and without["tokens"]["counts"] == [1, 0]
    for nothing in (
        lambda: reference.describe_table(predictor, []),
        lambda: reference.describe([], [], None),
    ):
        with pytest.raises(WeitiaoError, match="no text"):
            nothing()


def test_the_service_measures_as_the_description_did(predictor):
    """The very texts of the description are no drift at all: lengths, unknown pieces and the rest are counted alike."""
    table = [
        {**record, "text": f"{record['text']} \u2603" * (1 + 3 * (i % 9 == 0))}
        for i, record in enumerate(records(400))
    ]
    drift = Drift(reference.describe_table(predictor, table, embedded=400))

    class Seen:
        """Takes what the service's work tells the metrics."""

        def wants_embedding(self, model):
            return True

        def observe_prediction(self, model, tokens, unknown, names, score, embedding, characters):
            drift.add(tokens, unknown, names, score, embedding, characters)

    work = Work("tiny", predictor, Seen())
    plain = [{"text": record["text"], "row_number": record["row_number"]} for record in table]
    work.observe("predict", plain, work.compute("predict", plain))
    found = drift.measured()
    assert {
        "length",
        "length_ks",
        "characters",
        "unknown",
        "confidence",
        "decisions",
        "embedding",
    } <= found.keys()
    assert found.pop("embedding_ks") < 0.05  # quantiles between texts
    assert all(value == pytest.approx(0, abs=1e-9) for value in found.values()), found


def test_a_description_is_small_plain_and_without_texts():
    random = np.random.default_rng(0)
    texts = [f"the card number {i} 物流" * (1 + i % 9) for i in range(300)]
    embeddings = random.standard_normal((300, 384)).astype(np.float32)
    answers = [{"label": str(i % 70), "score": float(random.random())} for i in range(300)]
    found = reference.describe(
        texts, answers, tiny_tokenizer(), labels=[a["label"] for a in answers], embeddings=embeddings
    )
    written = json.dumps(found, ensure_ascii=False)
    assert json.loads(written) == found
    assert len(written) < 12_000
    assert "card" not in written and "物流" not in written
    assert found["texts"] == sum(found["confidence"]["counts"]) == sum(found["characters"]["counts"]) == 300
    assert found["characters"]["mean"] == pytest.approx(np.mean([len(t) for t in texts]), abs=1e-4)
    assert np.allclose(found["embedding"]["mean"], embeddings.mean(0), atol=1e-5)


def test_nothing_heavy_is_imported():
    code = "import sys, weitiao.runtime.reference; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
