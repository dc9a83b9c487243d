"""Scores against independent references (scikit-learn, seqeval, scipy), intervals, slices, worst errors."""

import csv
import json
import random

import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from seqeval.metrics.sequence_labeling import get_entities

from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import width
from weitiao.evaluation._bootstrap import percentile_intervals, point
from weitiao.evaluation._calibration import expected_calibration_error, reliability_bins
from weitiao.evaluation._slices import language_of, smallest_slice, text_slices
from weitiao.evaluation._table import fit, wrap
from weitiao.evaluation.base import Predictions, write_errors

SEEDS = st.integers(0, 10**6)


def evaluation(name):
    return catalogue.member("evaluation", name)()


def classified(seed, rows=80, classes=4, skill=1.5):
    """Noisy predictions of a classifier that is somewhat better than chance."""
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)) + skill * np.eye(classes)[gold]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = [f"类别{index}" for index in range(classes)]
    texts = [f"第{row}条 text " + "字" * int(generator.integers(0, 30)) for row in range(rows)]
    return Predictions(
        texts, list(range(1, rows + 1)), labels, gold, probabilities.argmax(axis=1), probabilities
    )


def multi(seed, rows=60, labels=5):
    generator = np.random.default_rng(seed)
    gold = (generator.random((rows, labels)) < 0.3).astype(int)
    probabilities = np.clip(gold * 0.5 + generator.random((rows, labels)) * 0.6, 0, 1)
    names = [f"label{index}" for index in range(labels)]
    predicted = (probabilities > 0.5).astype(int)
    return Predictions(["text"] * rows, list(range(rows)), names, gold, predicted, probabilities)


def tagged(seed, rows=30):
    """Random BIO sequences, true and predicted, and their spans as seqeval parses them."""
    source = random.Random(seed)
    tags = ["O", "O", "B-人名", "I-人名", "B-LOC", "I-LOC"]
    gold = [[source.choice(tags) for _ in range(source.randint(1, 12))] for _ in range(rows)]
    predicted = [[tag if source.random() < 0.7 else source.choice(tags) for tag in row] for row in gold]
    spans = [
        [[(start, end + 1, kind) for kind, start, end in get_entities(row)] for row in side]
        for side in (gold, predicted)
    ]
    texts = ["字" * len(row) for row in gold]
    return gold, predicted, Predictions(texts, list(range(rows)), [], spans[0], spans[1])


def paired(seed, rows=60, constant=False):
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, 11, rows) / 2
    predicted = np.full(rows, 0.3) if constant else gold * 0.1 + generator.normal(size=rows) * 0.2
    return Predictions(["a / b"] * rows, list(range(rows)), [], gold, predicted)


def written(seed, rows=60):
    generator = np.random.default_rng(seed)
    texts = [" ".join(generator.choice(list("abcdefg字词"), 6)) for _ in range(rows)]
    references = [[text, text[::-1]][row % 2 :] for row, text in enumerate(texts)]
    return Predictions(["a question"] * rows, list(range(rows)), [], references, [text[:9] for text in texts])


def found(seed, rows=60):
    """Phrases and pictures, each ranked among eight."""
    ranks = np.random.default_rng(seed).integers(1, 9, (rows, 2))
    extra = {"candidates": 8, "first": ["another phrase"] * rows}
    return Predictions(
        ["a phrase"] * rows, list(range(rows)), [], np.ones((rows, 2), int), ranks, None, extra
    )


EXAMPLES = {
    "generation": written,
    "classification": classified,
    "multi_label": multi,
    "spans": lambda seed: tagged(seed)[2],
    "similarity": paired,
    "retrieval": found,
}


def test_every_member_is_exercised_here():
    assert set(catalogue.members("evaluation")) == set(EXAMPLES)


# ---- every member keeps the contract ----


@pytest.mark.parametrize("name", EXAMPLES)
def test_report_is_json_and_holds_what_the_report_page_needs(name):
    predictions = EXAMPLES[name](3)
    report = evaluation(name).report(predictions)
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again["kind"] == name and again["rows"] == len(predictions)
    assert again["monitor"] in again["scores"] and again["monitor"] in again["baseline"]
    assert again["scores"] == pytest.approx(evaluation(name).scores(predictions))


