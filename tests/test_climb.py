"""The climb at toy size: every rung on real data, nothing done twice, what a kill interrupts goes on, one page for people."""

import csv
import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_ladder import digits  # noqa: F401 (a fixture)
from test_survival import kill_at

from weitiao.cli import main
from weitiao.core.config import read_yaml
from weitiao.core.messages import width
from weitiao.core.runs import read_events, read_json, sha256
from weitiao.data.readers import read_splits
from weitiao.reporting.climb import table_text
from weitiao.reporting.text import escape
from weitiao.stages._climb_shown import gradient_check

RUNS = (
    "1-mnist/cnn", "2-pretraining/causal", "2-pretraining/masked", "2-pretraining/untrained", "3-finetuning/without",
    "3-finetuning/own", "3-finetuning/known", "4-efficient/lora", "4-efficient/head", "5-bridge/reader",
    "6-generation/chat",
)  # fmt: skip
STEPLESS = {"4-efficient/head"}


@pytest.fixture(scope="module")
def flags(digits: Path, tiny_model: Path, example_data: Path, tmp_path_factory: Any) -> list[str]:  # noqa: F811
    """Scanned digits, questions to a bank of two kinds, and other questions as plain texts."""
    place = tmp_path_factory.mktemp("texts")
    (place / "questions").mkdir()
    for split, each in (("train", 40), ("test", 16)):
        with gzip.open(example_data / "banking77" / f"{split}.csv.gz", "rt", encoding="utf-8") as file:
            every = [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(file)]
        names = ("lost_or_stolen_card", "exchange_rate")
        rows = [row for name in names for row in [r for r in every if r["label"] == name][:each]]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (place / "questions" / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    corpus = [{"text": row["text"]} for row in every if row["label"] not in names][:700]
    (place / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus), encoding="utf-8")
    values = {
        "pictures": digits, "texts": place / "questions", "corpus": place / "corpus.jsonl", "model": tiny_model,
        "threads": 1,
    }  # fmt: skip
    return ["--quick", *(str(part) for key, value in values.items() for part in (f"--{key}", value))]


@pytest.fixture(scope="module")
def whole(flags: list[str], tmp_path_factory: Any) -> Path:
    """A climb that nothing disturbed."""
    folder = tmp_path_factory.mktemp("climb") / "whole"
    assert main(["climb", "--output", str(folder), *flags]) == 0
    return folder


def weights(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("model/*.safetensors"))
    }


def records(folder: Path) -> dict[str, str]:
    """The hash of each run's events: a run that is repeated or gone on with adds some."""
    return {str(path.parent.relative_to(folder)): sha256(path) for path in folder.glob("*/*/events.jsonl")}


def rung(folder: Path, name: str) -> dict[str, Any]:
    return next(each for each in read_json(folder / "climb.json")["rungs"] if each["name"] == name)


@pytest.mark.soak
def test_every_rung_is_there_with_the_figures_of_its_runs(whole):
    climbed = read_json(whole / "climb.json")
    runs = {run["folder"]: run for each in climbed["rungs"] for run in each["runs"]}
    assert tuple(runs) == RUNS
    for folder, run in runs.items():
        metrics = read_json(whole / folder / "metrics.json")
        report = metrics["evaluation"].get("test") or metrics["evaluation"]["held_out"]
        assert run["score"] == report["scores"][report["monitor"]]
        assert run["baseline"] == report["baseline"].get(report["monitor"])
    assert runs["1-mnist/cnn"]["score"] > runs["1-mnist/cnn"]["baseline"] + 0.3
    causal = runs["2-pretraining/causal"]
    assert causal["monitor"] == "bits_per_byte" and causal["score"] < runs["2-pretraining/untrained"]["score"]
    lora, full = runs["4-efficient/lora"], runs["3-finetuning/known"]
    assert lora["trained_parameters"] < full["trained_parameters"]
    assert lora["weights_bytes"] < full["weights_bytes"]


@pytest.mark.soak
def test_each_rung_uses_what_one_before_it_made(whole):
    settings = {run: read_yaml(whole / run / "config.yaml") for run in RUNS}
    assert settings["3-finetuning/own"]["model"] == str(whole / "2-pretraining" / "masked")
    assert settings["3-finetuning/without"]["model"] == str(whole / "2-pretraining" / "untrained")
    assert settings["5-bridge/reader"]["vision"] == str(whole / "1-mnist" / "cnn")
    for run in ("5-bridge/reader", "6-generation/chat"):
        assert settings[run]["model"] == str(whole / "2-pretraining" / "causal")


@pytest.mark.soak
def test_nothing_that_is_tested_on_is_in_the_corpus(whole):
    lines = (whole / "0-data" / "corpus" / "texts.jsonl").read_text("utf-8").splitlines()
    corpus = {json.loads(line)["text"] for line in lines}
    tables = read_splits(whole / "0-data" / "texts")
    assert corpus >= set(tables["train"].rows["text"]) and not corpus & set(tables["test"].rows["text"])
    assert read_splits(whole / "0-data" / "dialogues")["test"].rows["answer"] == tables["test"].rows["label"]


