"""Nearest labelled texts: the interpolation by hand and against scikit-learn, evidence, the ablation, what is refused."""

import numpy as np
import pytest

import weitiao
from weitiao.core.errors import WeitiaoError
from weitiao.stages._neighbours import TEMPERATURE, Neighbours, told, unit
from weitiao.training.outputs import features_of


def rows(first: int = 0, count: int = 20) -> list[dict]:
    return [
        {"text": f"the {('good', 'bad')[n % 2]} card 卡{n}", "label": ("yes", "no")[n % 2]}
        for n in range(first, first + count)
    ]


@pytest.fixture
def train(tiny_model, tmp_path):
    def run(data=None, **settings):
        fixed = {
            "model": str(tiny_model),
            "max_length": 32,
            "precision": "fp32",
            "threads": 1,
            "tuning": "head",
        }
        fixed |= {"test_data": rows(100), "output": tmp_path / "run", "show": False, "neighbours": 3}
        return weitiao.finetune(data or rows(), **(fixed | settings))

    return run


def test_the_mixture_is_the_formula():
    labelled = Neighbours(np.eye(3, dtype=np.float32), np.array([0, 1, 1]), list("abc"), ["x", "y"], 2, 0.4)
    found = np.array([[2, 0]]), np.array([[0.9, 0.8]])
    (mixed,) = labelled.mixed([np.log([0.7, 0.3])], found)
    weights = np.exp(np.array([0.9, 0.8]) / TEMPERATURE)
    weights /= weights.sum()
    expected = 0.6 * np.array([0.7, 0.3]) + 0.4 * np.array([weights[1], weights[0]])
    np.testing.assert_allclose(np.exp(mixed), expected, atol=1e-6)
    np.testing.assert_array_equal(labelled.mixed([np.array([1.0, 2.0])], found, 0.0), [[1.0, 2.0]])


def test_the_neighbours_are_those_of_scikit_learn_and_are_shown(train):
    from sklearn.neighbors import NearestNeighbors

    run = train()
    asked = [{"text": row["text"]} for row in rows(200, 5)]
    encoded, _ = run.outputs(asked)
    known, _ = run.outputs([{"text": row["text"]} for row in rows()])
    vectors = unit(features_of(run.model, known))
    _, places = (
        NearestNeighbors(n_neighbors=3, metric="cosine")
        .fit(vectors)
        .kneighbors(unit(features_of(run.model, encoded)))
    )
    answers = run.predict([row["text"] for row in asked])
    for answer, row in zip(answers, places, strict=True):
        assert [found["text"] for found in answer["neighbours"]] == [rows()[place]["text"] for place in row]
        assert [found["label"] for found in answer["neighbours"]] == [rows()[place]["label"] for place in row]
        similar = [found["similarity"] for found in answer["neighbours"]]
        assert similar == sorted(similar, reverse=True)
        assert similar[0] <= 1 + 1e-6


def test_a_run_opened_again_mixes_as_when_it_was_scored(train):
    run = train()
    again = weitiao.load(run.folder)
    scores = weitiao.evaluate(again, rows(100))
    assert scores["accuracy"] == run.metrics["evaluation"]["test"]["scores"]["accuracy"]
    found = run.metrics["neighbours"]["test"]
    assert found["count"] == 3
    assert found["share"] == 0.3, "without a dev part the share is fixed"
    plain = train(output=run.folder.parent / "plain", neighbours=0)
    assert found["without"] == plain.metrics["evaluation"]["test"]["scores"][run.metrics["monitor"]]
    assert "neighbours" not in plain.metrics
    assert "neighbours" not in plain.predict(["good"])[0]
    assert any("nearest labelled texts, share 0.3" in e.get("text", "") for e in run.events)


def test_the_share_is_chosen_on_the_dev_part(train):
    run = train(dev_data=rows(300))
    assert run.metrics["neighbours"]["test"]["share"] in (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)
    assert set(run.metrics["neighbours"]) == {"dev", "test"}


def test_what_the_ablation_says():
    found = {
        "count": 5,
        "share": 0.3,
        "with": 0.8,
        "without": 0.7,
        "accuracy_change": 0.1,
        "interval": [0.02, 0.2],
    }
    assert told(found, "accuracy").endswith("accuracy +10.0 (+2.0 … +20.0) points: they helped")
    assert told(found | {"interval": [-0.1, 0.2]}, "accuracy").endswith("no difference that is certain")
    assert told(found | {"interval": [-0.2, -0.1]}, "accuracy").endswith("they hurt")


def test_labels_that_are_no_single_classes_are_refused(train, tmp_path):
    data = [{"text": row["text"], "label": f"{row['label']}|both"} for row in rows()]
    with pytest.raises(WeitiaoError, match="--neighbours is for single classes"):
        train(data, test_data=data, multi_label=True)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_bundle_would_lose_them(train, tmp_path):
    with pytest.raises(WeitiaoError, match="neighbours"):
        weitiao.export(train(), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
