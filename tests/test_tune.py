"""Searching: the space and its refusals, trials kept through kills, one test score, the report; the rate test."""

import gzip
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_survival import SIGNALLED_AT, end, kill_at, start

import weitiao
from weitiao.cli import main
from weitiao.core.config import build
from weitiao.core.errors import Interrupted, WeitiaoError
from weitiao.core.messages import width
from weitiao.core.runs import read_events, read_json, sha256
from weitiao.stages import finetune, tune
from weitiao.stages._space import Axis, draw, read_space
from weitiao.stages._study import Study, base_values
from weitiao.training.interrupt import undisturbed

SEARCH = {"learning_rate": "1e-4..1e-2 log", "batch_size": [4, 8]}


@pytest.fixture(scope="module")
def settings(tiny_model: Path, example_data: Path, tmp_path_factory: Any) -> dict[str, Any]:
    """Titles of papers of two fields, in three parts; 2 epochs of 6 or 12 steps."""
    with gzip.open(example_data / "csl" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        every = [json.loads(line) for line in file]
    fields = [[row for row in every if row["label"] == name] for name in ("工学", "医学")]
    folder = tmp_path_factory.mktemp("data") / "titles"
    folder.mkdir()
    for name, first, last in (("train", 0, 24), ("dev", 24, 36), ("test", 36, 48)):
        rows = [json.dumps(row, ensure_ascii=False) for rows in fields for row in rows[first:last]]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {
        "data": str(folder), "model": str(tiny_model), "num_epochs": 2, "max_length": 32, "threads": 1,
        "precision": "fp32",
    }  # fmt: skip


@pytest.fixture(scope="module")
def recipe(settings: dict[str, Any], tmp_path_factory: Any) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump({**settings, "search": SEARCH}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: Any) -> Path:
    """A search that nothing disturbed."""
    folder = tmp_path_factory.mktemp("tune") / "titles"
    assert main(["tune", str(recipe), "--trials", "4", "--pruner", "none", "--output", str(folder)]) == 0
    return folder


def told(result: dict[str, Any]) -> list[Any]:
    """What a search found, but for its times."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in result["trials"]]


def events(folder: Path) -> dict[str, str]:
    """The hash of each trial's events: a trial that is repeated or gone on with adds some."""
    return {path.parent.name: sha256(path) for path in folder.glob("trials/*/events.jsonl")}


# --- the space


def space(search: dict[str, Any], **base: Any) -> list[Axis]:
    return read_space(search, {"tuning": "full", "task": "text_classification", **base})


def test_ranges_and_choices_are_read_in_every_way_they_are_written():
    assert space({"learning-rate": "1e-5..1e-3 log"}) == [Axis("learning_rate", (), 1e-5, 1e-3, True)]
    assert space({"dropout": {"low": 0, "high": 0.3}}) == [Axis("dropout", (), 0.0, 0.3)]
    assert space({"num_epochs": "1 .. 4"}) == [Axis("num_epochs", (), 1, 4, whole=True)]
    assert space({"batch_size": "8|16"}) == space({"batch_size": [8, "16"]}) == [Axis("batch_size", (8, 16))]
    assert space({"dropout": [None, 0.1]}) == [Axis("dropout", (None, 0.1))]


def test_a_member_s_setting_is_drawn_where_the_member_is():
    import optuna

    axes = space({"lora_rank": "4|8", "tuning": ["full", "lora"]})
    assert [axis.name for axis in axes] == ["tuning", "lora_rank"]
    for tuning in ("full", "lora"):
        trial = optuna.trial.FixedTrial({"tuning": tuning, "lora_rank": 8})
        assert set(draw(axes, trial, {})) == {"tuning"} | ({"lora_rank"} if tuning == "lora" else set())


@pytest.mark.parametrize(
    "search, said",
    [
        ({}, "Nothing to search"),
        ({"lerning_rate": "1e-5..1e-3"}, "unknown setting 'lerning_rate'. Did you mean 'learning_rate'?"),
        ({"lora_rank": "4|8"}, "unknown setting 'lora_rank'"),  # full has none
        ({"test_fraction": "0.1..0.5"}, "test_fraction is the same for every trial"),
        ({"learning_rate": "1e-3..1e-5"}, "learning_rate runs from 0.001 to 1e-05"),
        ({"dropout": "0..0.3 log"}, "above 0 for a log scale"),
        ({"dropout": "0.1..1.5"}, "dropout is 1.5; it must lie in 0 .. 0.9"),
        ({"batch_size": "8|many"}, "batch_size is 'many'; it must be a whole number"),
        ({"batch_size": "8|8"}, "names a choice twice"),
        ({"batch_size": {"from": 1}}, "write a range"),
        ({"tuning": "full|lorra"}, "Did you mean 'lora'?"),
        ({"schedule": "linear..cosine"}, "write a range"),
    ],
)
def test_a_space_that_cannot_work_is_one_line(search, said):
    with pytest.raises(WeitiaoError, match=said.replace("?", r"\?")) as caught:
        space(search)
    assert "\n" not in str(caught.value)


# --- the search


def test_each_trial_is_a_run_and_only_the_best_is_tested(whole, settings):
    result = read_json(whole / "tune.json")
    assert [row["place"] for row in result["trials"]] == [0, 1, 2, 3]
    best = max(result["trials"], key=lambda row: (row["score"], -row["place"]))
    assert result["best"] == best["place"]
    for row in result["trials"]:
        folder = whole / row["folder"]
        metrics = read_json(folder / "metrics.json")
        assert row["score"] == metrics["evaluation"]["dev"]["scores"][result["monitor"]]
        assert ("test" in metrics["evaluation"]) == (row is best)
        assert (folder / "model").exists() == (row is best) and not (folder / "checkpoints").exists()
        kept = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
        assert {name: kept[name] for name in SEARCH} == row["settings"]
        assert (kept["seed"], kept["split_seed"]) == (42 + row["place"], 42)
        assert [epoch for epoch, _ in row["curve"]] == [1, 2]
    assert len({row["settings"]["learning_rate"] for row in result["trials"]}) == 4
    again = weitiao.evaluate(whole / "best", Path(settings["data"]) / "test.jsonl")
    assert again[result["monitor"]] == pytest.approx(result["test"]["score"])
    assert result["test"]["rows"] == 24


def test_the_best_settings_are_a_recipe(whole):
    kept = yaml.safe_load((whole / "best" / "config.yaml").read_text("utf-8"))
    assert build(finetune.Config, kept).learning_rate == kept["learning_rate"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_report_shows_every_trial_and_loads_nothing(whole, monkeypatch, language):
    from weitiao.reporting.search import markdown, page, table_text

    monkeypatch.setenv("WEITIAO_LANG", language)
    result = read_json(whole / "tune.json")
    html = page("titles", result)
    assert "<script" not in html and "http" not in html.replace("http-equiv", "")
    assert html.count('class="mark"') == 3  # once in the history, once for each setting
    assert html.count('class="dot"') == 3 * 3
    assert result["importance"] and html.count('class="fill"') == len(result["importance"])
    assert sum(result["importance"].values()) == pytest.approx(1)
    card = markdown("titles", result)
    assert all(f"| {row['place'] + 1} |" in card for row in result["trials"])
    many = {**result, "space": [{"name": f"a_long_setting_{n}", "choices": [1]} for n in range(9)]}
    for lines in (table_text(result), table_text(many)):
        assert max(width(line) for line in lines.split("\n")[:-1]) <= 100


def test_a_killed_search_goes_on_as_an_undisturbed_one_would(whole, recipe, tmp_path):
    folder = tmp_path / "titles"
    flags = ["tune", recipe, "--trials", 4, "--pruner", "none", "--output", folder]
    # As the second trial has saved its first epoch and begins to save its second.
    last = yaml.safe_load((whole / "trials" / "001" / "config.yaml").read_text("utf-8"))["batch_size"]
    steps = 2 * 48 // last
    kill_at("tempfile.mkdtemp", f"001/checkpoints/.step-{steps:08d}", 1, *flags)
    before = events(folder)
    assert sorted(before) == ["000", "001"] and not (folder / "tune.json").exists()
    assert main(["tune", "--output", str(folder), "--resume"]) == 0
    result, expected = read_json(folder / "tune.json"), read_json(whole / "tune.json")
    assert told(result) == told(expected) and result["best"] == expected["best"]
    assert events(folder)["000"] == before["000"]  # not trained again
    notes = [event.get("text") for event in read_events(folder / "trials" / "001")]
    assert f"Going on from step {steps // 2}" in notes


def opened(settings: dict[str, Any], folder: Path, **more: Any) -> Study:
    """A search in a folder, as a new process finds it."""
    config = build(tune.Config, {**settings, "search": SEARCH, "output": str(folder), **more})
    return Study(config, read_space(config.search, base_values(config)), base_values(config))


def test_a_trial_that_is_killed_twice_is_given_up(settings, tmp_path):
    first = opened(settings, tmp_path).ask()  # and nothing more: the process is gone
    study = opened(settings, tmp_path)
    assert study.mend() == 1
    second = study.ask()
    assert (second.place, second.values, second.folder) == (first.place, first.values, first.folder)
    assert study.found() == []
    study = opened(settings, tmp_path)
    assert study.mend() == 1
    assert [(row["place"], row["state"], row["reason"]) for row in study.found()] == [
        (0, "failed", "it was killed")
    ]
    assert study.ask().place == 1


def test_a_trial_that_was_stopped_by_hand_is_gone_on_with_however_often(settings, tmp_path):
    for _ in range(3):
        study = opened(settings, tmp_path)
        study.mend()
        trial = study.ask()
        assert trial.place == 0
        trial.asked.set_user_attr("stopped", True)


@pytest.mark.soak
def test_ctrl_c_says_how_to_go_on(recipe, tmp_path):
    folder = tmp_path / "titles"
    moment = ("tempfile.mkdtemp", "000/checkpoints/.step-", 1, int(signal.SIGINT))
    flags = ("tune", recipe, "--trials", 1, "--output", folder)
    code, said = end(start(*moment, *flags, before=("-c", SIGNALLED_AT)))
    assert code == 2
    assert said.splitlines()[-1].endswith(f"Go on with: weitiao tune --output {folder} --resume")
    assert main(["tune", "--output", str(folder), "--resume"]) == 0
    assert [row["state"] for row in read_json(folder / "tune.json")["trials"]] == ["complete"]


def test_ctrl_c_before_a_trial_has_a_folder_is_no_failure_of_it(settings, tmp_path, monkeypatch):
    """However often: the search says how to go on, and does."""
    values = {**settings, "search": SEARCH, "trials": 1, "output": str(tmp_path / "out")}

    def pressed(_: Any) -> Any:
        raise KeyboardInterrupt
        yield

    with monkeypatch.context() as patched:
        patched.setattr(tune, "trial_events", pressed)
        for resume in (False, True, True):
            with pytest.raises(
                Interrupted, match=r"everything is saved\. Go on with: weitiao tune --output .* --resume"
            ):
                list(tune.run(build(tune.Config, values | {"resume": resume})))
    list(tune.run(build(tune.Config, values | {"resume": True})))
    assert [row["state"] for row in read_json(tmp_path / "out" / "tune.json")["trials"]] == ["complete"]


def test_ctrl_c_as_the_best_trial_is_scored_says_how_to_go_on(whole, tmp_path, monkeypatch):
    from weitiao.stages import _tuned

    folder = shutil.copytree(whole, tmp_path / "titles", symlinks=True)
    before = read_json(folder / "tune.json")
    (folder / "tune.json").unlink()

    def pressed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_tuned, "score_test", pressed)
        assert main(["tune", "--output", str(folder), "--resume"]) == 2
    assert main(["tune", "--output", str(folder), "--resume"]) == 0
    assert read_json(folder / "tune.json") == before


def test_ctrl_c_waits_for_the_end_of_a_commit():
    done = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), undisturbed():
        signal.raise_signal(signal.SIGINT)
        done.append("committed")
    assert done and signal.getsignal(signal.SIGINT) is before
    with undisturbed():
        pass


