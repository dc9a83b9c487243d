"""``weitiao compress``: steps, recipes, targets and what is left behind; on a tiny trained run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weitiao
from weitiao.cli import main
from weitiao.core.config import build
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import ResultEvent
from weitiao.reporting.pareto import best, page, picture, table_text
from weitiao.runtime import load, open_bundle
from weitiao.stages import compress
from weitiao.stages._compress_data import read_texts
from weitiao.stages._held_out import held_out
from weitiao.stages._measure import Point
from weitiao.stages._target import Target, read_target

WORDS = {"a": ["银行卡丢了", "good money"], "b": ["转账失败", "the card"], "c": ["查余额", "bad bank"]}
QUICK = {"engine": "onnxruntime", "threads": 1}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"text": f"{text} {number}", "label": label}
        for number in range(24)
        for label in WORDS
        for text in WORDS[label]
    ]
    path = tmp_path_factory.mktemp("data") / "table.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def finetuned(tiny_model: Path, table: Path, folder: Path, **settings: Any) -> Path:
    fixed = {"model": str(tiny_model), "max_length": 32, "precision": "fp32", "threads": 1, "show": False}
    weitiao.finetune(data=str(table), output=folder, learning_rate=2e-3, num_epochs=2, **fixed, **settings)
    return folder


@pytest.fixture(scope="module")
def run(tiny_model: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuned(tiny_model, table, tmp_path_factory.mktemp("runs") / "run")


def compressed(run: Path, output: Path, **settings: Any) -> dict[str, Any]:
    *_, last = compress.run(
        build(compress.Config, {"run": str(run), "output": str(output), **QUICK, **settings})
    )
    assert isinstance(last, ResultEvent) and last.output == str(output)
    return last.result


def test_steps_end_in_a_bundle_that_says_what_each_of_them_cost(run, tmp_path):
    folder = tmp_path / "small"
    result = compressed(run, folder, steps="vocabulary,int8", int8_agreement=0.0, vocabulary_margin=0.0)
    bundle = open_bundle(folder)
    recipe = bundle.manifest["recipe"]
    assert [entry["step"] for entry in recipe] == ["vocabulary", "int8"]
    assert bundle.manifest["graph"]["precision"] == "int8"
    for entry in recipe:
        for side in ("before", "after"):
            found = entry[side]
            assert found["bytes"] > 0 and found["latency_ms"] > 0 and found["texts_per_second"] > 0
            assert 0 <= found["score"] <= 1 and 0 <= found["calibration_error"] <= 1
    assert recipe[0]["before"]["bytes"] > recipe[1]["after"]["bytes"]
    assert recipe[0]["after"]["agreement"] == 1.0, "the same pieces, the same answers"
    assert recipe[1]["settings"]["int8_agreement"] == 0.0
    assert {"compression.html", "README.md"} <= set(bundle.manifest["files"])
    assert len(result["points"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    answers = load(folder, **QUICK).predict(["银行卡丢了 3", "the card 9"])
    assert len(answers) == 2 and {answer["label"] for answer in answers} <= set("abc")


def test_a_compressed_bundle_has_a_certificate_a_reference_and_a_card_that_says_what_agrees(run, tmp_path):
    """Steps that cost decisions: the certificate tells them; only the service has to answer as the graph does."""
    pytest.importorskip("fastapi")
    folder = tmp_path / "small"
    steps = {"steps": "layers+int8", "keep_layers": 1, "int8_agreement": 0.0, "int8_way": "dynamic"}
    given = compressed(run, folder, **steps)["certificate"]
    bundle = open_bundle(folder)
    certificate, reference = (
        json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("certificate", "reference")
    )
    assert certificate == given and {"certificate.json", "reference.json"} <= set(bundle.manifest["files"])
    forms = {entry["name"]: entry for entry in certificate["compared"]}
    assert list(forms) == ["trained", "onnxruntime fp32", "HTTP service"]
    graph, service = forms["onnxruntime fp32"], forms["HTTP service"]
    assert graph["against"] == "trained" and not graph["must"] and graph["largest_difference"] > 1e-3
    assert service["against"] == "onnxruntime fp32" and service["must"]
    assert service["agreement"] == 1 and service["largest_difference"] <= service["tolerance"] == 1e-6
    assert (
        certificate["data"]["part"] == "test"
        and certificate["rows"] == bundle.manifest["recipe"][0]["after"]["rows"]
    )
    # The rows and decisions that the certificate names are those of the models themselves.
    trained, predictor = weitiao.load(run), load(folder, **QUICK)
    rows = held_out(trained, "", {}, 200)
    was, now = trained.predict(rows.items), predictor.predict(rows.items)
    changed = [
        {"row": row, "was": a["label"], "is": b["label"]}
        for row, a, b in zip(rows.row_numbers, was, now, strict=True) if a["label"] != b["label"]
    ]  # fmt: skip
    assert [{key: one[key] for key in ("row", "was", "is")} for one in graph["changed"]] == changed
    assert reference["texts"] == len(rows.items) and reference["embedding"]["dimension"] == 32
    labels = [answer["label"] for answer in now]
    assert reference["decisions"] == {name: labels.count(name) for name in reference["decisions"]}
    card = (folder / "README.md").read_text("utf-8")
    assert f"{100 * graph['agreement']:.2f} % of {len(rows.items)} held-out rows" in card
    assert "一致率" in card and "layers + int8" in card and "| as trained |" in card
    assert bundle.manifest["reference"] == "reference.json"


def test_a_recipe_taken_again_gives_the_same_model(run, tmp_path):
    compressed(run, tmp_path / "one", steps="feed_forward+layers", keep_width=32, keep_layers=1)
    compressed(run, tmp_path / "two", recipe=str(tmp_path / "one"))
    one, two = (open_bundle(tmp_path / name).manifest for name in ("one", "two"))
    assert one["files"]["model.onnx"] == two["files"]["model.onnx"]
    assert [entry["facts"] for entry in one["recipe"]] == [entry["facts"] for entry in two["recipe"]]


def test_what_is_kept_can_be_trained_on(run, table, tmp_path):
    compressed(run, tmp_path / "small", steps="heads,sparse", keep_heads=2, sparsity=0.8, keep_trainable=True)
    kept = tmp_path / "small-trainable"
    assert (kept / "model.packed.safetensors").exists() and not (kept / "model.safetensors").exists()
    texts = ["银行卡丢了 3", "the card 9", "查余额 4"]
    records = [{"text": text} for text in texts]
    found = load(tmp_path / "small", **QUICK).outputs(texts)
    np.testing.assert_allclose(found, weitiao.load(kept).outputs(records)[1], atol=1e-4)
    again = finetuned(kept, table, tmp_path / "again")
    description = json.loads((again / "model" / "config.json").read_text(encoding="utf-8"))
    assert description["num_attention_heads"] == 2 and description["attention_head_size"] == 8


def test_an_adapter_is_merged_first(tiny_model, table, tmp_path):
    run = finetuned(tiny_model, table, tmp_path / "lora", tuning="lora")
    compressed(run, tmp_path / "small", steps="vocabulary")
    texts = ["银行卡丢了 3", "the card 9"]
    wanted = weitiao.load(run).outputs([{"text": text} for text in texts])[1]
    np.testing.assert_allclose(load(tmp_path / "small", **QUICK).outputs(texts), wanted, atol=1e-4)


def test_an_adapter_that_no_weight_can_hold_is_refused(tiny_model, table, tmp_path):
    run = finetuned(tiny_model, table, tmp_path / "prompt", tuning="prompt")
    with pytest.raises(WeitiaoError, match="cannot be merged"):
        compressed(run, tmp_path / "small", steps="int8")
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(("settings", "said"), [
    ({}, "Give one of"),
    ({"steps": "int8", "target": "2x smaller"}, "Give one of"),
    ({"steps": "int8,vocabulary"}, "put it first"),
    ({"steps": "layers,layers"}, "twice"),
    ({"steps": "int9"}, "int8"),
    ({"target": "quite a bit faster"}, "quite a bit faster"),
    ({"steps": "layers", "keep_layers": 9}, "has 2 layers"),
    ({"steps": "vocabulary", "corpus": ["nowhere.txt"]}, "nowhere.txt"),
])  # fmt: skip
def test_what_cannot_work_leaves_nothing(run, tmp_path, settings, said):
    with pytest.raises(WeitiaoError, match=said):
        compressed(run, tmp_path / "small", **settings)
    assert list(tmp_path.iterdir()) == []


def test_labels_that_the_model_does_not_know_are_named(run, tmp_path):
    (tmp_path / "strange.jsonl").write_text('{"text": "银行卡", "label": "z"}\n' * 4, encoding="utf-8")
    with pytest.raises(WeitiaoError, match="'z' is unknown"):
        compressed(run, tmp_path / "small", steps="int8", data=str(tmp_path / "strange.jsonl"))


def test_where_the_runs_own_table_is_gone_another_serves_for_both(run, table, tmp_path):
    model = tmp_path / "model"
    model.symlink_to(run / "model")
    with pytest.raises(WeitiaoError, match="--data"):
        compressed(model, tmp_path / "small", steps="vocabulary")
    result = compressed(model, tmp_path / "small", steps="vocabulary", data=str(table))
    assert result["points"][0]["rows"] == 108, "three quarters of 144"


def test_a_target_within_reach_is_met_by_the_smallest_that_needs_no_training(run, tmp_path):
    result = compressed(run, tmp_path / "small", target="1.5x smaller, at most 100 points lost")
    names = [point["name"] for point in result["points"]]
    assert names == ["as trained", "int8", "vocabulary", "vocabulary + int8"]
    steps = [entry["step"] for entry in open_bundle(tmp_path / "small").manifest["recipe"]]
    smallest = min(result["points"][1:], key=lambda point: point["bytes"])["name"]
    assert steps == smallest.split(" + ")


def test_a_target_out_of_reach_names_the_nearest_and_leaves_the_picture(run, tmp_path, capsys):
    code = main(["compress", str(run), "--target", "900x smaller", "--output", str(tmp_path / "small"),
                 "--engine", "onnxruntime", "--threads", "1"])  # fmt: skip
    said = capsys.readouterr().err
    assert code == 2 and "900x smaller" in said and "nearest: " in said and "x smaller, " in said
    assert [path.name for path in tmp_path.iterdir()] == ["small.html"]
    assert "<svg" in (tmp_path / "small.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("text", "target"), [
    ("4x faster, at most 0.5 points lost", Target(4, 0, 0.5)),
    ("10 times smaller", Target(0, 10, 100)),
    ("2.5x faster and 3x smaller, at most 1 point lost", Target(2.5, 3, 1)),
    ("快 4 倍，最多损失 0.5 个点", Target(4, 0, 0.5)),
    ("体积小10倍；不超过 1 个百分点", Target(0, 10, 1)),
])  # fmt: skip
def test_targets_are_read_in_both_languages(text, target):
    assert read_target(text) == target


@pytest.mark.parametrize("text", ["fast", "0.5x faster", "4x faster, cheap", " , "])
def test_other_words_are_no_target(text):
    with pytest.raises(WeitiaoError, match="--target"):
        read_target(text)


def point(name: str, size: int, latency: float, score: float) -> Point:
    return Point(name, size, latency, 1000 / latency, score, "accuracy", 0.02, 1.0, "onnxruntime", 100)


def test_the_shortfall_is_0_just_where_the_target_is_met():
    start = point("start", 1000, 10, 0.9)
    target = Target(faster=2, smaller=4, lost=1)
    assert target.shortfall(point("good", 250, 5, 0.89), start) == 0
    for worse in (point("slow", 250, 5.1, 0.9), point("big", 260, 5, 0.9), point("bad", 250, 5, 0.88)):
        assert target.shortfall(worse, start) > 0


def test_unbeaten_points_are_told_from_the_others():
    points = [point(*values).as_json() for values in (
        ("start", 1_000_000, 10, 0.9), ("small", 300_000, 10, 0.9), ("quick", 400_000, 4, 0.88),
        ("useless", 400_000, 11, 0.88),
    )]  # fmt: skip
    assert best(points) == [False, True, True, False]
    assert picture(points).count('class="mark"') == 2 and picture(points).count("<circle") == 4
    assert table_text(points).count("\n") == 5
    assert "<b>" not in page("<b>", points)


def test_texts_come_from_lines_and_from_tables(tmp_path, table):
    (tmp_path / "lines.txt").write_text("one\n\n 二 \n", encoding="utf-8")
    assert read_texts(str(tmp_path / "lines.txt")) == ["one", "二"]
    assert len(read_texts(str(table))) == 144