@pytest.mark.parametrize("name", EXAMPLES)
@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_order_of_rows_changes_no_score(name, seed):
    predictions = EXAMPLES[name](seed)
    shuffled = predictions.take(np.random.default_rng(seed).permutation(len(predictions)))
    assert evaluation(name).scores(shuffled) == pytest.approx(evaluation(name).scores(predictions))


@pytest.mark.parametrize("name", EXAMPLES)
def test_perfect_answers_score_one_and_leave_no_errors(name):
    predictions = EXAMPLES[name](5)
    predictions.predicted = [row[0] for row in predictions.gold] if name == "generation" else predictions.gold
    assert evaluation(name).scores(predictions)[evaluation(name).monitor] == pytest.approx(1)
    assert evaluation(name).worst_errors(predictions) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_intervals_surround_the_score_and_repeat_with_the_seed(name):
    predictions = EXAMPLES[name](7)
    member = evaluation(name)
    low, high = member.intervals(predictions, seed=1)[member.monitor]
    assert low < member.scores(predictions)[member.monitor] < high
    assert member.intervals(predictions, seed=1) == member.intervals(predictions, seed=1)
    assert member.intervals(predictions, seed=1) != member.intervals(predictions, seed=2)


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_to_evaluate_is_one_clear_error(name):
    empty = EXAMPLES[name](0).take(np.array([], dtype=int))
    with pytest.raises(WeitiaoError):
        evaluation(name).report(empty)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_report_for_people_fits_a_terminal(name, language, monkeypatch):
    monkeypatch.setenv("WEITIAO_LANG", language)
    predictions = EXAMPLES[name](3)
    predictions.labels = [label + "很长的类别名称" * 9 for label in predictions.labels]
    text = evaluation(name).report_text(evaluation(name).report(predictions))
    assert max(map(width, text.splitlines())) <= 100
    assert ("区间" in text) == (language == "zh")


# ---- references ----


@given(SEEDS, st.integers(2, 7), st.integers(2, 60))
@settings(max_examples=40, deadline=None)
def test_classification_equals_sklearn(seed, classes, rows):
    """Few rows and many classes leave classes out of the gold labels, of the predictions, or of both."""
    predictions = classified(seed, rows=rows, classes=classes)
    gold, predicted = predictions.gold, predictions.predicted
    names = [predictions.labels[index] for index in np.unique(np.concatenate([gold, predicted]))]
    reference = sklearn.metrics.classification_report(
        gold, predicted, target_names=names, output_dict=True, zero_division=0
    )
    report = evaluation("classification").report(predictions)
    assert list(report["per_class"]) == names
    for name in names:
        assert report["per_class"][name] == pytest.approx(reference[name])
    for average in ("macro avg", "weighted avg"):
        assert report["averages"][average] == pytest.approx(reference[average])
    assert report["scores"]["accuracy"] == pytest.approx(reference["accuracy"])
    assert report["scores"]["macro_f1"] == pytest.approx(reference["macro avg"]["f1-score"])
    assert report["scores"]["weighted_f1"] == pytest.approx(reference["weighted avg"]["f1-score"])
    labels = range(classes)
    assert report["confusion"] == sklearn.metrics.confusion_matrix(gold, predicted, labels=labels).tolist()
    loss = sklearn.metrics.log_loss(gold, predictions.probabilities, labels=list(labels))
    assert report["scores"]["log_loss"] == pytest.approx(loss)