def test_a_search_grows_and_repeats_nothing(whole, recipe, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "titles", symlinks=True)
    before = events(folder)
    assert main(["tune", "--output", str(folder), "--resume", "--trials", "5"]) == 0
    assert "4 of 5 trials have ended already" in capsys.readouterr().out
    after = events(folder)
    assert after.keys() - before.keys() == {"004"}
    assert {name: after[name] for name in before} == before
    for arguments, said in (
        ([str(recipe)], "already holds a search"),
        (["--resume", "--num-epochs", "3"], "num_epochs is 3 here, but 2 in the run"),
    ):
        assert main(["tune", "--output", str(folder), *arguments]) == 2
        assert said in capsys.readouterr().err


def test_an_ensemble_of_a_search_that_grew_takes_the_models_that_were_kept(whole, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "titles", symlinks=True)
    kept = sorted(path.parent.name for path in folder.glob("trials/*/model"))
    assert len(kept) == 1
    # That of the fifth trial stays too where it is among the three best.
    assert main(["tune", "--output", str(folder), "--resume", "--trials", "5", "--ensemble", "3"]) == 0
    models = sorted(path.parent.name for path in folder.glob("trials/*/model"))
    said = " ".join("".join(capsys.readouterr()).split())  # lines are broken anywhere
    assert f"--ensemble 3: the search had kept the models of {len(models)} trials only" in said
    found = read_json(folder / "tune.json").get("ensemble")
    assert (sorted(found["members"]) if found else None) == (models if len(models) > 1 else None)


