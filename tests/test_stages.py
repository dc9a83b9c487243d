"""Every task on a little real data, from the table to answers: finetune, evaluate, predict, load; and the settings."""

import csv
import gzip
import importlib.util
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weitiao
from weitiao.core.runs import sha256

FIXED = {"max_length": 48, "precision": "fp32", "threads": 1, "show": False, "learning_rate": 1e-3}
RUN_FILES = {"README.md", "config.yaml", "errors.csv", "events.jsonl", "metrics.json", "report.html", "model"}


@dataclass
class Case:
    """A table (below examples/data, or below shared/data), and how it is learnt."""

    source: str
    task: str
    settings: dict[str, Any] = field(default_factory=dict)
    main_score: str = "accuracy"
    shared: bool = False


STSB = ("pairs/zh_stsb_test.csv.gz", "text_matching")
CASES = {
    "csl": Case("csl/train.jsonl.gz", "text_classification"),
    "banking77": Case("banking77/train.csv.gz", "text_classification"),
    "finnl": Case("finance/finnl_eval.jsonl.gz", "text_classification",
                  {"multi_label": True, "label_separator": " "}, "micro_f1", shared=True),
    "weibo": Case("weibo/train.conll", "token_classification", {}, "f1"),
    "wnut17": Case("wnut17/train.conll", "token_classification", {}, "f1"),
    "cluener": Case("ner_relation/cluener_train.jsonl.gz", "token_classification", {}, "f1", shared=True),
    "finre": Case("finre/train.jsonl", "relation_extraction"),
    "semeval8": Case("semeval8/train.jsonl", "relation_extraction"),
    "pairs_demo": Case("pairs_demo/train.jsonl", "text_matching"),
    "stsb": Case(*STSB, {}, "spearman", shared=True),
    "stsb_cosent": Case(*STSB, {"encoder": "bi", "objective": "cosent"}, "spearman", shared=True),
    "stsb_contrastive": Case(*STSB, {"encoder": "bi", "objective": "contrastive"}, "spearman", shared=True),
}  # fmt: skip


def read_raw(path: Path) -> tuple[str, list[str]]:
    """A table's header (or "") and its rows, as they stand in the file."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        text = file.read()
    if ".conll" in path.name:
        return "", [block + "\n\n" for block in re.split(r"\n\s*\n", text.strip("\n"))]
    if ".csv" not in path.name:
        return "", text.splitlines(keepends=True)
    rows = [csv_row(row) for row in csv.reader(io.StringIO(text))]  # a cell may hold a line break
    return (rows[0], rows[1:]) if "banking" in str(path) else ("", rows)


def csv_row(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def labels_in(row: str, name: str, header: str) -> set[str]:
    """The labels a raw row carries."""
    if ".conll" in name:
        return {line.split("\t")[1][2:] for line in row.strip().split("\n")} - {""}
    if ".csv" in name:
        return {row.strip().rsplit(",", 1)[1]} if "category" in header else set()
    found = json.loads(row)
    label = found.get("label", found.get("relation"))
    return set(label) if isinstance(label, dict) else set(label.split(" "))


def subset(source: Path, folder: Path, train: int = 120, test: int = 40) -> tuple[Path, Path]:
    """Two tables in the source's format; the second has no label that the first lacks."""
    header, rows = read_raw(source)
    name = source.name.removesuffix(".gz")
    # Files may be sorted by label: rows are taken from all over the file.
    order = np.random.default_rng(0).permutation(len(rows))
    chosen = [rows[i] for i in order[:train]]
    known = set().union(*(labels_in(row, name, header) for row in chosen))
    rest = [rows[i] for i in order[train:] if labels_in(rows[i], name, header) <= known][:test]
    paths = folder / f"some_{name}", folder / f"test_{name}"
    for path, part in zip(paths, (chosen, rest), strict=True):
        path.write_text(header + "".join(part), encoding="utf-8")
    return paths


@dataclass
class Done:
    """A run and what it was made of."""

    case: Case
    run: Any
    train: Path
    test: Path