@pytest.mark.soak
def test_formulas_are_checked_on_the_trained_models(whole):
    check = rung(whole, "mnist")["gradient"]
    assert check["difference"] < 1e-12
    assert check["loss"] == pytest.approx(check["loss_formula"], rel=1e-9)
    assert sum(check["probabilities"]) == pytest.approx(1)
    assert sum(check["formula"]) == pytest.approx(0, abs=1e-12)
    assert check["formula"][check["names"].index(check["gold"])] < 0
    spelled = rung(whole, "pretraining")["spelled"]
    assert spelled["loss"] == pytest.approx(spelled["loss_formula"], rel=1e-9)
    assert spelled["text"] == spelled["first"] + "".join(spelled["pieces"])
    bits = -sum(np.log2(spelled["probabilities"])) / len("".join(spelled["pieces"]).encode())
    assert spelled["bits_per_byte"] == pytest.approx(bits)
    efficient = rung(whole, "efficient")
    layer = efficient["low_rank"]
    assert layer["rank"] == layer["a"][0] == 8 == layer["b"][1]
    trained = efficient["runs"][0]["trained_parameters"]
    assert layer["numbers"] + efficient["runs"][1]["trained_parameters"] == trained
    surest = [max(shares) for _, shares in rung(whole, "generation")["temperatures"]["rows"]]
    assert surest == sorted(surest, reverse=True) and surest[0] > surest[-1]


def test_the_gradient_check_would_see_a_wrong_answer():
    logits = np.array([2.0, 0.0, -1.0])
    check = gradient_check(logits, ["a", "b", "c"], "b")
    p = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(check["autograd"], p - [0, 1, 0])
    assert check["loss"] == pytest.approx(-np.log(p[1]))


@pytest.mark.soak
def test_the_page_stands_alone_in_both_languages(whole):
    html = (whole / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html and "http" not in html.replace("http-equiv", "")
    assert len(re.findall(r"<img src=\"data:image/png;base64,", html)) == html.count("<img")
    first, asked = rung(whole, "mnist"), rung(whole, "bridge")["asked"]
    assert html.count("<figure>") == len(first["digits"]) + len(first["errors"]) + 1 + len(asked)
    assert len(asked) == 4 * 3 and all(escape(each["question"]) in html for each in asked)
    assert html.count("<math ") == 2 + 2 + 1 + 1 + 1 + 2
    assert html.count("training loss</span>") == len(set(RUNS) - STEPLESS)
    assert html.count('class="en"') == html.count('class="zh"') > 60
    for text in [*rung(whole, "finetuning")["texts"], *rung(whole, "generation")["texts"]]:
        assert escape(text["said"]) in html


@pytest.mark.soak
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_keeps_within_100_columns(whole, monkeypatch, language):
    monkeypatch.setenv("WEITIAO_LANG", language)
    lines = table_text(read_json(whole / "climb.json")).split("\n")
    assert len(lines) == len(RUNS)
    assert max(map(width, lines)) <= 100


@pytest.mark.soak
def test_a_complete_climb_does_nothing_twice(whole, flags, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "again")
    before, page = records(folder), (folder / "report.html").read_bytes()
    assert main(["climb", "--output", str(folder), *flags]) == 0
    assert capsys.readouterr().out.count(": there already") == len(RUNS)
    assert records(folder) == before
    assert (folder / "report.html").read_bytes() == page


@pytest.mark.soak
def test_a_killed_climb_goes_on_where_it_was(whole, flags, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "killed")
    for path in (folder / "report.html", folder / "climb.json"):
        path.unlink()
    shutil.rmtree(folder / "4-efficient" / "lora")
    # As the checkpoint after the second epoch of a run is begun.
    kill_at("tempfile.mkdtemp", "4-efficient/lora/checkpoints/.step-", 2, "climb", "--output", folder, *flags)
    assert not (folder / "report.html").exists()
    before = records(folder)
    assert main(["climb", "--output", str(folder), *flags]) == 0
    after = records(folder)
    assert {run for run in RUNS if after[run] != before[run]} == {"4-efficient/lora"}
    assert any(
        "Going on from step" in str(e.get("text")) for e in read_events(folder / "4-efficient" / "lora")
    )
    assert weights(folder) == weights(whole)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--seed", "7"], "seed is 7 here, but 42 in the climb in"),
        (["--no-quick"], "quick is False here, but True in the climb in"),
    ],
)
def test_other_settings_are_refused_in_one_line(whole, flags, capsys, change, said):
    before = records(whole)
    assert main(["climb", "--output", str(whole), *flags, *change]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert records(whole) == before


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"--pictures": "titles"}, "has no column 'image'"),
        ({"--texts": "train.jsonl"}, "has no test part: give a folder with train and test"),
        ({"--texts": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_wrong_data_is_one_clear_line(flags, tmp_path, capsys, wrong, said):
    titles = Path(flags[flags.index("--texts") + 1])
    places = {
        "titles": titles,
        "train.jsonl": titles / "train.jsonl",
        "nowhere.csv": tmp_path / "nowhere.csv",
    }
    changed = list(flags)
    for flag, value in wrong.items():
        changed[changed.index(flag) + 1] = str(places[value])
    folder = tmp_path / "out"
    assert main(["climb", "--output", str(folder), *changed]) == 2
    err = capsys.readouterr().err
    assert said in err and err.strip().count("\n") == 0
    assert not (folder / "config.yaml").exists(), "so that the name can be mended"
    assert not list(folder.glob("0-data/.*")), "nothing half-written is left"


@pytest.mark.soak
def test_a_folder_with_another_run_is_left_alone(whole, flags, capsys):
    run = whole / "1-mnist" / "cnn"
    before = sorted(run.rglob("*"))
    assert main(["climb", "--output", str(run), *flags, "--overwrite"]) == 2
    assert "holds a run, not a climb" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before
