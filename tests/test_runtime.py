"""Bundles and the torch-free runtime: the same answers as the run for every task, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import weitiao
from weitiao.cli import main
from weitiao.core.errors import WeitiaoError
from weitiao.runtime import load, open_bundle
from weitiao.runtime.batches import batches
from weitiao.runtime.bundle import SEAL, seal
from weitiao.runtime.choice import _certified

ROOT = Path(__file__).resolve().parents[1]
WORDS = ("the card", "good money", "银行卡丢了", "转账 failed", "bad bank", "查一下余额 now")
TEXTS = ["the card 不能用", "good money in the bank, and a lot more of it than there was", "银行", ""]
SPANS = [
    {"text": f"{word} 在银行 {n}", "spans": [{"start": 0, "end": len(word), "label": "thing"}]}
    for n in range(4)
    for word in WORDS
]
RELATED = [
    {"text": f"<e1>{word}</e1> of {n} <e2>bank</e2>", "label": ("of", "in")[n % 2]}
    for n in range(4)
    for word in WORDS
]
PAIRS = [
    {"text_a": f"{word} {n}", "text_b": f"{n} {word}", "label": ("no", "yes")[n % 2]}
    for n in range(4)
    for word in WORDS
]
SCORED = [{**row, "label": n % 5 / 4} for n, row in enumerate(PAIRS)]
LABELLED = [{"text": f"{w} {n}", "label": ("a", "b", "c")[n % 3]} for n in range(4) for w in WORDS]
SEVERAL = [{"text": f"{w} {n}", "label": ("a", "a|b", "b|c", "")[n % 4]} for n in range(4) for w in WORDS]
PAIR_ITEMS = [("the card", "银行卡 in the bank"), ("good", "bad"), ("查一下余额", "money money money")]
CASES = {
    "classes": ("text_classification", LABELLED, {"top": 2}, TEXTS),
    "own": ("text_classification", LABELLED, {"pooling": "own"}, TEXTS),
    "labels": ("text_classification", SEVERAL, {"multi_label": True}, TEXTS),
    "spans": ("token_classification", SPANS, {}, TEXTS),
    "relations": ("relation_extraction", RELATED, {}, [row["text"] for row in RELATED[:5]]),
    "pairs": ("text_matching", PAIRS, {}, PAIR_ITEMS),
    "similarity": ("text_matching", SCORED, {}, PAIR_ITEMS),
    "bi": ("text_matching", SCORED, {"encoder": "bi", "pooling": "cls"}, PAIR_ITEMS),
}
SERVED = ("spans", "relations", "pairs")  # the cases proved through the HTTP service too


@pytest.fixture(scope="session")
def made(tmp_path_factory, tiny_model):
    """Makes a case's run and bundle, once each."""
    folder = tmp_path_factory.mktemp("bundles")

    def make(case: str) -> tuple[Path, Path]:
        task, rows, settings, _ = CASES[case]
        run, bundle = folder / f"{case}-run", folder / case
        if not bundle.exists():
            table = folder / f"{case}.jsonl"
            table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            weitiao.finetune(
                data=table, test_data=table, task=task, model=str(tiny_model), output=run, num_epochs=2,
                max_length=48, learning_rate=1e-2, precision="fp32", dev_fraction=0.0, show=False, **settings,
            )  # fmt: skip
            assert (
                main(
                    [
                        "export",
                        str(run),
                        "--output",
                        str(bundle),
                        "--rows",
                        "20",
                        *([] if case in SERVED else ["--no-service"]),
                    ]
                )
                == 0
            )
        return run, bundle

    return make