@pytest.fixture(scope="module")
def done(tiny_model: Path, root: Path, example_data: Path, tmp_path_factory: Any) -> Callable[[str], Done]:
    """The run of a case, trained when it is first asked for."""
    kept: dict[str, Done] = {}

    def of(name: str) -> Done:
        if name not in kept:
            case = CASES[name]
            place = root.parent / "shared" / "data" if case.shared else example_data
            if not (place / case.source).exists():
                pytest.skip(f"{case.source} is not on this machine")
            folder = tmp_path_factory.mktemp(name)
            train, test = subset(place / case.source, folder)
            settings = {
                **FIXED,
                **case.settings,
                "task": case.task,
                "model": str(tiny_model),
                "num_epochs": 1,
            }
            kept[name] = Done(
                case, weitiao.finetune(train, output=folder / "run", test_data=test, **settings), train, test
            )
        return kept[name]

    return of


def rows_of(test: Path, task: Any) -> list[dict[str, Any]]:
    """The test table as the task's records."""
    from weitiao.stages._prepare import read

    return read(task, str(test), {}, False)[0].to_list()


@pytest.mark.parametrize("name", CASES)
def test_the_run_folder_is_complete(done: Callable[[str], Done], name: str) -> None:
    run = done(name).run
    assert {path.name for path in run.folder.iterdir()} == RUN_FILES
    assert [event["event"] for event in run.events if event["event"] in ("step", "result")][-1] == "result"
    assert sum(event["event"] == "step" for event in run.events) == 8  # 120 examples in steps of 16
    report = run.metrics["evaluation"]["test"]
    score = done(name).case.main_score
    low, high = report["intervals"][score]
    assert low <= report["scores"][score] <= high
    assert {score, "answer"} <= set(report["baseline"])
    assert run.metrics["data"]["train"] | {"sha256": ""} == {
        "name": done(name).train.name,
        "sha256": "",
        "rows": 120,
    }
    assert run.metrics["data"]["test"]["sha256"] == sha256(done(name).test)


@pytest.mark.parametrize("name", CASES)
def test_evaluate_repeats_the_runs_own_scores(done: Callable[[str], Done], name: str) -> None:
    run, test = done(name).run, done(name).test
    scores = weitiao.evaluate(run, test, output=str(test.parent / "again"))
    assert scores == pytest.approx(run.metrics["evaluation"]["test"]["scores"], abs=1e-5)
    again = json.loads((test.parent / "again" / "metrics.json").read_text())
    assert again["baseline"]["answer"] == run.metrics["evaluation"]["test"]["baseline"]["answer"]
    assert (test.parent / "again" / "errors.csv").read_text() == (run.folder / "errors.csv").read_text()


def asked(record: dict[str, Any], task: str, raw: dict[str, Any]) -> Any:
    """What a person would pass to ``predict`` for a test record."""
    if task == "text_matching":
        return record["text_a"], record["text_b"]
    return (
        {k: raw[k] for k in ("text", "head", "tail") if k in raw}
        if task == "relation_extraction"
        else record["text"]
    )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.main_score != "f1"])
def test_predictions_are_those_that_were_scored(done: Callable[[str], Done], name: str) -> None:
    case, run, test = done(name).case, weitiao.load(done(name).run.folder), done(name).test
    records = rows_of(test, run.task)
    raw = [json.loads(row) if ".jsonl" in test.name else {} for row in read_raw(test)[1]]
    answers = run.predict([asked(record, case.task, r) for record, r in zip(records, raw, strict=True)])
    reported = run.metrics["evaluation"]["test"]["scores"][case.main_score]
    gold = [record["label"] for record in records]
    if case.main_score == "accuracy":
        assert np.mean([a["label"] == g for a, g in zip(answers, gold, strict=True)]) == pytest.approx(
            reported
        )
        assert all(0 < answer["score"] <= 1 for answer in answers)
    elif case.main_score == "spearman":
        from scipy.stats import spearmanr

        found = [answer["score"] for answer in answers]
        assert spearmanr(found, [float(g) for g in gold]).statistic == pytest.approx(reported, abs=1e-4)
    else:
        sets = [{label["label"] for label in answer} for answer in answers]
        right = sum(len(s & set(g)) for s, g in zip(sets, gold, strict=True))
        total = sum(len(s) + len(g) for s, g in zip(sets, gold, strict=True))
        assert 2 * right / total == pytest.approx(reported)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.main_score == "f1"])
