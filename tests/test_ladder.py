"""The lessons: every one runs at toy size and its checks hold; notebooks are what their sources say, in both languages."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from decoders import save_llama

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted(path.stem for path in (ROOT / "docs" / "ladder" / "lessons").glob("*.py"))


def load_maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_ladder", ROOT / "docs" / "make_ladder.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real handwritten digits that come with scikit-learn, 8 x 8, in the form of MNIST."""
    from sklearn.datasets import load_digits
    from test_images import write_idx

    images, labels = load_digits(return_X_y=True)
    large = np.kron(images.reshape(-1, 8, 8), np.ones((3, 3))).clip(0, 15) * 17
    large = np.pad(large, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    folder = tmp_path_factory.mktemp("digits") / "digits"
    write_idx(folder, "train", large[:400], labels[:400].astype(np.uint8))
    write_idx(folder, "test", large[400:500], labels[400:500].astype(np.uint8))
    return folder


@pytest.fixture
def toy(digits: Path, tiny_model: Path, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The settings of each lesson at toy size."""
    tiny, llama = str(tiny_model), str(save_llama(tmp_path / "llama"))
    texts = {"MODEL": tiny, "ROWS": 120, "TESTED": 60, "EPOCHS": 1}
    return {
        "1_mnist": {"DATA": digits, "ROWS": 400, "TESTED": 100, "EPOCHS": 2},
        "2_pretraining": {"CORPUS_TEXTS": 900, "STEPS": 3, "VOCABULARY": 600, "ROWS": 60, "EPOCHS": 1},
        "3_finetuning": texts,
        "4_efficient_tuning": texts,
        "5_image_to_text": {
            "DATA": digits,
            "MODEL": llama,
            "ROWS": 160,
            "TESTED": 40,
            "ASKED": 60,
            "EPOCHS": 1,
        },
        "6_generation": {"MODEL": llama, "ROWS": 24, "TESTED": 8, "EPOCHS": 1},
    }


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_runs_and_its_formulas_hold(name, toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = maker.read(maker.FOLDER / "lessons" / f"{name}.py")
    printed = maker.run(cells, f"{name}.py", toy[name])
    assert "".join(printed).strip()
    assert list((tmp_path / "runs").rglob("metrics.json")), "a lesson ends in using the package"


@pytest.mark.parametrize("name", LESSONS)
def test_a_notebook_is_what_its_source_says(name):
    cells = maker.read(maker.FOLDER / "lessons" / f"{name}.py")
    assert [cell.kind for cell in cells].count("settings") == 1
    made = {}
    for language in maker.LANGUAGES:
        path = maker.FOLDER / language / f"{name}.ipynb"
        made[language] = json.loads(path.read_text(encoding="utf-8"))
        assert (made[language]["nbformat"], made[language]["nbformat_minor"]) == (4, 5)
        ids = [cell["id"] for cell in made[language]["cells"]]
        assert len(ids) == len(set(ids))
        for cell in made[language]["cells"]:
            wanted = {"cell_type", "id", "metadata", "source"}
            assert cell.keys() == wanted | (
                {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
            )
    shapes = [[cell["cell_type"] for cell in made[language]["cells"]] for language in maker.LANGUAGES]
    assert shapes[0] == shapes[1]
    code = [
        [c["source"] for c in made[language]["cells"] if c["cell_type"] == "code"]
        for language in maker.LANGUAGES
    ]
    assert code[0] == code[1]
    texts = [
        "".join(line for c in made[lang]["cells"] if c["cell_type"] == "markdown" for line in c["source"])
        for lang in maker.LANGUAGES
    ]
    chinese = [sum("\u4e00" <= mark <= "\u9fff" for mark in text) for text in texts]
    assert chinese[0] < 20 < 300 < chinese[1]
    # The same formulas stand in both.
    assert texts[0].count("$$") == texts[1].count("$$") > 0


def test_the_notebooks_are_up_to_date_and_a_changed_one_is_seen(tmp_path, monkeypatch, capsys):
    assert maker.main(["--check"]) == 0
    for folder in ("lessons", *maker.LANGUAGES):
        (tmp_path / folder).mkdir()
    source = tmp_path / "lessons" / "9_toy.py"
    source.write_text(
        "# %% [en]\n# One.\n# %% [zh]\n# 一。\n# %% [settings]\nN = 2\n# %% [code]\nprint(N)\n", "utf-8"
    )
    monkeypatch.setattr(maker, "FOLDER", tmp_path)
    assert maker.main(["--check"]) == 1
    assert maker.main(["--run"]) == 0 and maker.main(["--check"]) == 0
    made = json.loads((tmp_path / "zh" / "9_toy.ipynb").read_text("utf-8"))
    assert made["cells"][-1]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": ["2\n"]}]
    assert made["cells"][1]["metadata"] == {"tags": ["parameters"]}
    source.write_text(source.read_text("utf-8").replace("print(N)", "print(N + 1)"), "utf-8")
    assert maker.main(["--check"]) == 1
    assert "docs/ladder/en/9_toy.ipynb" in capsys.readouterr().err
    assert maker.main([]) == 0
    made = json.loads((tmp_path / "zh" / "9_toy.ipynb").read_text("utf-8"))
    assert made["cells"][-1]["outputs"] == [], "what other code printed is not kept"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "# %% [en]\n# One.\n# %% [code]\n1\n",
            "9_bad.py:1: a text in English is followed by the same in Chinese",
        ),
        ("# %% [zh]\n# 一。\n", "9_bad.py:1: a text in English"),
        ("# %% [cod]\n1\n", "9_bad.py:1: a cell is one of en, zh, code, settings, not cod"),
    ],
)
def test_a_broken_source_is_named_with_its_line(tmp_path, text, said):
    (tmp_path / "9_bad.py").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=said):
        maker.read(tmp_path / "9_bad.py")


def test_settings_are_replaced_and_an_unknown_one_is_refused(tmp_path):
    (tmp_path / "9_toy.py").write_text("# %% [settings]\nN = 2\n# %% [code]\nprint(N)\n", "utf-8")
    cells = maker.read(tmp_path / "9_toy.py")
    assert maker.run(cells, "9_toy.py") == ["", "2\n"]
    assert maker.run(cells, "9_toy.py", {"N": 5}) == ["", "5\n"]
    with pytest.raises(AssertionError, match="has no setting"):
        maker.run(cells, "9_toy.py", {"M": 5})


def test_a_lesson_that_is_wrong_fails_at_its_line(tmp_path):
    (tmp_path / "9_toy.py").write_text("# %% [settings]\nN = 2\n\n# %% [code]\nassert N == 3\n", "utf-8")
    with pytest.raises(AssertionError) as error:
        maker.run(maker.read(tmp_path / "9_toy.py"), "9_toy.py")
    assert error.traceback[-1].lineno == 4  # counted from 0
