"""The Python functions and the commands around a trained run: what they take, what they answer, what they refuse."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import weitiao
from weitiao.cli import main
from weitiao.core.errors import WeitiaoError

FIXED = {"max_length": 32, "precision": "fp32", "threads": 1, "show": False, "num_epochs": 1}
TITLES = ["卡里的钱什么时候到账", "the card is good", "bad bank"]


@pytest.fixture(scope="module")
def rows(example_data: Path) -> list[dict[str, str]]:
    """Titles of papers of two fields: 40 of each."""
    import gzip

    with gzip.open(example_data / "csl" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        every = [json.loads(line) for line in file]
    return [row for name in ("工学", "医学") for row in [r for r in every if r["label"] == name][:40]]


@pytest.fixture(scope="module")
def settings(tiny_model: Path) -> dict[str, Any]:
    return {**FIXED, "model": str(tiny_model)}


@pytest.fixture(scope="module")
def run(rows: list[dict[str, str]], settings: dict[str, Any], tmp_path_factory: Any) -> Any:
    return weitiao.finetune(rows, output=tmp_path_factory.mktemp("api") / "run", **settings)


def quoted(text: str) -> str:
    return text.replace('"', '""')


def as_file(rows: list[dict[str, str]], folder: Path) -> str:
    path = folder / "titles.csv"
    path.write_text(
        "text,label\n" + "".join(f'"{quoted(row["text"])}",{row["label"]}\n' for row in rows),
        encoding="utf-8",
    )
    return str(path)


def as_frame(rows: list[dict[str, str]], folder: Path) -> Any:
    import pandas

    return pandas.DataFrame(rows)


def as_dataset(rows: list[dict[str, str]], folder: Path) -> Any:
    import datasets

    return datasets.Dataset.from_list(rows)


@pytest.mark.parametrize("form", [as_file, as_frame, as_dataset])
def test_the_form_of_the_data_does_not_matter(
    form: Callable[..., Any], run: Any, rows: list[dict[str, str]], settings: dict[str, Any], tmp_path: Path
) -> None:
    other = weitiao.finetune(form(rows, tmp_path), output=tmp_path / "run", **settings)
    assert other.predict(TITLES) == run.predict(TITLES)
    assert weitiao.evaluate(other, form(rows, tmp_path)) == weitiao.evaluate(run, rows)


def test_data_in_memory_is_kept_so_that_the_run_can_be_repeated(run: Any, rows: list[dict[str, str]]) -> None:
    import pandas

    assert pandas.read_parquet(run.folder / "data" / "train.parquet").to_dict("records") == rows
    assert f"data: {run.folder / 'data' / 'train.parquet'}" in (run.folder / "config.yaml").read_text(
        encoding="utf-8"
    )


def test_a_loaded_run_answers_as_the_trained_one(run: Any) -> None:
    loaded = weitiao.load(str(run.folder))
    assert loaded.predict(TITLES) == weitiao.predict(run.folder, TITLES) == run.predict(TITLES)
    assert weitiao.predict(run, TITLES[0]) == run.predict(TITLES)[:1]
    assert {answer["label"] for answer in run.predict(TITLES)} <= {"工学", "医学"}
    assert loaded.metrics["task"] == "text_classification"
    assert weitiao.load(run.folder / "model").predict(TITLES) == run.predict(
        TITLES
    )  # the model's folder alone


def test_no_text_and_odd_texts_have_answers(run: Any) -> None:
    assert run.predict([]) == []
    odd = ["", " ", "\n", "\u200b", "𠮷😀", "a" * 5000, "\ud7a3" * 400]
    answers = run.predict(odd)
    assert len(answers) == len(odd) and all(0 < answer["score"] <= 1 for answer in answers)


def test_answers_do_not_depend_on_their_company(run: Any, rows: list[dict[str, str]]) -> None:
    texts = [row["text"] for row in rows]
    together = run.predict(texts)
    assert [answer["label"] for answer in together[::-1]] == [a["label"] for a in run.predict(texts[::-1])]
    assert together[5]["score"] == pytest.approx(run.predict(texts[5:6])[0]["score"], abs=1e-5)


def test_what_is_not_text_is_refused(run: Any) -> None:
    with pytest.raises(WeitiaoError, match=r"text 2: .*3.* is not text"):
        run.predict(["good", 3])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rat": 1}, "Unknown setting 'learning_rat'.*learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"task": "text-clasification"}, "text.classification"),
    ],
)
def test_a_wrong_setting_is_named(
    rows: list[dict[str, str]], settings: dict[str, Any], tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeitiaoError, match=message):
        weitiao.finetune(rows, output=tmp_path / "run", **{**settings, **wrong})
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeitiaoError, match="nowhere"):
        weitiao.load(tmp_path / "nowhere")
    with pytest.raises(WeitiaoError, match="column"):  # the near miss of a user: a table without its texts
        weitiao.finetune([{"a": "x", "b": "y"}] * 9, output=tmp_path / "run", show=False)


def test_labels_never_seen_in_training_are_named(run: Any) -> None:
    with pytest.raises(WeitiaoError, match="法学"):
        weitiao.evaluate(run, [{"text": "题目", "label": "法学"}, {"text": "题目二", "label": "工学"}])


def test_importing_weitiao_is_light() -> None:
    heavy = "torch", "transformers", "datasets", "pandas", "sklearn", "matplotlib"
    code = f"import sys, weitiao, weitiao.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the commands


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_texts_on_the_command_line(run: Any, capsys: Any) -> None:
    assert main(["predict", str(run.folder), *TITLES]) == 0
    assert lines(capsys.readouterr().out) == [
        {"text": text, **answer} for text, answer in zip(TITLES, run.predict(TITLES), strict=True)
    ]


def test_texts_from_standard_input(run: Any, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(TITLES) + "\n"))
    assert main(["predict", str(run.folder), "-"]) == 0
    assert [line["text"] for line in lines(capsys.readouterr().out)] == TITLES


def test_a_table_of_texts(run: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "new.csv").write_text(
        "id,text\n" + "".join(f"{i},{t}\n" for i, t in enumerate(TITLES)), encoding="utf-8"
    )
    output = tmp_path / "answers.jsonl"
    assert (
        main(["predict", str(run.folder), "--data", str(tmp_path / "new.csv"), "--output", str(output)]) == 0
    )
    found = lines(output.read_text(encoding="utf-8"))
    assert [(line["row"], line["text"]) for line in found] == list(zip((2, 3, 4), TITLES, strict=True))
    assert [line["label"] for line in found] == [answer["label"] for answer in run.predict(TITLES)]
    assert lines(capsys.readouterr().out) == []


def test_the_scores_of_a_table(run: Any, rows: list[dict[str, str]], tmp_path: Path, capsys: Any) -> None:
    path = as_file(rows, tmp_path)
    assert main(["evaluate", str(run.folder), "--data", path]) == 0
    assert "accuracy" in capsys.readouterr().out
    kept = json.loads((run.folder / "evaluation" / "titles" / "metrics.json").read_text())
    assert kept["scores"] == weitiao.evaluate(run, path)
    assert kept["data"]["rows"] == 80


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["predict"], "Name a run or a bundle, and a text"),
        (["predict", "nowhere", "text"], "nowhere"),
        (["evaluate", "nowhere"], "Name a run and a table"),
        (["finetune"], "No data"),
        (["finetune", "--data", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], message: str, capsys: Any) -> None:
    assert main(argv) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said


def test_chinese_is_spoken_where_it_is_asked_for(
    rows: list[dict[str, str]], settings: dict[str, Any], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("WEITIAO_LANG", "zh")
    weitiao.finetune(rows, output=tmp_path / "run", **{**settings, "show": True})
    said = "".join(capsys.readouterr())
    assert "保存后的模型与训练时预测一致" in said and "运行目录" in said and "准确率" in said
    assert "The saved model" not in said and "Run folder" not in said
    with pytest.raises(WeitiaoError, match=r"没有名为“learning_rat”的设置"):
        weitiao.finetune(rows, output=tmp_path / "other", learning_rat=1, show=False)
    assert 'lang="zh' in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