def test_entities_stand_where_they_say(done: Callable[[str], Done], name: str) -> None:
    run, records = done(name).run, rows_of(done(name).test, done(name).run.task)
    # Confident in "O" after so little training, the tiny model is made to find something: its head says the first kind.
    texts = [record["text"] for record in records]
    run.model.head.linear.bias[1] += 100
    try:
        found = run.predict(texts)
    finally:
        run.model.head.linear.bias[1] -= 100
    assert all(found)
    for text, spans in zip(texts, found, strict=True):
        for span in spans:
            assert set(span) == {"entity_group", "word", "start", "end", "score"}
            assert text[span["start"] : span["end"]] == span["word"] == span["word"].strip() != ""
    gold = [{(s["start"], s["end"], s["label"]) for s in record["spans"]} for record in records]
    own = [{(s["start"], s["end"], s["entity_group"]) for s in spans} for spans in run.predict(texts)]
    right = sum(len(g & o) for g, o in zip(gold, own, strict=True))
    f1 = 2 * right / max(sum(map(len, gold)) + sum(map(len, own)), 1)
    assert f1 == pytest.approx(run.metrics["evaluation"]["test"]["scores"]["f1"])


def weights(run: Any) -> dict[str, str]:
    """The SHA-256 of each weights file of a run."""
    return {path.name: sha256(path) for path in run.model_folder.glob("*.safetensors")}


@pytest.mark.parametrize("name", ["csl", "stsb_cosent"])
def test_the_config_alone_makes_the_same_run(done: Callable[[str], Done], name: str, tmp_path: Path) -> None:
    from weitiao.cli import main

    run = done(name).run
    assert (
        main(["finetune", "--recipe", str(run.folder / "config.yaml"), "--output", str(tmp_path / "again")])
        == 0
    )
    assert weights(weitiao.load(tmp_path / "again")) == weights(run) != {}


# --- settings, on Chinese titles


@pytest.fixture(scope="module")
def train(tiny_model: Path, example_data: Path, tmp_path_factory: Any) -> Callable[..., Any]:
    """Fine-tune the tiny model on the same titles with other settings; runs are kept by their settings."""
    folder = tmp_path_factory.mktemp("settings")
    table, test = subset(example_data / "csl" / "train.jsonl.gz", folder)
    kept: dict[str, Any] = {}

    def run(**settings: Any) -> Any:
        key = json.dumps(settings, sort_keys=True)
        if key not in kept:
            fixed = {"model": str(tiny_model), "test_data": test, "num_epochs": 1, **FIXED}
            kept[key] = weitiao.finetune(table, output=folder / f"run{len(kept)}", **{**fixed, **settings})
        return kept[key]

    return run


def losses(run: Any) -> list[float]:
    return [event["loss"] for event in run.events if event["event"] == "step"]


def moved(run: Any) -> set[str]:
    return set(run.metrics["engagement"]["moved"])


def test_a_fitted_head_takes_no_steps(train: Callable[..., Any]) -> None:
    run = train(tuning="head", num_epochs=None)
    assert losses(run) == [] and moved(run) == {"head"}


def test_lora_keeps_an_adapter_only(train: Callable[..., Any]) -> None:
    run = train(tuning="lora", lora_rank=2)
    assert set(weights(run)) == {"adapter_model.safetensors", "head.safetensors"}
    assert run.metrics["model"]["trained_parameters"] < run.metrics["model"]["parameters"] / 10


def test_top_layers_leave_the_rest_as_it_was(train: Callable[..., Any], tiny_model: Path) -> None:
    import torch
    from safetensors.torch import load_file

    run = train(top_layers=1)
    before, after = (
        load_file(tiny_model / "model.safetensors"),
        load_file(run.model_folder / "model.safetensors"),
    )
    same = {name for name in before if name in after and torch.equal(before[name], after[name])}
    assert any("embeddings.word" in name for name in same)
    assert any("layer.0." in name for name in same) and not any("layer.1." in name for name in same)


def test_a_probe_is_a_better_start_than_chance(train: Callable[..., Any]) -> None:
    assert losses(train(start="probe", dropout=0.0))[0] < 0.5 * losses(train(dropout=0.0))[0]


