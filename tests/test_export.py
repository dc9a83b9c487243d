"""Exporting: the certificate, what fails it, adapters, and the graph that is written."""

import json
import shutil

import numpy as np
import pytest
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    ModernBertConfig,
    ModernBertModel,
)

import weitiao
from weitiao.cli import main
from weitiao.core.errors import WeitiaoError
from weitiao.runtime import load
from weitiao.stages._certificate import Certificate, decision, item_of
from weitiao.stages._predictor import Run
from weitiao.stages._served import in_requests

ROWS = [
    {"text": f"{word} {n}", "label": label}
    for n in range(6)
    for word, label in (("the card", "card"), ("good money", "money"), ("银行卡", "card"), ("转账", "money"))
]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model, table):
    folder = tmp_path_factory.mktemp("runs")
    for tuning in ("full", "lora"):
        weitiao.finetune(
            data=table, model=str(tiny_model), task="text_classification", tuning=tuning, num_epochs=4,
            max_length=32, learning_rate=1e-2, precision="fp32", output=folder / tuning, show=False,
        )  # fmt: skip
    return folder


def test_an_adapter_is_merged_and_proved(runs, tmp_path):
    assert main(["export", str(runs / "lora"), "--output", str(tmp_path / "bundle")]) == 0
    certificate = json.loads((tmp_path / "bundle" / "certificate.json").read_text("utf-8"))
    names = [entry["name"] for entry in certificate["compared"]]
    assert names[:2] == ["trained", "merged adapter"] and "onnxruntime fp32" in names
    assert certificate["data"]["part"] == "test" and len(certificate["data"]["sha256"]) == 64
    texts = [row["text"] for row in ROWS]
    found = load(tmp_path / "bundle", engine="onnxruntime").predict(texts)
    for a, b in zip(Run(runs / "lora").predict(texts), found, strict=True):
        assert a["label"] == b["label"] and a["score"] == pytest.approx(b["score"], abs=1e-4)
    card = (tmp_path / "bundle" / "README.md").read_text("utf-8")
    assert "merged adapter" in card and "一致性证书" in card
    assert str(runs.parent) not in (tmp_path / "bundle" / "bundle.json").read_text("utf-8")


def test_beyond_the_tolerance_nothing_is_left(runs, tmp_path, capsys):
    command = ["export", str(runs / "full"), "--output", str(tmp_path / "bundle"), "--tolerance", "0"]
    assert main(command) == 2
    assert "is not the trained model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_only_when_asked(runs, table, tmp_path, capsys):
    command = [
        "export",
        str(runs / "full"),
        "--output",
        str(tmp_path / "b"),
        "--data",
        str(table),
        "--rows",
        "5",
    ]
    assert main(command) == 0 and main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    certificate = json.loads((tmp_path / "b" / "certificate.json").read_text("utf-8"))
    assert certificate["rows"] == 5 and certificate["data"]["name"] == "rows.jsonl"
    reference = json.loads((tmp_path / "b" / "reference.json").read_text("utf-8"))
    assert reference["texts"] == 5 and reference["embedding"]["dimension"] == 32


def test_a_model_without_its_table_asks_for_one(runs, tmp_path, capsys):
    assert main(["export", str(runs / "full" / "model"), "--output", str(tmp_path / "b")]) == 2
    assert "Give a table: --data FILE" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


