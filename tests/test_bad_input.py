"""Bad input costs one clear line and exit code 2, and leaves nothing behind."""

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weitiao.cli import main
from weitiao.core.runs import sha256
from weitiao.stages._predictor import weights_hash

Rows = list[list[str]]
Refused = Callable[..., str]


def write(
    path: Path, rows: Rows, header: tuple[str, ...] = ("text", "label"), encoding: str = "utf-8"
) -> Path:
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([header, *rows] if header else rows)
    return path


@pytest.fixture(scope="session")
def rows(example_data: Path) -> Rows:
    """120 questions to a bank, of three kinds by turns."""
    import pandas

    table = pandas.read_csv(example_data / "banking77" / "train.csv.gz")
    groups = [list(group["text"]) for _, group in list(table.groupby("category"))[:3]]
    turns = zip(*groups, strict=False)
    return [[text, f"kind {place}"] for texts in turns for place, text in enumerate(texts)][:120]


@pytest.fixture
def good(rows: Rows, tmp_path: Path) -> Path:
    return write(tmp_path / "good.csv", rows)


@pytest.fixture
def basics(tiny_model: Path) -> list[str]:
    """What makes a run small."""
    words = ["--max-length", "48", "--num-epochs", "1", "--precision", "fp32", "--threads", "1"]
    return ["--model", str(tiny_model), *words]


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    """Run a command that must be refused. Returns the one line that it says."""

    def run(*argv: Any, warned: bool = False) -> str:
        capfd.readouterr()
        before = sorted(tmp_path.rglob("*"))
        code = main([str(word) for word in argv])
        *warnings, line = capfd.readouterr().err.splitlines() or [""]
        assert code == 2
        assert line.startswith("weitiao: ") and len(line) > len("weitiao: ")
        assert not any(other.startswith(("weitiao", "Traceback")) for other in warnings)
        assert bool(warnings) == warned, warnings
        assert sorted(tmp_path.rglob("*")) == before, "something was left behind"
        return line

    return run


@pytest.fixture
def refused_training(refused: Refused, basics: list[str], tmp_path: Path) -> Refused:
    """``finetune`` on data that must be refused."""

    def run(data: Any, *more: Any, **how: Any) -> str:
        return refused("finetune", *basics, "--data", data, "--output", tmp_path / "run", *more, **how)

    return run


# --- data


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"text,label\n", "no rows"),
        (b"text,label\nok,a\n\xff\xfe\xfd,b\n", "neither UTF-8 nor GB18030: byte 0xff at offset 16 (line 3)"),
        (b"text,label\nfirst,same\nsecond,same\nthird,same\n", "same label 'same'"),
        (b"text,label\nonly one,a\n", "Too few different texts (1)"),
        (b"id,label\n1,a\n2,b\n", "no column for 'text'"),
        (b"text,author\nx,a\ny,b\n", "no column for 'label'"),
        (b"text,label\nfirst,a\nsecond\n", "row 3"),
        (b"text,label\nfirst,a\nsecond,\n", "bad.csv, row 3, column 'label'"),
        (b"text,text,label\nfirst,again,a\n", "'text'"),
    ],
)
def test_bad_tables(refused_training: Refused, tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    line = refused_training(tmp_path / "bad.csv")
    assert expected in line
    assert "bad.csv" in line or content.startswith((b"text,label\nfirst,same", b"text,label\nonly"))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("bad.jsonl", '{"text": "one", "label": "a"}\n{"text": "two", "lab\n', "bad.jsonl, row 2"),
        ("bad.json", '[{"text": "one", "label": "a"}, {"text"', "item 2"),
        ("bad.parquet", "not a table", "not a whole Parquet file"),
        ("bad.csv.gz", "not compressed", "gzip"),
        ("bad.xlsx", "a spreadsheet", ".csv"),
    ],
)
def test_bad_files(refused_training: Refused, tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert expected in refused_training(tmp_path / name)


def test_no_file_and_no_data(refused: Refused, refused_training: Refused, tmp_path: Path) -> None:
    assert "nowhere.csv" in refused_training(tmp_path / "nowhere.csv")
    assert "--data" in refused("finetune")
    (tmp_path / "folder").mkdir()
    assert "folder" in refused_training(tmp_path / "folder")


def test_a_label_in_test_that_training_never_shows(
    refused_training: Refused, good: Path, tmp_path: Path
) -> None:
    test = write(tmp_path / "test.csv", [["When does my card come?", "kind 0"], ["Who are you?", "kind 9"]])
    assert "'kind 9' (1)" in refused_training(good, "--test-data", test)


def test_a_column_that_is_not_there(refused_training: Refused, good: Path) -> None:
    line = refused_training(good, "--columns", "text=txet")
    assert "no column 'txet'. Did you mean 'text'? Its columns: text, label" in line
    assert "Did you mean 'text'?" in refused_training(good, "--columns", "tetx=text")


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("text_matching", "no column for 'text_a'"),
        ("relation_extraction", "row 2"),
        ("token_classification", "row 2"),
    ],
)
def test_the_wrong_task_for_the_data(refused_training: Refused, good: Path, task: str, expected: str) -> None:
    assert expected in refused_training(good, "--task", task)