@pytest.mark.parametrize("case", CASES)
def test_a_bundle_answers_as_its_run(made, case):
    run, bundle = made(case)
    items = CASES[case][3]
    trained, predictor = weitiao.load(run), load(bundle, engine="onnxruntime")
    expected, found = trained.predict(items), predictor.predict(items)
    assert _labels(found) == _labels(expected)
    assert _scores(found) == pytest.approx(_scores(expected), abs=1e-4)
    assert [type(answer) for answer in found] == [type(answer) for answer in expected]
    alone = [predictor.predict([item])[0] for item in items]
    assert _labels(alone) == _labels(found) and _scores(alone) == pytest.approx(_scores(found), abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_certificate_says_that_every_engine_agrees(made, case):
    _, bundle = made(case)
    certificate = json.loads((bundle / "certificate.json").read_text("utf-8"))
    forms = {entry["name"]: entry for entry in certificate["compared"]}
    assert certificate["rows"] == 20 and certificate["reference"] == "trained"
    assert forms["onnxruntime fp32"]["largest_difference"] < 1e-4 and not forms["onnxruntime fp32"]["changed"]
    assert case not in SERVED or forms["HTTP service"]["agreement"] == 1
    text = CASES[case][1][0].get("text") or CASES[case][1][0]["text_a"]
    assert text not in json.dumps(certificate, ensure_ascii=False)


def test_openvino_answers_as_onnxruntime(made):
    pytest.importorskip("openvino")
    for case in ("own", "relations", "bi"):
        _, bundle = made(case)
        one, other = (load(bundle, engine=engine, precision="fp32") for engine in ("onnxruntime", "openvino"))
        for a, b in zip(one.outputs(CASES[case][3]), other.outputs(CASES[case][3]), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_embeddings_are_unit_vectors_of_the_pooled_state(made):
    import torch

    from weitiao.training.batches import Batches

    run, bundle = made("classes")
    trained, predictor = weitiao.load(run), load(bundle, engine="onnxruntime")
    found = predictor.embed(TEXTS)
    assert found.dtype == np.float32 and found.shape == (4, 32)
    encoded = predictor.encode([{"text": text} for text in TEXTS])
    batch = Batches(encoded, 4, 0).batch(np.arange(4))
    with torch.inference_mode():
        hidden_TD = trained.model.backbone(batch.packed, None).float()
    means = torch.stack([part.mean(0) for part in hidden_TD.split(batch.packed.lengths_B.tolist())])
    expected = torch.nn.functional.normalize(means, dim=-1).numpy()
    np.testing.assert_allclose(found[batch.rows], expected, atol=1e-5)
    np.testing.assert_allclose(predictor.embed(TEXTS[1]), found[1:2], atol=1e-6)
    with pytest.raises(WeitiaoError, match="text 2: there is no text"):
        predictor.predict(["good", None])


def test_batches_hold_every_row_once_within_the_budget(made):
    predictor = load(made("classes")[1], engine="onnxruntime")
    encoded = predictor.encode([{"text": "good " * n} for n in (1, 30, 2, 7, 30, 1)])
    found = list(batches(encoded, ["input_ids", "attention_mask"], 0, tokens=64))
    assert sorted(np.concatenate([batch.rows for batch in found]).tolist()) == list(range(6))
    for batch in found:
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert ids.size <= 64 and ids.shape == mask.shape
        assert mask.sum(1).tolist() == batch.lengths.tolist() and not ids[mask == 0].any()
    assert predictor.lengths(["good", "good good"]) == [3, 4]
    assert predictor.predict([]) == [] and predictor.outputs([]) == []


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Blocked())
from weitiao.cli import main
for arguments in {commands!r}:
    assert main(arguments) == 0, arguments
"""


def test_predicting_needs_no_torch(made, tmp_path):
    blocked = (
        "torch",
        "transformers",
        "datasets",
        "pandas",
        "pyarrow",
        "sklearn",
        "scipy",
        "matplotlib",
        "peft",
        "onnx",
    )
    table = tmp_path / "new.csv"
    table.write_text("text\nthe card\n银行卡丢了\n", encoding="utf-8")
    commands = []
    for case in CASES:
        items = CASES[case][3][0]
        texts = [items] if isinstance(items, str) else list(items)
        commands.append(["predict", str(made(case)[1]), *texts, "--engine", "onnxruntime"])
    answers = tmp_path / "answers.jsonl"
    commands.append(["predict", str(made("spans")[1]), "--data", str(table), "--output", str(answers)])
    script = BLOCKED.format(blocked=blocked, commands=commands)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(CASES)
    rows = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
    assert [(row["row"], row["text"]) for row in rows] == [(2, "the card"), (3, "银行卡丢了")]


def test_a_table_is_answered_as_its_texts(made, tmp_path, capsys):
    run, bundle = made("classes")
    table, output = tmp_path / "new.jsonl", tmp_path / "answers.jsonl"
    table.write_text("".join(json.dumps({"review": text}) + "\n" for text in TEXTS), encoding="utf-8")
    expected = [ranked[0]["label"] for ranked in load(bundle, engine="onnxruntime").predict(TEXTS)]
    given = ["--data", str(table), "--columns", "text=review", "--engine", "onnxruntime"]
    for folder in (run, bundle):
        assert main(["predict", str(folder), *given, "--output", str(output)]) == 0
        rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
        assert [row["text"] for row in rows] == TEXTS
        assert [row["answers"][0]["label"] for row in rows] == expected
    table.write_text('{"review": "good"}\n{"review": null}\n', encoding="utf-8")
    assert main(["predict", str(bundle), *given]) == 2
    assert "row 2" in capsys.readouterr().err


# --- what is refused


@pytest.fixture
def copied(made, tmp_path):
    """A bundle of one's own to damage."""
    import shutil

    return Path(shutil.copytree(made("classes")[1], tmp_path / "copy"))


def _change(folder: Path, sealed: bool = False, **parts) -> None:
    """Edit the manifest; ``sealed``: leave its own hash in it, so that the edit shows."""
    manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
    if not sealed:
        manifest.pop(SEAL, None)
    (folder / "bundle.json").write_text(json.dumps(manifest | parts), encoding="utf-8")


DAMAGES = {
    "sha256": lambda f: _flip(f / "model.onnx"),
    "bytes, not": lambda f: (f / "tokenizer.json").write_bytes(b"{}"),
    "missing": lambda f: (f / "model.onnx").unlink(),
    "not in the bundle's manifest": lambda f: (f / "more.txt").write_text("x"),
    "pickle": lambda f: (f / "model.pt").write_bytes(b"\x80\x04."),
    "not a plain file": lambda f: (
        (f / "model.onnx").unlink(),
        (f / "model.onnx").symlink_to("tokenizer.json"),
    ),
    "is not one that this version reads": lambda f: _change(f, version=99),
    "file name": lambda f: _change(f, files={"../x": {"sha256": "", "bytes": 0}}),
    "kind": lambda f: _change(f, kind="other"),
    "changed since it was sealed": lambda f: _change(f, sealed=True, max_length=8),
    "damaged": lambda f: (f / "bundle.json").write_text("[" * 100_000),
    "is not a bundle": lambda f: (f / "bundle.json").unlink(),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_bundle_that_is_not_what_its_manifest_says_is_refused(copied, message):
    open_bundle(copied)  # verified and remembered: what changes afterwards must be seen all the same
    DAMAGES[message](copied)
    with pytest.raises(WeitiaoError, match=message) as caught:
        load(copied)
    assert "\n" not in str(caught.value)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_version_follows_the_bytes(made, copied):
    assert open_bundle(copied).version == open_bundle(made("classes")[1]).version
    (copied / "README.md").write_text("other", encoding="utf-8")
    manifest = json.loads((copied / "bundle.json").read_text("utf-8"))
    seal(copied, {k: v for k, v in manifest.items() if k not in ("files", "created", "code_version")})
    assert open_bundle(copied).version != open_bundle(made("classes")[1]).version


def test_answers_cannot_be_swapped_in_the_manifest(made, copied):
    manifest = json.loads((copied / "bundle.json").read_text("utf-8"))
    answers = manifest["answers"] | {"names": manifest["answers"]["names"][::-1]}
    _change(copied, sealed=True, answers=answers)
    with pytest.raises(
        WeitiaoError, match=r"bundle.json has been changed since it was sealed\. Export or copy"
    ):
        open_bundle(copied)
    # Somebody who seals it anew, or takes the hash away, makes another version of it.
    original = open_bundle(made("classes")[1]).version
    _change(copied)
    assert open_bundle(copied).version != original
    seal(copied, json.loads((copied / "bundle.json").read_text("utf-8")))
    assert open_bundle(copied).version != original


def test_when_and_by_what_a_bundle_was_written_makes_no_other_version(made, copied):
    original = open_bundle(made("classes")[1])
    _change(copied, sealed=True, created="2000-01-01T00:00:00+00:00", code_version="0.0.1")
    assert open_bundle(copied).version == original.version
    seal(copied, original.manifest)
    assert open_bundle(copied).version == original.version
    assert open_bundle(copied).manifest[SEAL] == original.manifest[SEAL]


def test_a_bundle_sealed_before_manifests_had_a_hash_is_read(made, copied):
    _change(copied)
    assert SEAL not in (bundle := open_bundle(copied)).manifest
    assert bundle.version == open_bundle(made("classes")[1]).version
    assert load(copied, engine="onnxruntime").predict(["good"])


def test_a_manifest_that_names_another_graph_has_it_looked_at(copied):
    """Also where every file was verified before: only the graph that the manifest named then was."""
    (copied / "other.onnx").write_bytes(b"garbage" * 10)
    manifest = json.loads((copied / "bundle.json").read_text("utf-8"))
    seal(copied, manifest)
    open_bundle(copied)
    seal(copied, manifest | {"graph": manifest["graph"] | {"file": "other.onnx"}})
    with pytest.raises(WeitiaoError, match=r"other\.onnx"):
        open_bundle(copied)


# --- engines


def test_wishes_that_no_engine_fulfils(made):
    _, bundle = made("classes")
    with pytest.raises(WeitiaoError, match="Did you mean 'openvino'"):
        load(bundle, engine="openvno")
    with pytest.raises(WeitiaoError, match="cannot compute in bf16"):
        load(bundle, engine="onnxruntime", precision="bf16")


def test_the_faster_engine_is_measured_once_and_remembered(made, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path))
    bundle = made("classes")[1]
    chosen = load(bundle).engine
    (kept,) = (tmp_path / "engines").glob("*.json")
    found = json.loads(kept.read_text("utf-8"))
    assert (found["engine"], found["precision"]) == (chosen.name, chosen.precision)
    assert min(found["seconds"], key=found["seconds"].get) == f"{chosen.name} {chosen.precision}"
    other = "openvino" if chosen.name == "onnxruntime" else "onnxruntime"
    kept.write_text(json.dumps({"engine": other, "precision": "fp32"}), encoding="utf-8")
    assert load(bundle).engine.name == other
    assert len(list((tmp_path / "engines").glob("*.json"))) == 1
    kept.write_text('{"engine": "gone"}', encoding="utf-8")
    assert load(bundle).engine.name in ("onnxruntime", "openvino")


def _labels(answers):
    names = ("label", "entity_group", "start", "end", "word")
    flat = [answer if isinstance(answer, list) else [answer] for answer in answers]
    return [[tuple(part.get(name) for name in names) for part in answer] for answer in flat]


def _scores(answers):
    flat = [answer if isinstance(answer, list) else [answer] for answer in answers]
    return [part["score"] for answer in flat for part in answer]


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    """A Unigram tokenizer of XLM-R's kind, learnt from a few texts, with a special token behind its pieces."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    built = Tokenizer(models.Unigram())
    built.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    texts = [f"{row['text']} {row['text'][::-1]}" for row in LABELLED]
    built.train_from_iterator(texts, trainer)
    built.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    built.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    path = tmp_path_factory.mktemp("unigram") / "tokenizer.json"
    built.save(str(path), pretty=False)
    return built, path


def test_the_quick_tokenizer_cuts_as_the_whole_one(unigram, monkeypatch):
    from weitiao.runtime import quick_tokenizer

    whole, path = unigram
    assert quick_tokenizer.QuickTokenizer.open(path) is None, "small files are read whole"
    monkeypatch.setattr(quick_tokenizer, "LEAST_BYTES", 0)
    quick = quick_tokenizer.QuickTokenizer.open(path)
    texts = [*TEXTS, "  the　card  ☃ <mask> 银行", "</s> odd", ("good money", "bad ☃ bank"), "x" * 50]
    for longest in (512, 6):
        quick.enable_truncation(longest)
        whole.enable_truncation(longest)
        expected = whole.encode_batch(texts)
        for batch in ([text] for text in texts), [texts]:
            found = [encoding for part in batch for encoding in quick.encode_batch(part)]
            for a, b in zip(found, expected, strict=True):
                assert (a.ids, a.type_ids, a.offsets) == (b.ids, b.type_ids, b.offsets)
                assert [part.ids for part in a.overflowing] == [part.ids for part in b.overflowing]
        assert [e.ids for e in quick.encode_batch_fast(texts)] == [e.ids for e in expected]
    whole.no_truncation()
    quick.no_truncation()
    assert quick.encode_batch(texts)[0].ids == whole.encode_batch(texts)[0].ids


def test_other_large_tokenizers_are_left_to_the_library(tiny_model, monkeypatch):
    from weitiao.runtime import quick_tokenizer

    monkeypatch.setattr(quick_tokenizer, "LEAST_BYTES", 0)
    assert quick_tokenizer.QuickTokenizer.open(tiny_model / "tokenizer.json") is None


def test_a_bundle_is_scored_as_its_run_and_stays_whole(made, tmp_path):
    run, bundle = made("classes")
    table = run.parent / "classes.jsonl"
    scores = [weitiao.evaluate(folder, table) for folder in (run, bundle)]
    # Bundles may compute in bf16, where the certificate has every decision the same on the rows it saw.
    assert scores[0]["accuracy"] == pytest.approx(scores[1]["accuracy"], abs=1.01 / len(LABELLED))
    assert (bundle.with_name("classes-evaluation") / "classes" / "metrics.json").exists()
    open_bundle(bundle)


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"),
    [(1.0, 1.0, True), (1.0, 0.999, False), (0.995, 0.995, True), (0.995, 0.99, False)],
)
def test_bf16_is_taken_only_where_it_costs_no_decision(tmp_path, fp32, bf16, expected):
    compared = [
        {"name": f"openvino {p}", "agreement": value} for p, value in (("fp32", fp32), ("bf16", bf16))
    ]
    (tmp_path / "certificate.json").write_text(json.dumps({"compared": compared}), "utf-8")
    bundle = SimpleNamespace(folder=tmp_path)
    assert _certified(bundle, "openvino", "bf16") is expected
    assert _certified(bundle, "onnxruntime", "bf16") is False  # not compared