def test_auroc_equals_sklearn_and_skips_absent_classes():
    many, two = classified(1), classified(2, classes=2)
    expected = sklearn.metrics.roc_auc_score(many.gold, many.probabilities, multi_class="ovr")
    assert evaluation("classification").scores(many)["auroc"] == pytest.approx(expected)
    expected = sklearn.metrics.roc_auc_score(two.gold, two.probabilities[:, 1])
    assert evaluation("classification").scores(two)["auroc"] == pytest.approx(expected)
    two.probabilities = two.probabilities[:, 1]
    assert evaluation("classification").scores(two)["auroc"] == pytest.approx(expected)
    partial = many.take(np.flatnonzero(many.gold != 3))
    areas = [sklearn.metrics.roc_auc_score(partial.gold == k, partial.probabilities[:, k]) for k in range(3)]
    assert evaluation("classification").scores(partial)["auroc"] == pytest.approx(np.mean(areas))
    assert "auroc" not in evaluation("classification").scores(many.take(np.flatnonzero(many.gold == 1)))


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_multi_label_equals_sklearn(seed):
    predictions = multi(seed, rows=25)
    gold, predicted = predictions.gold, predictions.predicted
    report = evaluation("multi_label").report(predictions)
    reference = sklearn.metrics.classification_report(
        gold, predicted, target_names=predictions.labels, output_dict=True, zero_division=0
    )
    for name, row in {**report["per_class"], **report["averages"]}.items():
        assert row == pytest.approx(reference[name]), name
    assert report["scores"]["micro_f1"] == pytest.approx(reference["micro avg"]["f1-score"])
    assert report["scores"]["macro_f1"] == pytest.approx(reference["macro avg"]["f1-score"])
    assert report["scores"]["subset_accuracy"] == sklearn.metrics.accuracy_score(gold, predicted)
    mixed = [k for k in range(5) if 0 < gold[:, k].sum() < len(gold)]
    area = sklearn.metrics.roc_auc_score(gold[:, mixed], predictions.probabilities[:, mixed])
    assert report["scores"]["auroc"] == pytest.approx(area)


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_spans_equal_seqeval(seed):
    gold, predicted, predictions = tagged(seed, rows=12)
    reference = seqeval.metrics.classification_report(gold, predicted, output_dict=True, zero_division=0)
    report = evaluation("spans").report(predictions)
    for name, row in {**report["per_class"], **report["averages"]}.items():
        assert row == pytest.approx(reference[name]), name
    assert report["scores"]["f1"] == pytest.approx(reference["micro avg"]["f1-score"])
    assert report["scores"]["macro_f1"] == pytest.approx(reference["macro avg"]["f1-score"])


def test_spans_need_both_boundaries_and_the_type():
    gold = [[(0, 2, "PER"), (4, 6, "LOC")], [(1, 3, "ORG")]]
    predicted = [[(0, 2, "PER"), (0, 2, "PER"), (4, 7, "LOC")], [(1, 3, "LOC")]]
    predictions = Predictions(["张三在北京市", "去北大"], [1, 2], [], gold, predicted)
    scores = evaluation("spans").scores(predictions)
    assert scores["precision"] == pytest.approx(1 / 3) and scores["recall"] == pytest.approx(1 / 3)
    first = evaluation("spans").worst_errors(predictions)[0]
    assert (first["row_number"], first["missed"], first["spurious"]) == (
        1,
        "京市 [4:6] LOC",
        "京市 [4:7] LOC",
    )


def test_a_split_without_entities_scores_zero_and_says_why():
    report = evaluation("spans").report(Predictions(["无", "实体"], [1, 2], [], [[], []], [[], []]))
    assert report["scores"]["f1"] == 0 and len(report["notes"]) == 1 and report["per_class"] == {}


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_similarity_equals_scipy_under_resampling_too(seed):
    predictions = paired(seed)
    counts, statistic = evaluation("similarity").resampled(predictions)
    drawn = np.random.default_rng(seed).integers(0, len(counts), len(counts))
    for rows in (np.arange(len(counts)), drawn):
        found = point(np.bincount(rows, minlength=len(counts)), statistic)
        gold, predicted = predictions.gold[rows], predictions.predicted[rows]
        assert found["spearman"] == pytest.approx(stats.spearmanr(gold, predicted).statistic)
        assert found["pearson"] == pytest.approx(stats.pearsonr(gold, predicted).statistic)
        assert found["mse"] == pytest.approx(sklearn.metrics.mean_squared_error(gold, predicted))


def test_a_constant_has_no_correlation_and_the_report_says_so():
    report = evaluation("similarity").report(paired(1, constant=True))
    assert report["scores"]["spearman"] == report["scores"]["pearson"] == 0
    assert len(report["notes"]) == 1 and "0.3" in report["notes"][0]


@pytest.mark.parametrize("name", ["multi_label", "spans", "classification"])
def test_bootstrap_scores_of_a_resample_equal_scores_of_its_rows(name):
    predictions = EXAMPLES[name](11)
    member = evaluation(name)
    rows = np.random.default_rng(0).integers(0, len(predictions), len(predictions))
    part = predictions.take(rows)
    counts, statistic = member.resampled(predictions)
    if name == "classification":
        pairs = [
            (g, p)
            for g in range(4)
            for p in range(4)
            if ((predictions.gold == g) & (predictions.predicted == p)).any()
        ]
        weights = np.array([((part.gold == g) & (part.predicted == p)).sum() for g, p in pairs])
    else:
        weights = np.bincount(rows, minlength=len(counts))
    scores = member.scores(part)
    for score, value in point(weights, statistic).items():
        assert value == pytest.approx(scores[score]), score