def test_a_bad_row_is_named_or_skipped_and_listed(
    refused_training: Refused,
    rows: Rows,
    basics: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bad = write(tmp_path / "rows.csv", [*rows[:10], ["no label", ""], *rows[10:], ["another", ""]])
    line = refused_training(bad)
    assert f"{bad}, row 12, column 'label': there is no label. Mend the row, or pass --skip-bad-rows" in line
    assert (
        main(["finetune", *basics, "--data", str(bad), "--output", str(tmp_path / "run"), "--skip-bad-rows"])
        == 0
    )
    assert "2 bad rows skipped: 12 (" in capfd.readouterr().err.replace("\n", " ")
    data = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))["data"]
    assert data["train"]["rows"] + data["test"]["rows"] == len(rows)


# --- settings


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--tuning", "loar"], "Did you mean 'lora'?"),
        (["--task", "text-clasification"], "Did you mean 'text_classification'?"),
        (["--objective", "focla"], "Did you mean 'focal'?"),
        (["--learning-rat", "1"], "Did you mean --learning-rate?"),
        (["--schedule", "linaer"], "Did you mean 'linear'?"),
        (["--batch-size", "many"], "batch_size is 'many'; it must be a whole number"),
        (["--batch-size", "0"], "it must lie in 1 .. "),
        (["--learning-rate", "-1"], "it must lie in 0 .. "),
        (["--model", "all-MiniLM-L6-v3"], "Did you mean 'all-MiniLM-L6-v2'?"),
        (["--trackers", "tensorbord"], "tensorboard"),
        (["--recipe", "nowhere.yaml"], "nowhere.yaml"),
        (["--lora-rank", "4"], "lora"),
    ],
)
def test_wrong_settings(refused_training: Refused, good: Path, words: list[str], expected: str) -> None:
    assert expected in refused_training(good, *words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max-length", "65"], "max_length is 65"),
        (["--objective", "cosent"], "--objective cosent is for values"),
        (["--pooling", "own", "--max-length", "9999"], "max_length"),
    ],
)
def test_settings_that_do_not_fit_each_other(
    refused_training: Refused, good: Path, words: list[str], expected: str
) -> None:
    # Said before any weights are opened where that can be, and in any case before there is a run folder.
    line = refused_training(good, *words, warned="65" in words or "cosent" in words)
    assert expected in line