def test_a_trial_that_falls_behind_is_given_up_early(settings, tmp_path):
    study = opened(settings, tmp_path, num_epochs=4)
    for place in range(5):  # five that were better after every epoch
        trial = study.ask()
        assert trial.place == place and not any([trial.report(epoch, 0.99) for epoch in (1, 2, 3, 4)])
        study.study.tell(trial.asked, 0.99)
    trial = study.ask()
    seen = list(tune.watched(study, trial))
    assert [type(event).__name__ for event in seen][-1] == "EvaluationEvent"
    row = study.found()[-1]
    assert row["state"] == "pruned" and [epoch for epoch, _ in row["curve"]] == [1]
    assert not (trial.folder / "model").exists() and not (trial.folder / "checkpoints").exists()
    assert row["score"] == max(score for _, score in row["curve"])
    study.config.learning_rate = study.base["learning_rate"] = 1e30  # and one whose loss overflows
    study.axes = [axis for axis in study.axes if axis.name != "learning_rate"]
    list(tune.watched(study, study.ask()))
    assert (study.found()[-1]["state"], study.found()[-1]["place"]) == ("failed", 6)
    assert "loss is" in study.found()[-1]["reason"]


def test_a_search_without_a_dev_part_is_refused_before_anything_is_trained(settings, tmp_path):
    values = {**settings, "data": str(Path(settings["data"]) / "train.jsonl"), "search": SEARCH}
    with pytest.raises(WeitiaoError, match="A search chooses by a dev part"):
        list(tune.run(build(tune.Config, {**values, "output": str(tmp_path / "out")})))
    assert not (tmp_path / "out").exists()
    with pytest.raises(WeitiaoError, match="The first 3 trials failed: The loss is"):
        values = {**settings, "search": {"learning_rate": [1e30, 2e30]}, "output": str(tmp_path / "bad")}
        list(tune.run(build(tune.Config, values)))


@pytest.mark.soak
def test_ray_runs_trials_side_by_side_and_finds_what_one_after_the_other_does(
    whole, recipe, tmp_path, capsys
):
    pytest.importorskip("ray")
    folder = tmp_path / "titles"
    flags = ["--trials", "4", "--pruner", "none", "--sampler", "random", "--engine", "ray", "--parallel", "2"]
    assert main(["tune", str(recipe), *flags, "--output", str(folder)]) == 0
    result = read_json(folder / "tune.json")
    assert [row["state"] for row in result["trials"]] == ["complete"] * 4
    alone = tmp_path / "alone"
    flags = ["--trials", "4", "--pruner", "none", "--sampler", "random"]
    assert main(["tune", str(recipe), *flags, "--output", str(alone)]) == 0
    assert told(read_json(alone / "tune.json")) == told(result)
    assert "test" in read_json(folder / "best" / "metrics.json")["evaluation"]
