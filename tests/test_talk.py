"""``weitiao generate`` and ``weitiao chat``, on a model's folder and on a bundle: what they print, and what they refuse."""

import io
import json
from pathlib import Path

import pytest
from decoders import save_llama

from weitiao import api
from weitiao.cli import main
from weitiao.stages._talker import open_talker


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama") / "tiny")


@pytest.fixture(scope="module")
def bundle(llama, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    api.export(llama, folder)
    return folder


def said(capsys, *argv: str) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def test_a_bundle_and_its_model_write_the_same(capsys, llama, bundle):
    texts = [
        said(capsys, "generate", str(one), "the end", "--max-new-tokens", "12") for one in (llama, bundle)
    ]
    assert texts[0] == texts[1] and texts[0].strip()


@pytest.mark.parametrize("where", ["llama", "bundle"])
def test_an_answer_is_one_of_the_choices(capsys, request, where):
    folder = str(request.getfixturevalue(where))
    for seed in "123":
        text = said(
            capsys, "generate", folder, "?", "--choices", "是,no way", "--temperature", "2", "--seed", seed
        )
        assert text.strip() in ("是", "no way")


def test_an_answer_is_json_of_a_schema_in_a_file(capsys, llama, tmp_path):
    (tmp_path / "s.json").write_text(
        '{"properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}', "utf-8"
    )
    assert (
        json.loads(said(capsys, "generate", str(llama), "?", "--schema", str(tmp_path / "s.json")))["a"]
        in "xy"
    )


def test_several_prompts_are_answered_as_each_alone(capsys, monkeypatch, llama, tmp_path):
    options = ["--max-new-tokens", "10"]
    monkeypatch.setattr("sys.stdin", io.StringIO("the end\n\n你好 the a\n"))
    lines = [json.loads(line) for line in said(capsys, "generate", str(llama), "-", *options).splitlines()]
    assert [line["prompt"] for line in lines] == ["the end", "你好 the a"]
    alone = [said(capsys, "generate", str(llama), line["prompt"], *options).rstrip("\n") for line in lines]
    assert [line["generated_text"] for line in lines] == alone
    assert api.generate(llama, [line["prompt"] for line in lines], max_new_tokens=10) == alone
    out = tmp_path / "answers.jsonl"
    said(capsys, "generate", str(llama), "the end", "--output", str(out), *options)
    assert json.loads(out.read_text("utf-8"))["generated_text"] == alone[0]


def test_beams_find_a_text_at_least_as_likely(llama):
    from weitiao.generation.sampling import Sampling

    talker = open_talker(str(llama))
    ids = talker.encoded("the end")
    (greedy,) = talker.texts([ids], Sampling(6))
    (found,) = talker.texts([ids], Sampling(6), beams=6)

    def likelihood(new: list[int]) -> float:
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([ids + new])).logits[0], -1)
        return sum(float(logs[len(ids) - 1 + i, token]) for i, token in enumerate(new)) / len(new)

    assert likelihood(found.ids) >= likelihood(greedy.ids) - 1e-6


@pytest.mark.parametrize("where", ["llama", "bundle"])
def test_a_dialogue_from_a_pipe_remembers_until_it_is_reset(capsys, monkeypatch, request, where):
    folder = str(request.getfixturevalue(where))

    def talk(lines: str) -> list[str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        return said(capsys, "chat", folder, "--max-new-tokens", "8").splitlines()

    once = talk("the end\n")
    found = talk("the end\nthe end\n/reset\nthe end\n/quit\nnever\n")
    place = found.index("Forgotten.")
    assert found[place + 1 :] == once, "after a reset it is as if nothing had been said"
    assert found[: len(once)] == once and found[len(once) : place] != once


def test_what_cannot_be_answered_is_one_line(capsys, llama, tmp_path):
    cases = [
        (["generate", str(llama)], "Name a model and a text"),
        (["generate", str(llama), "x " * 1300], "The prompt has"),
        (["generate", str(llama), "x", "--beams", "2", "--temperature", "1"], "--beams"),
        (["generate", str(llama), "x", "--regex", "("], "cannot be used"),
        (["generate", str(llama), "x", "--schema", "none.json"], "Cannot read the schema"),
        (["generate", str(tmp_path), "x"], str(tmp_path)),
        (["chat", ""], "Name a model"),
    ]
    for argv, words in cases:
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and words in error, error