def test_an_unknown_key_in_a_recipe(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("data: x.csv\nlearning_rat: 1\n", encoding="utf-8")
    assert "Did you mean 'learning_rate'?" in refused("finetune", "--recipe", tmp_path / "recipe.yaml")
    (tmp_path / "recipe.yaml").write_text("data: [x.csv\n", encoding="utf-8")
    assert "not valid YAML" in refused("finetune", "--recipe", tmp_path / "recipe.yaml")


def test_an_unknown_command(refused: Refused) -> None:
    assert "Did you mean 'finetune'?" in refused("finetun")


def test_an_output_that_is_a_file(refused_training: Refused, good: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    assert "file" in refused_training(good, "--output", tmp_path / "file", warned=True)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"


def test_nothing_to_resume(refused: Refused, tmp_path: Path) -> None:
    assert "Nothing to resume" in refused("finetune", "--output", tmp_path / "run", "--resume")


# --- models


class Bomb:
    """A pickle of it makes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model's folder that a test may damage."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_a_pickle_is_refused_and_never_opened(
    refused_training: Refused, good: Path, model: Path, tmp_path: Path, name: str
) -> None:
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Bomb(tmp_path / "went off")))
    line = refused_training(good, "--model", model)
    assert name in line
    assert (": refused" in line) == (name != "model.safetensors")
    assert not (tmp_path / "went off").exists()
    with open(model / name, "rb") as file:
        pickle.load(file)
    assert (tmp_path / "went off").exists()  # the bomb was live


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: cut(folder / "model.safetensors"), "cut short or damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "not a model folder"),
        (lambda folder: (folder / "config.json").unlink(), "not a model folder"),
        (lambda folder: cut(folder / "config.json"), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{}", encoding="utf-8"), "model_type"),
        (lambda folder: cut(folder / "tokenizer.json"), "tokenizer"),
    ],
)
def test_damaged_models(
    refused_training: Refused, good: Path, model: Path, damage: Callable[[Path], Any], expected: str
) -> None:
    damage(model)
    assert expected in refused_training(good, "--model", model)


# --- runs


@pytest.fixture(scope="module")
def trained(tiny_model: Path, rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of each way of tuning, trained when first asked for."""
    place = tmp_path_factory.mktemp("runs")
    data = write(place / "data.csv", rows)
    base = shutil.copytree(tiny_model, place / "base")

    def get(tuning: str) -> Path:
        folder = place / tuning
        if not folder.exists():
            words = [
                "--model",
                base,
                "--max-length",
                48,
                "--num-epochs",
                1,
                "--threads",
                1,
                "--tuning",
                tuning,
            ]
            assert main(["finetune", *map(str, words), "--data", str(data), "--output", str(folder)]) == 0
        return folder

    return get


@pytest.fixture
def run(trained: Callable[[str], Path], tmp_path: Path) -> Path:
    """A run that a test may damage."""
    return shutil.copytree(trained("full"), tmp_path / "run")


def write_description(folder: Path, text: str) -> None:
    (folder / "model" / "weitiao.json").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (shutil.rmtree, "No such run"),
        (lambda folder: shutil.rmtree(folder / "model"), "not a Weitiao model"),
        (lambda folder: write_description(folder, '{"format": 1, "task": '), "weitiao.json is damaged"),
        (lambda folder: write_description(folder, "{}"), "weitiao.json is damaged"),
        (lambda folder: write_description(folder, "[]"), "weitiao.json is damaged"),
        (lambda folder: cut(folder / "model" / "model.safetensors"), "cut short or damaged"),
        (lambda folder: cut(folder / "model" / "head.safetensors"), "cut short or damaged"),
        (lambda folder: (folder / "model" / "head.safetensors").unlink(), "head"),
        (lambda folder: cut(folder / "model" / "config.json"), "config.json"),
    ],
)
def test_damaged_runs(
    refused: Refused, run: Path, good: Path, command: str, damage: Callable[[Path], Any], expected: str
) -> None:
    damage(run)
    words = ["some text"] if command == "predict" else ["--data", good]
    assert expected in refused(command, run, *words)


