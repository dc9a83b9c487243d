"""Several runs as one: averaged probabilities, soups against means made by hand, a taught model, refusals."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import weitiao
from weitiao.cli import main
from weitiao.core.errors import WeitiaoError
from weitiao.core.runs import read_json
from weitiao.stages import ensemble
from weitiao.stages._ensemble import mean_outputs
from weitiao.tasks.base import sigmoid, softmax

TEXTS = ["card payment failed", "top up my card", "物流很快", "exchange rate"]


@pytest.fixture(scope="module")
def data(example_data: Path, tmp_path_factory: Any) -> Path:
    import pandas

    rows = pandas.read_csv(example_data / "banking77" / "train.csv.gz")
    groups = [group for _, group in list(rows.groupby("category"))[:3]]
    folder = tmp_path_factory.mktemp("data") / "cards"
    folder.mkdir()
    for name, first, last in (("train", 0, 24), ("dev", 24, 32), ("test", 32, 40)):
        pandas.concat(group[first:last] for group in groups).to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def runs(data: Path, tiny_model: Path, tmp_path_factory: Any) -> list[Path]:
    """Three runs of the same data: two with all weights, one with LoRA, which does worse."""
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in (
        ("a", {}),
        ("b", {"seed": 43}),
        ("lora", {"tuning": "lora", "learning_rate": 1e-4}),
    ):
        same = {
            "num_epochs": 3,
            "learning_rate": 3e-3,
            "max_length": 32,
            "precision": "fp32",
            "split_seed": 1,
        }
        weitiao.finetune(data, output=folder / name, model=str(tiny_model), show=False, **(same | settings))
    return [folder / name for name in ("a", "b", "lora")]


def make(runs: list[Path], output: Path, **settings: Any) -> dict[str, Any]:
    config = ensemble.Config(runs=[str(run) for run in runs], output=str(output), **settings)
    *_, last = ensemble.run(config)
    return last.result


def logits(folder: Path, texts: Sequence[str] = TEXTS) -> np.ndarray:
    _, outputs = weitiao.load(folder).outputs([{"text": text, "row_number": 1} for text in texts])
    return np.stack(outputs)


def test_averaged_runs_answer_with_the_mean_of_their_probabilities(runs, data, tmp_path, capsys):
    found = make(runs, tmp_path / "together")
    expected = np.mean([softmax(logits(run)) for run in runs], 0)
    loaded = weitiao.load(tmp_path / "together")
    answers = loaded.predict(TEXTS)
    assert [answer["score"] for answer in answers] == pytest.approx(expected.max(1).tolist(), abs=1e-5)
    names = [loaded.answers.names[place] for place in expected.argmax(1)]
    assert [answer["label"] for answer in answers] == names
    again = weitiao.evaluate(tmp_path / "together", data / "test.csv")
    assert again["accuracy"] == pytest.approx(found["scores"]["test"]["accuracy"])
    dev = [read_json(run / "metrics.json")["evaluation"]["dev"]["scores"][found["monitor"]] for run in runs]
    kept = read_json(tmp_path / "together" / "ensemble.json")
    assert kept["member_scores"] == pytest.approx(dev)
    assert main(["predict", str(tmp_path / "together"), TEXTS[0]]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == names[0]
    shutil.copytree(tmp_path / "together", tmp_path / "deep" / "down")
    with pytest.raises(WeitiaoError, match="is made of runs that must stay where they were"):
        weitiao.load(tmp_path / "deep" / "down")


@pytest.mark.parametrize("kind", ["classes", "labels", "values", "vectors"])
def test_each_kind_of_output_is_averaged_as_its_task_reads_it(kind):
    random = np.random.default_rng(0)
    members = [random.normal(size=(5, 2, 4)).astype(np.float32) for _ in range(3)]
    if kind == "vectors":
        members = [part / np.linalg.norm(part, axis=-1, keepdims=True) for part in members]
    found = np.stack(mean_outputs([list(part) for part in members], kind == "vectors", kind))
    if kind == "vectors":
        products = [(part[:, 0] * part[:, 1]).sum(-1) for part in members]
        assert (found[:, 0] * found[:, 1]).sum(-1) == pytest.approx(np.mean(products, 0), abs=1e-6)
        return
    reads = {"classes": softmax, "labels": sigmoid, "values": lambda outputs: outputs}[kind]
    assert reads(found) == pytest.approx(np.mean([reads(part) for part in members], 0), abs=1e-6)


def test_tokens_cut_in_other_ways_cannot_be_averaged():
    with pytest.raises(WeitiaoError, match="the same tokenizer"):
        mean_outputs([[np.zeros((3, 2))], [np.zeros((4, 2))]], False, "classes")


def test_a_soup_is_the_mean_made_by_hand(runs, tmp_path):
    make(runs[:2], tmp_path / "soup", way="uniform_soup")
    for file in ("model.safetensors", "head.safetensors"):
        parts = [load_file(run / "model" / file) for run in runs[:2]]
        soup = load_file(tmp_path / "soup" / "model" / file)
        assert soup.keys() == parts[0].keys()
        for name, value in soup.items():
            torch.testing.assert_close(value, (parts[0][name] + parts[1][name]) / 2)
    assert weitiao.load(tmp_path / "soup").predict(TEXTS)  # an ordinary run
    kept = read_json(tmp_path / "soup" / "metrics.json")["evaluation"]
    assert set(kept) == {"dev", "test"}


def test_a_greedy_soup_takes_in_what_does_not_lower_the_dev_score(runs, tmp_path):
    found = make(runs, tmp_path / "soup", way="soup")
    monitor = found["monitor"]
    scores = read_json(tmp_path / "soup" / "ensemble.json")["member_scores"]
    best = runs[int(np.argmax(scores))]
    assert found["used"][0] == str(best)
    assert found["scores"]["dev"][monitor] >= max(scores)
    if len(found["used"]) == 1:  # all others were taken back, to the last bit
        mine, its = (
            load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "soup", best)
        )
        assert all(torch.allclose(mine[name], its[name]) for name in its)


def test_an_adapter_goes_into_a_soup_merged(runs, tmp_path):
    make([runs[0], runs[2]], tmp_path / "soup", way="uniform_soup")
    from weitiao.stages._soup import merged

    parts = [merged(weitiao.load(run)).state_dict() for run in (runs[0], runs[2])]
    soup = weitiao.load(tmp_path / "soup").model.state_dict()
    for name, value in soup.items():
        torch.testing.assert_close(value, (parts[0][name] + parts[1][name]) / 2)


def test_a_taught_model_says_what_the_runs_say_together(runs, data, tmp_path):
    import pandas

    pair, texts = [runs[0], runs[2]], pandas.read_csv(data / "train.csv")["text"].tolist()
    more = {"distil_epochs": 8, "distil_learning_rate": 1e-3, "precision": "fp32"}
    make(pair, tmp_path / "taught", way="distil", **more)
    found = {folder: softmax(logits(folder, texts)) for folder in (*pair, tmp_path / "taught")}
    together = (found[pair[0]] + found[pair[1]]) / 2
    best = pair[int(np.argmax(read_json(tmp_path / "taught" / "ensemble.json")["member_scores"]))]
    before, after = (np.abs(found[folder] - together).mean() for folder in (best, tmp_path / "taught"))
    assert after < before / 2


def test_what_cannot_be_joined_is_one_line_and_leaves_nothing(runs, tmp_path, tiny_model, data):
    from transformers import BertConfig, BertModel

    output = tmp_path / "out"
    other = shutil.copytree(runs[1], tmp_path / "other")
    (other / "config.yaml").write_text(
        (other / "config.yaml").read_text("utf-8").replace("split_seed: 1", "split_seed: 2")
    )
    wider = tmp_path / "wider"
    shutil.copytree(tiny_model, wider)
    BertModel(BertConfig.from_pretrained(tiny_model, num_hidden_layers=1)).save_pretrained(wider)
    small = tmp_path / "small"
    weitiao.finetune(
        data, output=small, model=str(wider), tuning="head", split_seed=1, show=False, max_length=32
    )
    relabelled = shutil.copytree(runs[1], tmp_path / "relabelled")
    description = json.loads((relabelled / "model" / "weitiao.json").read_text("utf-8"))
    description["answers"]["names"][0] = "another"
    (relabelled / "model" / "weitiao.json").write_text(json.dumps(description), encoding="utf-8")
    for members, settings, said in (
        (runs[:1], {}, "Name two runs or more"),
        ([runs[0], runs[0]], {}, "is named twice"),
        ([runs[0], tmp_path / "nowhere"], {}, "No such run"),
        ([runs[0], other], {}, "held out other rows"),
        ([runs[0], relabelled], {}, "cannot be averaged"),
        ([runs[0], small], {"way": "uniform_soup"}, "began from the same model"),
        (runs[:2], {"way": "distil", "data": str(data / "test.csv")}, "leave --data out"),
    ):
        with pytest.raises(WeitiaoError, match=said) as caught:
            make(members, output, **settings)
        assert "\n" not in str(caught.value) and not output.exists()
    with pytest.raises(WeitiaoError, match="exists already"):
        make(runs, runs[0])


def test_a_table_is_scored_where_the_runs_held_out_other_rows(runs, data, tmp_path):
    found = make(runs[:2], tmp_path / "scored", data=str(data / "test.csv"))
    assert set(found["scores"]) == {"test"}
    assert (
        found["scores"]["test"]["accuracy"]
        == weitiao.evaluate(tmp_path / "scored", data / "test.csv")["accuracy"]
    )
