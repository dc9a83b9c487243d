"""The command line: help in both languages, errors of one line with code 2, and the generated reference."""

import os
import subprocess
import sys

import pytest

from weitiao import __version__
from weitiao.cli import main
from weitiao.core import catalogue


@pytest.mark.parametrize(
    "language, words",
    [
        ("en", ["usage:", "Fine-tune a pretrained model", "example:"]),
        ("zh", ["用法：", "微调预训练模型", "示例："]),
    ],
)
@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_the_overview_lists_every_command_in_the_reader_s_language(
    capsys, monkeypatch, argv, language, words
):
    monkeypatch.setenv("WEITIAO_LANG", language)
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in words)
    for name in catalogue.members("stages"):
        assert f"\n  {name.replace('_', '-')} " in said


@pytest.mark.parametrize("language, word", [("en", "passes over the texts"), ("zh", "训练轮数")])
def test_a_command_s_help_shows_its_settings_and_the_chosen_members(capsys, monkeypatch, language, word):
    monkeypatch.setenv("WEITIAO_LANG", language)
    for argv, shown in ((["--tuning", "lora"], True), (["--tuning=lora"], True), ([], False)):
        with pytest.raises(SystemExit) as ended:
            main(["finetune", *argv, "--help"])
        said = capsys.readouterr().out
        assert ended.value.code == 0
        assert word in said
        assert ("--lora-rank" in said) == shown


@pytest.mark.parametrize(
    "argv, said",
    [
        (["finetun"], "Did you mean 'finetune'?"),
        (["models", "--fetsh", "x"], "Did you mean --fetch?"),
        (["finetune", "--learning-rat=1"], "Did you mean --learning-rate?"),
        (["finetune", "--tuning", "lora", "--lora-rnk", "4"], "Did you mean --lora-rank?"),
        (["finetune", "--lora-rank", "4"], "Unknown option --lora-rank"),  # full has none
        (["finetune", "--tuning", "lorra"], "Did you mean 'lora'?"),
        (["finetune", "--seed"], "--seed"),
        (["finetune", "--seed", "many"], "a whole number"),
        (["finetune", "--recipe", "nowhere.yaml"], "nowhere.yaml"),
        (["models", "--fetch", "all-MiniLM-L6-v3"], "Did you mean 'all-MiniLM-L6-v2'?"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(capsys, argv, said):
    assert main(argv) == 2
    heard = capsys.readouterr()
    assert heard.out == ""
    assert said in heard.err
    assert heard.err.startswith("weitiao: ") and heard.err.count("\n") == 1


def test_an_unknown_key_in_a_recipe_names_the_nearest(capsys, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("num_epoch: 2\n", encoding="utf-8")
    assert main(["finetune", "--recipe", str(recipe)]) == 2
    assert "Did you mean 'num_epochs'?" in capsys.readouterr().err


def test_a_flag_beats_the_recipe(tmp_path):
    from weitiao.cli import parse
    from weitiao.stages import finetune

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("tuning: lora\nlora_rank: 4\nseed: 1\n", encoding="utf-8")
    values = parse(finetune, ["--recipe", str(recipe), "--seed", "2", "--lora-alpha", "8"])
    assert values == {"tuning": "lora", "lora_rank": 4, "seed": "2", "lora_alpha": "8"}


def test_the_version_is_the_package_s():
    done = subprocess.run(
        [sys.executable, "-m", "weitiao", "--version"],
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"weitiao {__version__}\n"


@pytest.mark.parametrize("language, word", [("en", "licence"), ("zh", "许可证")])
def test_models_are_listed_within_100_columns(capsys, monkeypatch, tmp_path, language, word):
    from weitiao.core.messages import width

    monkeypatch.setenv("WEITIAO_LANG", language)
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path))  # nothing is cached there
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert word in said and "MIT" in said and "91 MB" in said
    assert {"en": " no\n", "zh": " 否\n"}[language] in said and {"en": " yes\n", "zh": " 是\n"}[
        language
    ] not in said
    assert max(map(width, said.splitlines())) <= 100


def test_a_reader_who_has_seen_enough_is_no_error():
    """``weitiao models | head -0``: the pipe is closed before the first line."""
    with subprocess.Popen(
        [sys.executable, "-m", "weitiao", "models"],
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        heard = process.stderr.read()
    assert (process.returncode, heard) == (0, b"")


def test_the_command_reference_is_checked(root, tmp_path):
    """``--check`` sees a changed page; the reference has a section for every command."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "make_commands.py").write_bytes((root / "docs" / "make_commands.py").read_bytes())

    def make(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(docs / "make_commands.py"), *arguments]
        return subprocess.run(command, env=_environment(), capture_output=True, text=True)

    assert make("--check").returncode == 1
    assert make().returncode == 0
    assert (make("--check").returncode, make("--check").stderr) == (0, "")
    page = docs / "commands.zh.md"
    text = page.read_text(encoding="utf-8")
    for name in catalogue.members("stages"):
        assert f"\n## {name.replace('_', '-')}\n" in text
    page.write_text(text + "mine", encoding="utf-8")
    stale = make("--check")
    assert stale.returncode == 1 and stale.stderr.count("\n") == 1 and "commands.zh.md" in stale.stderr


def _environment() -> dict[str, str]:
    from weitiao.core.catalogue import PACKAGE

    return os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