# ---- uncertainty ----


@pytest.mark.parametrize("aggregated", [True, False])
def test_interval_of_a_share_is_the_binomial_one(aggregated):
    """90 right of 100: the normal interval is 0.9 +- 1.96 * 0.03; both ways of drawing must give it."""
    right = np.array([True] * 90 + [False] * 10)
    counts = np.array([90, 10]) if aggregated else np.ones(100, dtype=int)
    hit = np.array([1.0, 0.0]) if aggregated else right.astype(float)
    found = percentile_intervals(counts, lambda drawn: {"share": drawn @ hit / 100}, resamples=4000)
    assert found["share"] == pytest.approx([0.84, 0.95], abs=0.012)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(150):
        right = np.random.default_rng(seed).random(200) < 0.8
        counts = np.array([right.sum(), 200 - right.sum()])
        low, high = percentile_intervals(
            counts, lambda drawn: {"share": drawn[:, 0] / 200}, seed=seed, resamples=400
        )["share"]
        covered += low <= 0.8 <= high
    assert 0.90 <= covered / 150 <= 0.99


# ---- calibration ----


def test_calibration_error_by_hand():
    # Two answers at 0.95, one right; two at 0.55, both right: (2 * 0.45 + 2 * 0.45) / 4.
    confidence, correct = np.array([0.95, 0.95, 0.55, 0.55]), np.array([1, 0, 1, 1])
    assert expected_calibration_error(confidence, correct) == pytest.approx(0.45)
    assert [entry["count"] for entry in reliability_bins(confidence, correct)] == [2, 2]


def test_calibrated_answers_have_little_error_and_certain_wrong_ones_all_of_it():
    generator = np.random.default_rng(0)
    confidence = generator.random(50_000)
    assert expected_calibration_error(confidence, generator.random(50_000) < confidence) < 0.01
    assert expected_calibration_error(np.ones(9), np.zeros(9)) == 1
    assert sum(entry["count"] for entry in reliability_bins(np.array([0.0, 1 / 15, 1.0]), np.ones(3))) == 3


# ---- baseline, slices, errors ----


def test_baseline_answers_what_was_most_frequent_in_training():
    predictions = classified(1, rows=200)
    constant = np.full(200, 2)
    for given_as in (2, "类别2"):
        found = evaluation("classification").report(predictions, train_majority=given_as)["baseline"]
        assert found["answer"] == "类别2"
        assert found["accuracy"] == sklearn.metrics.accuracy_score(predictions.gold, constant)
        expected = sklearn.metrics.f1_score(predictions.gold, constant, average="macro")
        assert found["macro_f1"] == pytest.approx(expected)
    sets = multi(1)
    found = evaluation("multi_label").report(sets, train_majority=["label1"])["baseline"]
    constant = np.tile([0, 1, 0, 0, 0], (len(sets), 1))
    assert found["micro_f1"] == pytest.approx(
        sklearn.metrics.f1_score(sets.gold, constant, average="micro", zero_division=0)
    )
    assert evaluation("multi_label").baseline(sets, [])["answer"] == "-"


def test_the_worst_slice_is_the_one_that_was_spoilt():
    predictions = classified(1, rows=400, skill=6)
    source = ["app" if row % 10 == 0 else "web" for row in range(400)]
    spoilt = np.array(source) == "app"
    predictions.predicted[spoilt] = (predictions.gold[spoilt] + 1) % 4
    predictions.extra = {"slices": {"source": source, "id": [str(row) for row in range(400)]}}
    report = evaluation("classification").report(predictions)
    worst = report["worst_slice"]
    assert (worst["by"], worst["value"], worst["rows"], worst["score"]) == ("source", "app", 40, 0)
    assert all(entry["rows"] >= 20 and entry["by"] != "id" for entry in report["slices"])


