"""Comparing methods: the same rows for all, figures that are those of the runs, going on after a kill, refusals."""

import gzip
import json
import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats
from test_survival import SIGNALLED_AT, end, kill_at, start

import weitiao
from weitiao.cli import main
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import width
from weitiao.core.runs import read_events, read_json, sha256, write_json
from weitiao.reporting.comparison import table_text
from weitiao.reporting.text import size
from weitiao.stages._compared import t_interval
from weitiao.stages._held_out import held_out

RUNS = ("full-42", "lora-42", "full-43", "lora-43")


@pytest.fixture(scope="module")
def settings(tiny_model: Path, example_data: Path, tmp_path_factory: Any) -> dict[str, Any]:
    """Titles of papers of two fields, 40 of each: 4 steps an epoch, a checkpoint each 2."""
    with gzip.open(example_data / "csl" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        every = [json.loads(line) for line in file]
    rows = [row for name in ("工学", "医学") for row in [r for r in every if r["label"] == name][:40]]
    table = tmp_path_factory.mktemp("data") / "titles.jsonl"
    table.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return {
        "data": str(table), "model": str(tiny_model), "tuning": "full,lora", "seeds": 2, "num_epochs": 1,
        "learning_rate": 0.003, "max_length": 32, "checkpoint_steps": 2, "threads": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(settings: dict[str, Any], tmp_path_factory: Any) -> tuple[Path, dict[str, Any]]:
    """A comparison that nothing disturbed, with what it found."""
    folder = tmp_path_factory.mktemp("compare") / "titles"
    return folder, weitiao.compare(output=folder, show=False, **settings)


def weights(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("model/*.safetensors"))
    }


def records(folder: Path) -> dict[str, str]:
    """The hash of each run's events: a run that is repeated or gone on with adds some."""
    return {path.parent.name: sha256(path) for path in (folder / "runs").glob("*/events.jsonl")}


def test_the_table_holds_the_figures_of_the_runs(whole):
    folder, found = whole
    assert found == json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert sorted(path.name for path in (folder / "runs").iterdir()) == sorted(RUNS)
    assert [method["name"] for method in found["methods"]] == ["full", "lora"]
    assert found["seeds"] == [42, 43]
    for method in found["methods"]:
        metrics = [
            read_json(folder / "runs" / f"{method['name']}-{seed}" / "metrics.json") for seed in (42, 43)
        ]
        scores = [each["evaluation"]["test"]["scores"][found["monitor"]] for each in metrics]
        assert method["score"] == pytest.approx(statistics.fmean(scores))
        assert [run["score"] for run in method["runs"]] == scores
        assert method["trained_parameters"] == metrics[0]["model"]["trained_parameters"]
        files = (folder / "runs" / f"{method['name']}-42" / "model").glob("*.safetensors")
        assert method["weights_bytes"] == sum(path.stat().st_size for path in files)
        assert method["seconds"] > 0
        assert found["baseline"] == metrics[0]["evaluation"]["test"]["baseline"][found["monitor"]]
    full, lora = found["methods"]
    assert lora["trained_parameters"] < full["trained_parameters"]
    assert lora["weights_bytes"] < full["weights_bytes"]


def test_every_run_has_the_same_rows_and_precision(whole):
    folder, _ = whole
    held = [held_out(weitiao.load(folder / "runs" / name), "", {}, 1000).row_numbers for name in RUNS]
    assert len(held[0]) == 16
    assert all(rows == held[0] for rows in held)
    kept = [yaml.safe_load((folder / "runs" / name / "config.yaml").read_text("utf-8")) for name in RUNS]
    assert len({each["precision"] for each in kept}) == 1 and kept[0]["precision"] != "auto"
    assert (
        weights(folder)["runs/full-42/model/head.safetensors"]
        != weights(folder)["runs/full-43/model/head.safetensors"]
    )  # the seeds do differ


def test_the_page_and_the_card_show_each_method(whole):
    folder, found = whole
    html = (folder / "compare.html").read_text(encoding="utf-8")
    assert "<script" not in html and "http" not in html.replace("http-equiv", "")
    assert html.count('class="mark"') == 2 and html.count('class="whisker"') == 2
    assert html.count('class="dot"') == 4
    assert "majority baseline" in html and "多数类基线" in html
    card = (folder / "README.md").read_text(encoding="utf-8")
    for name in RUNS:
        assert f"`runs/{name}`" in card
    assert f"| lora | {100 * found['methods'][1]['score']:.1f}% |" in card
    assert "| majority baseline |" in card


@pytest.mark.parametrize("language, word", [("en", "majority baseline"), ("zh", "多数类基线")])
def test_the_table_keeps_within_100_columns(whole, monkeypatch, language, word):
    monkeypatch.setenv("WEITIAO_LANG", language)
    _, found = whole
    long = {**found["methods"][0], "name": "p_tuning, cross_entropy+0.5*r_drop+supervised_contrastive+fgm"}
    long |= {"trained_parameters": 1_118_000_000, "weights_bytes": 4_470_000_000, "seconds": 7300.0}
    lines = table_text({**found, "methods": [*found["methods"], long]}).split("\n")
    assert len(lines) == 5
    assert {width(line) for line in lines} == {100}
    assert word in lines[-1] and "…" in lines[3]


def test_a_killed_comparison_goes_on_where_it_was(whole, settings, tmp_path):
    folder = tmp_path / "titles"
    flags = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", value)]
    # As the second checkpoint of the second run is begun.
    kill_at(
        "tempfile.mkdtemp", "lora-42/checkpoints/.step-00000004", 1, "compare", "--output", folder, *flags
    )
    assert not (folder / "comparison.json").exists()
    before = records(folder)
    assert sorted(before) == ["full-42", "lora-42"]
    found = weitiao.compare(output=folder, show=False, **settings)
    assert records(folder)["full-42"] == before["full-42"]
    notes = [event.get("text") for event in read_events(folder / "runs" / "lora-42")]
    assert "Going on from step 2" in notes
    undisturbed, expected = whole
    assert weights(folder) == weights(undisturbed)
    assert [m["score"] for m in found["methods"]] == [m["score"] for m in expected["methods"]]


def test_a_complete_comparison_trains_nothing_and_grows(whole, settings, tmp_path, capsys):
    folder = shutil.copytree(whole[0], tmp_path / "titles")
    before = records(folder)
    assert main(["compare", "--output", str(folder), "--resume"]) == 0
    said = capsys.readouterr().out
    assert "4 of 4 runs are complete already" in said
    assert records(folder) == before
    flags = ["--tuning", "full,lora,bitfit", "--seeds", "1"]
    assert main(["compare", "--output", str(folder), "--resume", *flags]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines()[:-1])) <= 100
    found = read_json(folder / "comparison.json")
    assert [method["name"] for method in found["methods"]] == ["full", "lora", "bitfit"]
    assert found["seeds"] == [42] and found["methods"][0]["interval"] is None
    assert {name: value for name, value in records(folder).items() if name in before} == before


