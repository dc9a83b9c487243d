"""The report page and the model card: from the run folder alone, safe, bilingual, whole for each member."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import EvaluationEvent, StepEvent
from weitiao.core.runs import Recorder, write_json
from weitiao.evaluation.base import Predictions
from weitiao.reporting import pictures, text
from weitiao.reporting.card import languages, write_card
from weitiao.reporting.page import main_split, write_report

EVIL = "<script>alert('偷')</script>&\"'"
VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Collects the tags and the texts of a page, and that every tag is closed in its turn."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.attributes, self.balanced = [], [], [], [], True
        self.feed(source)
        self.balanced = self.balanced and not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        self.balanced = self.balanced and bool(self.open) and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.texts).split())


def predictions_of(kind, classes=4, rows=120):
    generator = np.random.default_rng(0)
    texts = [f"{EVIL} 第{row}条" for row in range(rows)]
    numbers = list(range(1, rows + 1))
    labels = [f"类别{index}" for index in range(classes)] + [EVIL]
    if kind == "classification":
        gold = generator.integers(0, classes + 1, rows)
        probabilities = generator.dirichlet(np.ones(classes + 1), rows) + np.eye(classes + 1)[gold] * 0.4
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return Predictions(texts, numbers, labels, gold, probabilities.argmax(axis=1), probabilities)
    if kind == "multi_label":
        gold = (generator.random((rows, classes + 1)) < 0.4).astype(int)
        probabilities = generator.random((rows, classes + 1)) * 0.5 + gold * 0.4
        return Predictions(texts, numbers, labels, gold, (probabilities > 0.5).astype(int), probabilities)
    if kind == "spans":
        gold = [[(0, 3, "PER"), (4, 9, EVIL)] for _ in range(rows)]
        predicted = [spans[: row % 3] for row, spans in enumerate(gold)]
        return Predictions(texts, numbers, [], gold, predicted)
    if kind == "generation":
        extra = {"negative_log_likelihood": 50.0, "tokens": 20, "leads": texts}
        return Predictions(texts, numbers, [], [[EVIL, "a b"]] * rows, [EVIL] * rows, None, extra)
    if kind == "retrieval":
        extra = {"candidates": 8, "first": [EVIL] * rows}
        return Predictions(
            texts, numbers, [], np.ones((rows, 2), int), generator.integers(1, 9, (rows, 2)), None, extra
        )
    gold = generator.random(rows)
    return Predictions(texts, numbers, [], gold, gold + generator.normal(size=rows))


KINDS = catalogue.members("evaluation")


def run_folder(tmp_path, kind="classification", **changes):
    """A whole run folder, in which everything that comes from outside tries to be markup."""
    folder = tmp_path / "物流 <评论>"
    member = catalogue.member("evaluation", kind)()
    recorder = Recorder(folder)
    for step in range(1, 41):
        recorder(StepEvent(step, 40, step / 20, 3.0 / step, 1e-4, 1.0, 500, 4000.0))
        if step % 10 == 0:
            score = {10: 0.5, 20: 0.71, 30: 0.6, 40: 0.65}[step]
            recorder(EvaluationEvent(step, "validation", {member.monitor: score}, member.monitor))
    recorder.close()
    metrics = {
        "task": "text_classification",
        "model": {
            "name": "multilingual-e5-small",
            "tuning": "lora",
            "pooling": "mean",
            "opens_in_transformers": f"The backbone opens with AutoModel. {EVIL}",
            "parameters": 1000,
            "trained_parameters": 10,
            "license": "mit",
        },
        "data": {
            "train": {"rows": 900, "sha256": "ab" * 32, "name": EVIL},
            "test": {"rows": 120, "sha256": "cd" * 32, "name": "test.csv"},
        },
        "data_findings": [{"code": "duplicates", "count": 14, "message": f"14 texts twice {EVIL}"}],
        "evaluation": {"test": member.report(predictions_of(kind))},
        "monitor": member.monitor,
        "engagement": {"moved": 96, "largest": 0.41, "frozen": [EVIL] * 9, "fine": True, "by": {"a": 1}},
        "cost": {
            "estimated_seconds": 150.0,
            "actual_seconds": 200.0,
            "actual_memory_bytes": 1_380_000_000,
            "tokens_per_second": 5412.0,
        },
        "environment": {"weitiao": "0.1.0", "torch": "2.13.0", "python": "3.11", "threads": 2},
        "seed": 42,
        **changes,
    }
    write_json(folder / "metrics.json", metrics)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": EVIL, "epochs": 3, "empty": None}), "utf-8")
    return folder


def page_of(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


# ---- the page ----


@pytest.mark.parametrize("kind", KINDS)
def test_page_is_whole_and_texts_stay_texts(kind, tmp_path):
    page = page_of(run_folder(tmp_path, kind))
    assert page.balanced
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert EVIL in page.words
    assert "nan" not in page.words.lower().split()


def test_page_loads_nothing_and_forbids_scripts(tmp_path):
    source = write_report(run_folder(tmp_path)).read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(", source)
    assert "default-src 'none'" in source


@pytest.mark.parametrize("tongue", ["zh", "en"])
def test_page_holds_both_languages_and_opens_in_the_readers(tongue, tmp_path, monkeypatch):
    monkeypatch.setenv("WEITIAO_LANG", tongue)
    page = page_of(run_folder(tmp_path))
    assert "混淆矩阵" in page.words and "Confusion matrix" in page.words
    assert ("lang", tongue) in page.attributes[:2]
    source = (tmp_path / "物流 <评论>" / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'id="(zh|en)" checked', source) == [tongue]


def test_headline_is_the_test_score_beside_its_interval_and_the_baseline(tmp_path):
    folder = run_folder(tmp_path)
    report = json.loads((folder / "metrics.json").read_text("utf-8"))["evaluation"]["test"]
    words = page_of(folder).words
    low, high = report["intervals"]["accuracy"]
    assert f"{100 * report['scores']['accuracy']:.1f}%" in words
    assert f"{100 * low:.1f} – {100 * high:.1f}%" in words
    assert f"{100 * report['baseline']['accuracy']:.1f}%" in words


def test_page_shows_every_class_every_error_and_what_the_run_cost(tmp_path):
    folder = run_folder(tmp_path)
    report = json.loads((folder / "metrics.json").read_text("utf-8"))["evaluation"]["test"]
    words = page_of(folder).words
    for label, row in report["per_class"].items():
        assert label in words and f"{row['f1-score']:.3f}" in words
    for error in report["worst_errors"]:
        assert error["text"] in words
    for said in ("3 min 20 s", "-25%", "1.38 GB", "14 texts twice", "best 71.0%, step 20", "最佳 71.0%"):
        assert said in words


@pytest.mark.parametrize(
    "name", ["evaluation", "cost", "engagement", "data", "data_findings", "environment", "model"]
)
def test_a_missing_part_is_left_out(name, tmp_path):
    folder = run_folder(tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    del metrics[name]
    write_json(folder / "metrics.json", metrics)
    (folder / "config.yaml").unlink()
    (folder / "events.jsonl").unlink()
    assert page_of(folder).balanced
    assert write_card(folder).exists()


def test_a_run_without_metrics_is_one_clear_error(tmp_path):
    with pytest.raises(WeitiaoError, match=r"metrics\.json"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_texts_that_utf8_cannot_hold_do_not_stop_page_or_card(tmp_path):
    folder = run_folder(tmp_path)
    broken = (folder / "metrics.json").read_text("utf-8").replace("14 texts twice", r"bad \ud800 mark \u0000")
    (folder / "metrics.json").write_text(broken, "utf-8")  # a lone surrogate is legal JSON and no text
    assert "bad � mark �" in page_of(folder).words
    assert "bad" in write_card(folder).read_text("utf-8")


@given(st.text(max_size=80))
@settings(max_examples=80)
def test_escaped_text_reads_as_it_was_and_is_no_markup(words):
    page = Page(f"<p>{text.escape(words)}</p>")
    assert page.tags == ["p"] and page.balanced
    kept = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "�", words)
    assert "".join(page.texts) == kept.replace("\r\n", "\n").replace("\r", "\n") or "\r" in words


def test_the_headline_is_the_test_set_or_else_the_last_split():
    assert main_split({"evaluation": {"test": {}, "validation": {}}}) == "test"
    assert main_split({"evaluation": {"validation": {}}}) == "validation"
    assert main_split({}) == ""


# ---- pictures ----


def svg(source):
    """The picture as a tree; fails where it is no XML."""
    return ElementTree.fromstring(source)


def test_large_confusion_matrix_shows_the_most_confused_classes():
    table = np.eye(40, dtype=int) * 50
    confused = [3, 17, 31]
    table[3, 17], table[17, 31], table[31, 3] = 9, 8, 7
    labels = [f"<{index}>" for index in range(40)]
    picture, shown = pictures.confusion(labels, table.tolist())
    assert len(shown) == pictures.CLASSES_SHOWN and {labels[i] for i in confused} <= set(shown)
    assert len([part for part in svg(picture).iter("rect")]) >= len(shown) ** 2
    assert pictures.top_confusions(labels, table.tolist()) == [
        ("<3>", "<17>", 9, 59),
        ("<17>", "<31>", 8, 58),
        ("<31>", "<3>", 7, 57),
    ]


def test_confusion_matrix_prints_each_count_once():
    picture, shown = pictures.confusion(["甲", "乙"], [[41, 2], [0, 57]])
    counts = [node.text for node in svg(picture).iter("text") if (node.text or "").isdigit()]
    assert shown == ["甲", "乙"] and counts == ["41", "2", "57"]


def test_best_score_is_marked_where_it_is():
    events = [
        {"event": "evaluation", "step": step, "scores": {"f1": score}}
        for step, score in ((10, 0.2), (20, 0.9), (30, 0.4))
    ]
    tree = svg(pictures.score_curve(events, "f1"))
    marks = [node for node in tree.iter("circle") if node.get("class") == "mark"]
    dots = [node for node in tree.iter("circle") if node.get("class") == "dot"]
    assert len(marks) == 1 and (marks[0].get("cx"), marks[0].get("cy")) == (
        dots[1].get("cx"),
        dots[1].get("cy"),
    )
    assert float(dots[1].get("cy")) < float(dots[2].get("cy")) < float(dots[0].get("cy"))


def test_the_level_of_an_n_gram_is_where_its_score_is():
    events = [
        {"event": "evaluation", "step": step, "scores": {"bits_per_byte": score}}
        for step, score in ((10, 3.0), (20, 2.0), (30, 1.5))
    ]
    ngram = {"order": 5, "tracked": 2.0, "passed": {"step": 30, "seconds": 90.0}}
    picture = pictures.score_curve(events, "bits_per_byte", ngram)
    tree = svg(picture)
    level = next(node for node in tree.iter("polyline") if node.get("class") == "level")
    heights = {point.split(",")[1] for point in level.get("points").split()}
    dots = [node.get("cy") for node in tree.iter("circle") if node.get("class") == "dot"]
    assert heights == {dots[1]}
    assert "passed at minute 1.5" in picture and "第 1.5 分钟超过" in picture
    assert "level" not in pictures.score_curve(events, "bits_per_byte")


def test_curves_of_a_resumed_run_go_forwards_and_leave_the_final_test_out():
    steps = [
        {"event": "step", "step": step, "loss": loss}
        for step, loss in ((1, 3.0), (2, 9.0), (2, 2.0), (3, 1.0))
    ]
    raw = next(svg(pictures.loss_curve(steps)).iter("polyline")).get("points").split()
    heights = [float(point.split(",")[1]) for point in raw]
    assert len(raw) == 3 and heights == sorted(heights)
    events = [
        {"event": "evaluation", "split": split, "step": step, "scores": {"f1": score}}
        for split, step, score in (("validation", 10, 0.2), ("validation", 20, 0.4), ("test", 20, 0.99))
    ]
    picture = pictures.score_curve(events, "f1")
    assert "40.0%" in picture and "99.0%" not in picture


def test_long_loss_curves_are_thinned_and_broken_losses_left_out():
    events = [
        {"event": "step", "step": step, "loss": 1 / step, "total_steps": 5000} for step in range(1, 5001)
    ]
    events.append({"event": "step", "step": 5001, "loss": float("nan")})
    lines = list(svg(pictures.loss_curve(events)).iter("polyline"))
    assert [len(line.get("points").split()) for line in lines] == [pictures.MOST_POINTS] * 2
    assert "nan" not in pictures.loss_curve(events)
    assert pictures.loss_curve([]) == pictures.score_curve([], "f1") == ""


def test_smoothing_keeps_a_constant_and_starts_at_the_first_value():
    assert pictures.smoothed([2.0] * 300) == pytest.approx([2.0] * 300)
    assert pictures.smoothed([5.0, *[1.0] * 299])[0] == pytest.approx(5)
    assert pictures.smoothed([5.0, 1.0]) == [5.0, 1.0]


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
@settings(max_examples=80)
def test_ticks_are_few_round_and_inside(low, span):
    found = pictures.ticks(low, low + span)
    assert 2 <= len(found) <= 7
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in found)
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_numbers_for_people():
    assert text.number("accuracy", 0.7334) == "73.3%" and text.number("spearman", 0.7334) == "0.733"
    assert text.interval("f1", [0.7, 0.8]) == "70.0 – 80.0%" and text.interval("f1", None) == ""
    assert [text.duration(each) for each in (8.25, 183.4, 7830)] == ["8.2 s", "3 min 03 s", "2 h 10 min"]
    assert [text.size(each) for each in (24e6, 1.35e9)] == ["24 MB", "1.35 GB"]


# ---- the model card ----


def test_card_front_matter_is_what_a_hub_reads(tmp_path):
    source = write_card(run_folder(tmp_path)).read_text(encoding="utf-8")
    front = yaml.safe_load(source.split("---\n")[1])
    assert front["license"] == "mit" and front["base_model"] == "multilingual-e5-small"
    assert front["pipeline_tag"] == "text-classification" and "lora" in front["tags"]
    assert "accuracy" in front["metrics"] and "zh" in front["language"]


@pytest.mark.parametrize("tongue", ["zh", "en"])
@pytest.mark.parametrize("kind", KINDS)
def test_card_says_scores_data_limits_and_how_to_load(kind, tongue, tmp_path, monkeypatch):
    monkeypatch.setenv("WEITIAO_LANG", tongue)
    folder = run_folder(tmp_path, kind)
    report = json.loads((folder / "metrics.json").read_text("utf-8"))["evaluation"]["test"]
    source = write_card(folder).read_text(encoding="utf-8")
    monitor = report["monitor"]
    for said in (
        text.number(monitor, report["scores"][monitor]),
        text.interval(monitor, report["intervals"][monitor]),
        text.number(monitor, report["baseline"][monitor]),
        "ab" * 32,
        "weitiao.load(",
        "AutoModel",
        "epochs: 3",
        "2.13.0",
        report["worst_slice"]["value"].split("<")[0],
    ):
        assert said in source, said
    assert ("## 局限" in source) == (tongue == "zh")
    outside_of_code = re.sub(r"```.*?```|`[^`\n]*`", "", source, flags=re.S)
    assert "<script" not in outside_of_code


def test_card_names_the_languages_that_were_evaluated():
    assert languages({"evaluation": {"test": {"languages": {"en": 990, "zh": 10}}}}) == ["en"]
    assert languages({"evaluation": {"test": {"languages": {"mixed": 100}}}}) == ["zh", "en"]
    assert languages({}) == ["zh", "en"]