HUB = {
    "distilbert": lambda size: DistilBertModel(
        DistilBertConfig(vocab_size=size, dim=32, n_layers=1, n_heads=2, hidden_dim=32)
    ),
    "electra": lambda size: ElectraModel(
        ElectraConfig(vocab_size=size, hidden_size=32, embedding_size=16, num_hidden_layers=1, num_attention_heads=2,
                      intermediate_size=32)
    ),
    "modernbert": lambda size: ModernBertModel(
        ModernBertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                         pad_token_id=0, bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("architecture", HUB)
def test_any_encoder_of_transformers_is_exported_with_parity(tmp_path, table, tiny_model, architecture):
    """What the package has no graph for is traced: the bundle answers as the trained model, alone and in batches."""
    folder, run = tmp_path / architecture, tmp_path / "run"
    size = json.loads((tiny_model / "config.json").read_text("utf-8"))["vocab_size"]
    HUB[architecture](size).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / file, folder / file)
    pooling = "cls" if architecture == "electra" else "mean"
    weitiao.finetune(
        data=table, model=str(folder), task="text_classification", num_epochs=1, max_length=32, output=run,
        precision="fp32", pooling=pooling, tuning="lora" if architecture == "distilbert" else "full", show=False,
    )  # fmt: skip
    assert main(["export", str(run), "--output", str(tmp_path / "b"), "--no-service"]) == 0
    bundle = load(tmp_path / "b", engine="onnxruntime", threads=1)
    texts = ["a card", "where is my card and when will it arrive at my door please", "物流"]
    wanted = Run(run).predict(texts)
    for found in (bundle.predict(texts), [bundle.predict([text])[0] for text in texts]):
        assert [answer["label"] for answer in found] == [answer["label"] for answer in wanted]
        for answer, other in zip(found, wanted, strict=True):
            assert answer["score"] == pytest.approx(other["score"], abs=1e-4)
    assert np.linalg.norm(bundle.embed(texts), axis=1) == pytest.approx(1, abs=1e-5)


def test_large_tensors_lie_beside_the_graph(runs, tmp_path):
    import onnxruntime

    from weitiao.models.onnx_graph import encoder_graph, write_graph

    model = Run(runs / "full").model
    tensors, head = (
        {k: v.numpy() for k, v in part.state_dict().items()} for part in (model.backbone, model.head)
    )
    kind = {"type": "pooled", "outputs": 2, "pooling": "mean"}
    graph = encoder_graph(tensors, model.backbone.shape, kind, head)
    inputs = {"input_ids": np.full((2, 7), 9), "attention_mask": np.array([[1] * 7, [1] * 4 + [0] * 3])}
    found = []
    for name, limit in (("whole", 1 << 30), ("parted", 0)):
        write_graph(graph, tmp_path / name, limit)
        found.append(onnxruntime.InferenceSession(str(tmp_path / name)).run(None, inputs))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (tmp_path / "parted").stat().st_size < (tmp_path / "parted.data").stat().st_size
    assert not (tmp_path / "whole.data").exists()


# --- the certificate


@pytest.fixture
def certificate(runs):
    run = Run(runs / "full")
    items = [row["text"] for row in ROWS[:8]]
    made = Certificate(
        run.task, run.answers, lambda records: run.task.encode(records, run.tokenizer, 32, None), items,
        [*range(11, 19)],
    )  # fmt: skip
    made.compare("trained", lambda items: run.outputs(made.records)[1])
    return run, made


def test_a_certificate_lists_every_row_that_changed(certificate):
    run, made = certificate

    def wrong(items):
        found = [logits.copy() for logits in run.outputs(made.records)[1]]
        found[2], found[5] = found[2][::-1], found[5] + 0.5
        return found

    entry = made.compare("other", wrong)
    assert [one["row"] for one in entry["changed"]] == [13]
    assert {entry["changed"][0]["was"], entry["changed"][0]["is"]} == {"card", "money"}
    assert entry["agreement"] == 7 / 8 and entry["largest_difference"] >= 0.5
    with pytest.raises(
        WeitiaoError, match=r"other is not the trained model.*1 of 8 decisions changed \(rows 13\)"
    ):
        made.check()
    entry["must"] = False
    made.check()


def test_a_form_that_only_answers_is_compared_by_its_scores(certificate):
    run, made = certificate
    same = made.compare("service", run.predict)
    assert same["compares"] == "scores" and same["agreement"] == 1 and same["largest_difference"] < 1e-6
    off = made.compare("off", lambda items: [{**a, "score": a["score"] - 0.01} for a in run.predict(items)])
    assert off["largest_difference"] == pytest.approx(0.01) and off["agreement"] == 1


def test_a_form_may_be_held_against_another_than_the_first(certificate):
    run, made = certificate

    def turned(items):
        return [-logits for logits in run.outputs(made.records)[1]]

    far = made.compare("turned", turned, must=False)
    assert far["agreement"] == 0 and far["against"] == "trained"
    near = made.compare("again", turned, against="turned", tolerance=0)
    assert near["agreement"] == 1 and near["largest_difference"] == 0
    made.check()
    made.compare("other", run.predict, against="turned", tolerance=0)
    with pytest.raises(
        WeitiaoError, match=r"other is not turned: scores .* 8 of 8 decisions changed"
    ) as caught:
        made.check()
    assert "--tolerance" not in str(caught.value)


def test_a_request_carries_no_more_than_the_service_takes():
    items = ["a" * 20_000] * 9 + ["b"] * 40 + [("c", "d")]
    parts = list(in_requests(items))
    assert [item for part in parts for item in part] == items
    assert [len(part) for part in parts] == [7, 32, 11]


def test_a_row_that_the_service_would_refuse_proves_nothing(runs, tmp_path):
    table = tmp_path / "long.jsonl"
    rows = [{"text": "the card " * count, "label": "card"} for count in (1, 5000, 2)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    certificate = weitiao.export(runs / "full", tmp_path / "b", data=str(table))
    assert certificate["rows"] == 2


def test_decisions_of_every_shape():
    assert decision({"label": "a", "score": 0.5}) == "a"
    assert decision({"label": "similarity", "score": 0.5}) is None
    assert decision([]) == []
    assert decision([{"label": "a", "score": 0.9}, {"label": "b", "score": 0.6}]) == ["a", "b"]
    span = {"entity_group": "x", "word": "the", "start": 0, "end": 3, "score": 0.5}
    assert decision([span]) == [[0, 3, "x"]]


def test_a_relation_is_written_back_as_it_is_read():
    from weitiao.core.config import make_member

    task = make_member("tasks", "relation_extraction", {})
    text = "the <e2>bank</e2> has a <e1>card</e1>"
    record = task.example({"text": text})
    assert item_of(task, record) == text
    assert item_of(task, {**record, "places": [4, 8, 4, 6]}) is None


def test_the_api_exports_and_loads(runs, tmp_path):
    certificate = weitiao.export(runs / "full", tmp_path / "b", rows=4)
    assert certificate["rows"] == 4
    assert weitiao.load(tmp_path / "b", engine="onnxruntime").predict("the card")[0]["label"] in (
        "card",
        "money",
    )