def test_objectives_are_a_second_axis(settings, tmp_path):
    mine = {
        **settings,
        "tuning": "bitfit",
        "objective": "cross_entropy, cross_entropy+0.5*r_drop",
        "seeds": 1,
    }
    found = weitiao.compare(output=tmp_path / "titles", show=False, **mine)
    names = [method["name"] for method in found["methods"]]
    assert names == ["bitfit, cross_entropy", "bitfit, cross_entropy+0.5*r_drop"]
    plain, added = (method["runs"][0] for method in found["methods"])
    assert (plain["objective"], added["objective"]) == ("cross_entropy", "cross_entropy+0.5*r_drop")
    first, second = (
        [
            event["loss"]
            for event in read_events(tmp_path / "titles" / run["folder"])
            if event["event"] == "step"
        ]
        for run in (plain, added)
    )
    assert len(first) == len(second) == 4 and first != second
    again = {**mine, "objective": "", "num_epochs": 2, "overwrite": True}
    found = weitiao.compare(output=tmp_path / "titles", show=False, **again)
    assert [path.name for path in (tmp_path / "titles" / "runs").iterdir()] == ["bitfit-42"]
    assert found["methods"][0]["runs"][0]["num_epochs"] == 2


def test_ctrl_c_says_how_to_go_on(settings, tmp_path):
    folder = tmp_path / "titles"
    flags = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", value)]
    moment = ("tempfile.mkdtemp", "full-42/checkpoints/.step-00000002", 1, int(signal.SIGINT))
    code, said = end(start(*moment, "compare", "--output", folder, *flags, before=("-c", SIGNALLED_AT)))
    assert code == 2
    assert said.splitlines()[-1].endswith(f"Go on with: weitiao compare --output {folder} --resume")
    assert (folder / "runs" / "full-42" / "checkpoints").exists()


def test_other_settings_and_other_data_are_refused(whole, settings, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "titles")
    before = records(folder)
    with pytest.raises(WeitiaoError, match="num_epochs is 2 here, but 1 in the comparison"):
        weitiao.compare(output=folder, show=False, **{**settings, "num_epochs": 2})
    file = folder / "runs" / "lora-43" / "metrics.json"
    metrics = read_json(file)
    metrics["data"]["train"]["sha256"] = "0" * 64
    write_json(file, metrics)
    with pytest.raises(WeitiaoError, match="data has changed since the comparison began"):
        weitiao.compare(output=folder, show=False, **settings)
    assert records(folder) == before
    with pytest.raises(WeitiaoError, match="holds a run, not a comparison"):
        weitiao.compare(output=folder / "runs" / "full-42", show=False, **settings)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"tuning": "full,lorra"}, "Unknown tuning 'lorra'. Did you mean 'lora'?.*Known: adalora, adapter"),
        ({"tuning": "full,lora,full"}, "--tuning names full twice"),
        ({"objective": "cross_entropy,r_dorp"}, "Unknown objectives 'r_dorp'. Did you mean 'r_drop'?"),
        ({"objective": "focal,r_drop"}, "r_drop has no loss to add to"),
        (
            {"tuning": "full,head", "objective": "cross_entropy", "num_epochs": None},
            "--tuning head is a regression",
        ),
        ({"seeds": 0}, "seeds is 0"),
        ({"data": ""}, "No data"),
        ({"resume": True}, "Nothing to resume"),
        ({"task": "text_clasification"}, "text_classification"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(settings, tmp_path, wrong, said):
    folder = tmp_path / "runs"
    with pytest.raises(WeitiaoError, match=said):
        weitiao.compare(output=folder, show=False, **{**settings, **wrong})
    assert not folder.exists()


def test_the_interval_is_that_of_student_s_t():
    values = [0.61, 0.64, 0.66]
    expected = stats.t.interval(0.95, 2, loc=statistics.fmean(values), scale=stats.sem(values))
    assert t_interval(values) == pytest.approx(expected)
    assert t_interval([0.1, 0.9], (0.0, 1.0)) == [0.0, 1.0]
    assert t_interval([0.5]) is None


@pytest.mark.parametrize(
    "count, shown", [(86_400, "86 kB"), (1_430_000, "1.4 MB"), (24e6, "24 MB"), (1.354e9, "1.35 GB")]
)
def test_small_adapters_have_a_size_too(count, shown):
    assert size(count) == shown