def test_slices_cut_all_rows_once_and_small_ones_are_left_out():
    predictions = classified(2, rows=100)
    for by in ("length", "language", "digits"):
        masks = [mask for name, _, mask in text_slices(predictions) if name == by]
        assert (np.sum(masks, axis=0) == 1).all()
    assert (smallest_slice(100), smallest_slice(1001), smallest_slice(10_000)) == (20, 21, 200)


def test_language_of_a_text():
    samples = {
        "物流很快": "zh",
        "The screen died.": "en",
        "我爱 deep learning": "mixed",
        "123 !!": "other",
        "": "other",
    }
    assert {text: language_of(text) for text in samples} == samples


def test_the_most_confident_error_comes_first():
    predictions = classified(1)
    errors = evaluation("classification").worst_errors(predictions, n=5)
    wrong = np.flatnonzero(predictions.gold != predictions.predicted)
    assert len(errors) == 5
    assert errors[0]["probability_predicted"] == predictions.probabilities[wrong].max()
    row = errors[0]["row_number"] - 1
    assert errors[0]["text"] == predictions.texts[row]
    assert errors[0]["probability_gold"] == predictions.probabilities[row, predictions.gold[row]]
    assert errors[0]["gold"] == predictions.labels[predictions.gold[row]] != errors[0]["predicted"]


def test_multi_label_errors_name_the_labels_and_what_was_believed():
    predictions = Predictions(
        ["甲", "乙"],
        [4, 5],
        ["a", "b"],
        np.array([[1, 0], [1, 1]]),
        np.array([[1, 1], [0, 1]]),
        np.array([[0.9, 0.6], [0.05, 0.8]]),
    )
    first, second = evaluation("multi_label").worst_errors(predictions)
    assert (first["row_number"], first["gold"], first["predicted"]) == (5, "a|b", "b")
    assert (first["probability_gold"], first["probability_predicted"]) == (0.05, 0.0)
    assert (second["row_number"], second["probability_predicted"]) == (4, 0.6)


def test_similarity_errors_are_the_largest_differences_in_rank():
    predictions = Predictions(
        ["甲", "乙", "丙"], [1, 2, 3], [], np.array([0.0, 1, 5]), np.array([0.9, 0.1, 0.8])
    )
    first = evaluation("similarity").worst_errors(predictions, n=1)[0]
    assert first["row_number"] == 1 and first["rank_error"] == pytest.approx(2 / 3)


def test_errors_file_opens_in_a_spreadsheet(tmp_path):
    rows = [
        {"row_number": 7, "text": '物流"很快",\n真的', "gold": "=SUM(A1)", "probability_gold": 0.12345678}
    ]
    write_errors(tmp_path / "errors.csv", rows)
    assert (tmp_path / "errors.csv").read_bytes().startswith(b"\xef\xbb\xbfrow_number,text")
    with open(tmp_path / "errors.csv", encoding="utf-8-sig", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {
                "row_number": "7",
                "text": '物流"很快",\n真的',
                "gold": "'=SUM(A1)",
                "probability_gold": "0.123457",
            }
        ]
    write_errors(tmp_path / "half.csv", [{"text": "\ud800"}])
    assert (tmp_path / "half.csv").read_text("utf-8-sig").split() == ["text", "?"]
    write_errors(tmp_path / "none.csv", [])
    assert (tmp_path / "none.csv").read_text(encoding="utf-8-sig").strip() == "row_number,text,gold,predicted"


# ---- printing ----


def test_table_columns_stand_under_each_other_with_chinese_labels():
    predictions = classified(1)
    predictions.labels = ["a", "教育学", "哲", "long label"]
    report = evaluation("classification").report(predictions)
    text = evaluation("classification").report_text(report)
    ends = {width(line) for line in text.splitlines()[2:6]}
    assert len(ends) == 1
    assert f"{report['per_class']['教育学']['f1-score']:.3f}" in text


@given(st.text(max_size=60), st.integers(1, 30))
@settings(max_examples=60)
def test_fit_is_exactly_as_wide_as_asked(text, columns):
    assert width(fit(text, columns)) == width(fit(text, columns, right=True)) == columns


@given(st.text(alphabet="ab 字，", max_size=120), st.integers(4, 30))
@settings(max_examples=60)
def test_wrapping_keeps_every_mark_and_the_width(text, columns):
    wrapped = wrap(text, columns)
    assert all(width(line) <= columns for line in wrapped.split("\n"))
    assert "".join(wrapped.split()) == "".join(text.split())