def test_objectives_change_the_loss(train: Callable[..., Any]) -> None:
    plain = losses(train())[0]
    assert losses(train(objective="focal"))[0] < plain  # (1 - p)^2 < 1
    assert losses(train(class_weights="balanced"))[0] != pytest.approx(plain)
    assert "objective: cross_entropy" in (train(class_weights="balanced").folder / "config.yaml").read_text()
    assert losses(train(label_smoothing=0.1))[0] != pytest.approx(plain)


def test_checkpointing_the_gradients_changes_nothing(train: Callable[..., Any]) -> None:
    assert losses(train(gradient_checkpointing=True)) == pytest.approx(losses(train()), rel=1e-5)


def test_patience_ends_a_run_that_does_not_improve(
    tiny_model: Path, example_data: Path, tmp_path: Path
) -> None:
    table, dev = subset(example_data / "csl" / "train.jsonl.gz", tmp_path, train=48)
    settings = {**FIXED, "learning_rate": 1e-9, "num_epochs": 6, "patience": 2, "model": str(tiny_model)}
    run = weitiao.finetune(table, output=tmp_path / "run", dev_data=dev, test_data=dev, **settings)
    evaluations = [event for event in run.events if event["event"] == "evaluation"]
    assert [event["best"] for event in evaluations] == [True, False, False]
    assert any("stopped early" in event.get("text", "") for event in run.events)
    assert not (run.folder / "checkpoints").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_trackers_write_below_the_run(train: Callable[..., Any], name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    run = train(trackers=[name])
    assert any(path.is_file() for path in (run.folder / name).rglob("*"))
    assert losses(run) == losses(train())


def test_a_fitted_head_on_a_good_model_beats_the_majority(example_data: Path, tmp_path: Path) -> None:
    """all-MiniLM-L6-v2, 600 English bank questions of 77 kinds."""
    from weitiao.core.errors import WeitiaoError
    from weitiao.models.known import resolve_model

    try:
        resolve_model("all-MiniLM-L6-v2")
    except WeitiaoError as error:
        pytest.skip(str(error))
    table, test = subset(example_data / "banking77" / "train.csv.gz", tmp_path, train=600, test=150)
    settings = {**FIXED, "model": "all-MiniLM-L6-v2", "tuning": "head", "max_length": 32}
    report = weitiao.finetune(table, output=tmp_path / "run", test_data=test, **settings).metrics[
        "evaluation"
    ]["test"]
    assert report["baseline"]["accuracy"] < 0.1
    assert report["scores"]["accuracy"] > 0.6


@pytest.mark.parametrize("encoder", ["cross", "bi"])
def test_the_length_of_a_cut_pair_is_its_own(tiny_model: Path, encoder: str) -> None:
    from weitiao.core.catalogue import member
    from weitiao.data.encode import load_tokenizer

    task, tokenizer = member("tasks", "text_matching")(encoder=encoder), load_tokenizer(tiny_model)
    rows = [{"text_a": "a " * a, "text_b": "b " * b} for a, b in ((2, 3), (50, 50), (100, 3), (3, 100))]
    encoded = task.encode(rows, tokenizer, 20, None)
    # [CLS] a [SEP] b [SEP] together; alone, the longer of two [CLS] text [SEP].
    assert encoded.uncut.tolist() == ([8, 103, 106, 106] if encoder == "cross" else [5, 52, 102, 102])
    assert encoded.ids.lengths.max() == 20


def test_what_is_given_is_kept_and_only_the_rest_is_the_tasks() -> None:
    from weitiao.core.config import build
    from weitiao.stages import finetune

    own = finetune.checked(build(finetune.Config, {"data": "x", "task": "chat"}))
    assert (own.model, own.max_length, own.dev_fraction) == ("SmolLM2-135M-Instruct", 512, 0.1)
    given = {"model": "multilingual-e5-small", "max_length": 128, "dev_fraction": 0.1}
    for task in ("chat", "image_classification", "image_to_text"):
        tuning = "bridge" if task == "image_to_text" else "full"
        settings = {"data": "x", "task": task, "tuning": tuning, **given}
        kept = finetune.checked(build(finetune.Config, settings))
        assert {name: getattr(kept, name) for name in given} == given