def test_a_pickle_in_a_run_is_refused(refused: Refused, run: Path, tmp_path: Path) -> None:
    for path in (run / "model").glob("*.safetensors"):
        path.unlink()
    (run / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "went off")))
    assert "refused" in refused("predict", run, "some text")


def test_an_adapter_on_other_weights_is_refused(
    refused: Refused, trained: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = trained("lora")
    weights = folder.parent / "base" / "model.safetensors"
    assert main(["predict", str(folder), "some text"]) == 0
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        assert "trained on other weights" in refused("predict", folder, "some text")
    finally:
        weights.write_bytes(content)


def test_weights_in_several_files_are_hashed_whole(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(bytes([number]))
    before = weights_hash(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"other")
    assert weights_hash(tmp_path) != before
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert weights_hash(tmp_path) == sha256(tmp_path / "model-00001-of-00002.safetensors")


def test_data_that_a_run_cannot_be_scored_on(
    refused: Refused, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    run = trained("full")
    unlabelled = write(tmp_path / "unlabelled.csv", [["one"], ["two"]], ("text",))
    assert "no column for 'label'" in refused("evaluate", run, "--data", unlabelled)
    unseen = write(tmp_path / "unseen.csv", [["one", "kind 0"], ["two", "kind 7"]])
    assert "'kind 7'" in refused("evaluate", run, "--data", unseen)
    textless = write(tmp_path / "textless.csv", [["1", "2"]], ("id", "stars"))
    assert "no column for 'text'" in refused("predict", run, "--data", textless)
    assert "missing.csv" in refused("evaluate", run, "--data", tmp_path / "missing.csv")
    assert "predict RUN" in refused("predict", run)
    assert "evaluate RUN" in refused("evaluate", run)
    assert not (run / "evaluation").exists()


# --- as a user starts it


def process(*argv: Any, language: str = "en") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weitiao", *map(str, argv)]
    environment = {**os.environ, "WEITIAO_LANG": language, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=120
    )


@pytest.mark.parametrize(
    ("language", "expected"), [("en", "neither UTF-8 nor GB18030"), ("zh", "既不是 UTF-8 也不是 GB18030")]
)
def test_the_process_says_one_line_and_ends_with_code_2(
    basics: list[str], tmp_path: Path, language: str, expected: str
) -> None:
    (tmp_path / "bad.csv").write_bytes(b"text,label\n\xff,a\n")
    words = ["finetune", *basics, "--data", tmp_path / "bad.csv", "--output", tmp_path / "run"]
    done = process(*words, language=language)
    assert done.returncode == 2
    assert done.stderr.startswith("weitiao: ") and done.stderr.count("\n") == 1
    assert expected in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["finetune", "--tuning", "loar"], "是不是“lora”？"),
        (["finetune", "--learning-rat", "1"], "是不是 --learning-rate？"),
        (["finetune", "--data", "没有.csv"], "没有.csv"),
        (["predict", "没有这个目录", "文本"], "找不到运行目录：没有这个目录"),
        (["finetune", "--batch-size", "0"], "应在"),
    ],
)
def test_errors_in_chinese(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.setenv("WEITIAO_LANG", "zh")
    assert expected in refused(*words)


def test_a_gb18030_file_from_end_to_end(basics: list[str], example_data: Path, tmp_path: Path) -> None:
    import gzip

    with gzip.open(example_data / "csl" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file][:150]
    known = sorted({record["label"] for record in records})[:2]
    chosen = [[r["text"], r["label"]] for r in records if r["label"] in known]
    data = write(tmp_path / "标题.csv", chosen, ("标题", "类别"), encoding="gb18030")
    done = process("finetune", *basics, "--data", data, "--output", tmp_path / "运行", language="zh")
    assert done.returncode == 0, done.stderr
    done = process("predict", tmp_path / "运行", "--data", data)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == [text for text, _ in chosen]
    assert {answer["label"] for answer in answers} <= set(known)
