"""Pretraining: what is hidden and paired, the tied loss, runs that open in ``transformers``, resume, bad input."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import write
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F

from weitiao.core.config import build
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import CheckpointEvent
from weitiao.core.runs import read_events, read_json, sha256
from weitiao.data.corpus import open_corpus
from weitiao.data.encode import load_tokenizer
from weitiao.data.token_stream import Blocks
from weitiao.evaluation._ngram import bits
from weitiao.models import language_head
from weitiao.models.language_head import LanguageHead, _TiedLoss
from weitiao.pretraining._composed import compose
from weitiao.pretraining.base import Vocabulary, halves
from weitiao.stages import pretrain
from weitiao.stages._language_end import ngram_words
from weitiao.stages._language_scores import passed
from weitiao.training.corpus_batches import CorpusBatches

# Ids 0 .. 3 are special; words begin at even ids, and at each from 40 on, which are Chinese.
WORDS = Vocabulary(
    starts_V=(np.arange(60) % 2 == 0) | (np.arange(60) >= 40), chinese_V=np.arange(60) >= 40, ends_V=np.arange(60) == 10,
    used=np.arange(4, 60), sep=3, cls=2, mask=1,
)  # fmt: skip


def composed(text: str, **values: Any) -> Any:
    made = compose(text, values)
    made.vocabulary = WORDS
    return made


@given(st.lists(st.integers(4, 59), min_size=1, max_size=40), st.integers(0, 99))
def test_hidden_words_are_whole_and_their_targets_true(ids: list[int], seed: int):
    (example,) = composed("masked_lm", mask_rate=0.3).examples([np.array(ids)], np.random.default_rng(seed))
    before = np.array([2, *ids, 3])
    assert example.targets.tolist() == before[example.marks].tolist()
    assert len(example.marks) and not {0, len(ids) + 1} & set(example.marks.tolist())
    kept = np.setdiff1d(np.arange(len(before)), example.marks)
    assert (example.ids[kept] == before[kept]).all()
    for place in range(2, len(ids) + 1):  # a piece that goes on a word shares its fate
        if before[place] % 2 and before[place] < 40:
            assert (place in example.marks) == (place - 1 in example.marks)


def test_as_much_is_hidden_as_asked_and_in_the_three_ways():
    row = np.tile(np.arange(4, 60), 400)
    (example,) = composed("masked_lm").examples([row], np.random.default_rng(0))
    assert len(example.marks) / len(row) == pytest.approx(0.15, abs=0.015)
    now, true = example.ids[example.marks], example.targets
    assert (now == 1).mean() == pytest.approx(0.8, abs=0.03)
    assert (now == true).mean() == pytest.approx(0.1, abs=0.03)
    chinese = np.flatnonzero(true >= 40)
    together = np.diff(example.marks[chinese]) == 1
    assert together.mean() == pytest.approx(0.4 + 0.6 * 0.15, abs=0.06)  # spans of Chinese


def test_a_causal_model_predicts_each_token_of_a_row_once():
    blocks = Blocks(np.arange(4, 55), 8, overlap=1)
    batches = CorpusBatches(blocks, composed("causal_lm"), 0, batch_tokens=16, micro_tokens=16)
    seen = {}
    for rows in batches.epoch(3):
        for batch in batches.step(rows):
            read = batch.packed.ids_T[batch.marks_T]
            seen |= dict(zip(read.tolist(), batch.targets.tolist(), strict=True))
    assert seen == {i: i + 1 for i in range(4, 54)}


def test_pairs_are_cut_between_sentences_and_half_of_them_false():
    block = np.array([4, 5, 6, 7, 10, 20, 21, 22, 23, 24])
    assert [half.tolist() for half in halves(block, WORDS)] == [[4, 5, 6, 7, 10], [20, 21, 22, 23, 24]]
    answers = []
    for seed in range(100):
        for example in composed("sentence_order").examples([block], np.random.default_rng(seed)):
            answers.append(example.pair)
            first = [4, 5, 6, 7, 10] if example.pair == 0 else [20, 21, 22, 23, 24]
            assert example.ids[: len(first) + 2].tolist() == [2, *first, 3]
            assert example.types.tolist() == [0] * 7 + [1] * 6
        other = np.arange(30, 40)
        strange, _ = composed("masked_lm+next_sentence").examples([block, other], np.random.default_rng(seed))
        second = strange.ids.copy()
        second[strange.marks] = strange.targets
        assert (set(second[7:12].tolist()) <= set(range(30, 40))) == (strange.pair == 1)
    assert 35 < sum(answers) < 65


@pytest.mark.parametrize(
    "text", ["causal_lm+masked_lm", "next_sentence+sentence_order", "causal_lm+next_sentence"]
)
def test_what_does_not_go_together_is_refused(text: str):
    with pytest.raises(WeitiaoError, match="cannot work"):
        compose(text, {})


def test_the_tied_loss_is_cross_entropy_with_its_gradients(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(language_head, "CHUNK_BYTES", 320)  # several chunks
    generator = torch.Generator().manual_seed(0)
    x, w, b = (
        torch.randn(*size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in ((7, 5), (12, 5), (12,))
    )
    targets = torch.randint(0, 12, (7,), generator=generator)
    ours = torch.autograd.grad(3 * _TiedLoss.apply(x, w, b, targets), (x, w, b))
    loss = 3 * F.cross_entropy(x @ w.t() + b, targets, reduction="sum")
    for a, e in zip(ours, torch.autograd.grad(loss, (x, w, b)), strict=True):
        torch.testing.assert_close(a, e)
    head = LanguageHead(lambda: w)
    losses, right = head.scores(x, targets)
    torch.testing.assert_close(losses, F.cross_entropy(x @ w.t(), targets, reduction="none"))
    assert right.tolist() == ((x @ w.t()).argmax(1) == targets).tolist()


# --- whole runs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("corpus") / "texts", 1500)


def start(corpus: Path, output: Path, **settings: Any) -> Any:
    known = {
        "data": str(corpus), "output": str(output), "model": "tiny", "tokenizer_size": 400, "context": 32, "held_out": 0.2,
        "batch_tokens": 256, "micro_tokens": 256, "max_steps": 24, "learning_rate": 3e-3, "precision": "fp32", "threads": 1,
        "seed": 1, "dropout": 0.0, "evaluate_steps": 8,
        # muon's matrix products are in bf16 where the processor has them: no golden losses for all machines.
        "optimizer": "adamw",
    }  # fmt: skip
    return pretrain.run(build(pretrain.Config, known | settings))


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in read_events(folder) if event["event"] == "step"]


@pytest.fixture(
    scope="module", params=["causal_lm", "masked_lm", "masked_lm+next_sentence", "sentence_order"]
)
def run(
    request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    list(start(corpus, folder, objective=request.param, tokenizer="bpe"))
    return request.param, folder


def test_a_run_learns_and_leaves_a_report(run: tuple[str, Path]):
    objective, folder = run
    found = losses(folder)
    assert len(found) == 24
    tracked = [event["scores"] for event in read_events(folder) if event["event"] == "evaluation"]
    assert len(tracked) == 4  # before the first step, then every eight
    if objective != "sentence_order":  # that takes more than 24 steps
        assert tracked[-1]["bits_per_byte"] < 0.99 * tracked[0]["bits_per_byte"]
    metrics = read_json(folder / "metrics.json")
    report = metrics["evaluation"]["held_out"]
    if objective == "sentence_order":
        assert set(report["scores"]) == {"pair_accuracy"}
    else:
        assert report["scores"]["bits_per_byte"] < report["baseline"]["bits_per_byte"] + 1
        assert np.log(report["scores"]["perplexity"]) > 0
    assert ("ngram" in report) == (objective == "causal_lm")
    findings = {f["code"]: f["count"] for f in metrics["data_findings"]}
    assert findings == {"duplicates": 1, "bad_lines": 1, "skipped_file": 1}
    page = (folder / "report.html").read_text("utf-8")
    assert "held-out text" in page and "留出文本" in page
    assert not (folder / "checkpoints").exists() and not (folder / "corpus").exists()


def test_transformers_opens_the_model_as_it_is(run: tuple[str, Path]):
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BertForPreTraining

    from weitiao.models.packed import pack
    from weitiao.stages import _language_model

    objective, folder = run
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    ids = tokenizer("the bank blocks my password. 银行退回手续费。")["input_ids"]
    assert ids == load_tokenizer(folder / "model").encode("the bank blocks my password. 银行退回手续费。").ids
    pairs = "+" in objective or objective == "sentence_order"
    ours = _language_model.reopened(folder / "model", objective == "causal_lm", pairs)
    cls = (
        AutoModelForCausalLM
        if objective == "causal_lm"
        else BertForPreTraining
        if pairs
        else AutoModelForMaskedLM
    )
    theirs, said = cls.from_pretrained(folder / "model", output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    with torch.inference_mode():
        there = theirs.eval()(torch.tensor([ids]))
        hidden = ours.hidden(pack([np.array(ids)]), torch.arange(len(ids)), None)
        logits = F.linear(ours.head.transformed(hidden[: len(ids)]), ours.head.weight_VD(), ours.head.bias)
        expected = there.prediction_logits if pairs else there.logits
        torch.testing.assert_close(logits, expected[0], atol=2e-5, rtol=1e-4)
        if pairs:
            torch.testing.assert_close(
                ours.head.pair_logits(hidden[len(ids) :]), there.seq_relationship_logits, atol=1e-5, rtol=1e-4
            )


def test_scores_are_those_of_transformers_over_the_text(run: tuple[str, Path], corpus: Path, tmp_path: Path):
    """Bits per byte of a causal model, from the text alone: tokens in blocks, one more token of context in each."""
    from transformers import AutoModelForCausalLM

    objective, folder = run
    if objective != "causal_lm":
        pytest.skip("bits of the whole text are a causal model's")
    tokenizer = load_tokenizer(folder / "model")
    end = tokenizer.token_to_id("<|endoftext|>")
    texts = [text for text, held in open_corpus(str(corpus)).parts(0.2, 1) if held]
    row = [end] + [i for text in texts for i in (*tokenizer.encode(text).ids, end)]
    model, total = AutoModelForCausalLM.from_pretrained(folder / "model").eval(), 0.0
    for at in range(0, len(row) - 1, 32):
        part = torch.tensor([row[at : at + 33]])
        with torch.inference_mode():
            logits = model(part[:, :-1]).logits[0]
        total += float(F.cross_entropy(logits, part[0, 1:], reduction="sum"))
    size = sum(len(text.encode()) + 1 for text in texts)
    scores = read_json(folder / "metrics.json")["evaluation"]["held_out"]["scores"]
    assert scores["bits_per_byte"] == pytest.approx(total / np.log(2) / size, rel=1e-4)
    assert scores["perplexity"] == pytest.approx(np.exp(total / (len(row) - 1)), rel=1e-4)


def test_the_n_gram_beside_a_model_reads_the_same_tokens(run: tuple[str, Path], corpus: Path):
    objective, folder = run
    if objective != "causal_lm":
        pytest.skip("an n-gram is set beside causal models")
    tokenizer, rows, size = load_tokenizer(folder / "model"), {}, 0
    end = tokenizer.token_to_id("<|endoftext|>")
    for text, held in open_corpus(str(corpus)).parts(0.2, 1):
        rows.setdefault(held, [end]).extend([*tokenizer.encode(text).ids, end])
        size += held * (len(text.encode()) + 1)
    (*_, (order, cost)) = bits(np.array(rows[False]), np.array(rows[True][1:]), 400, 5)
    report = read_json(folder / "metrics.json")["evaluation"]["held_out"]["ngram"]
    assert report["order"] == order == 5
    assert report["bits_per_byte"] == pytest.approx(cost.sum() / size)
    page = (folder / "report.html").read_text("utf-8")
    assert "5-gram" in page and "5 元模型" in page


def test_when_a_model_passes_an_n_gram():
    events = [{"event": "evaluation", "step": 0, "scores": {"bits_per_byte": 4.0}}]
    for step, score in ((10, 2.5), (20, 1.9), (30, 1.8)):
        events += [{"event": "step", "tokens": 600, "tokens_per_second": 100.0}] * 10
        events.append({"event": "evaluation", "step": step, "scores": {"bits_per_byte": score}})
    assert passed(events, "bits_per_byte", 2.0) == {"step": 20, "seconds": pytest.approx(120.0)}
    assert passed(events, "bits_per_byte", 1.0) is None
    said = ngram_words({"order": 5, "bits_per_byte": 2.0, "passed": {"step": 20, "seconds": 120.0}})
    assert said == "5-gram 2, passed after 2.0 minutes"
    assert "not passed" in ngram_words({"order": 5, "bits_per_byte": 1.0, "passed": None})


def test_a_stopped_run_goes_on_to_the_same_weights(run: tuple[str, Path], corpus: Path, tmp_path: Path):
    objective, whole = run
    work = start(corpus, tmp_path / "run", objective=objective, checkpoint_steps=5, tokenizer="bpe")
    for event in work:
        if getattr(event, "step", 0) == 13 and hasattr(event, "loss"):
            break
    work.close()  # as a kill would: nothing is saved after step 10
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000010")
    config = build(pretrain.Config, {"output": str(tmp_path / "run"), "resume": True})
    list(pretrain.run(config))
    assert sha256(tmp_path / "run/model/model.safetensors") == sha256(whole / "model/model.safetensors")
    assert losses(tmp_path / "run")[-4:] == losses(whole)[-4:]


def test_going_on_trains_a_new_head_first_and_finetune_takes_the_result(
    corpus: Path, tiny_model: Path, tmp_path: Path
):
    settings = {
        "model": str(tiny_model),
        "max_steps": 12,
        "head_steps": 6,
        "evaluate_steps": 6,
        "context": 48,
    }
    before = _embeddings(tiny_model)
    list(start(corpus, tmp_path / "domain", objective="masked_lm", **settings))
    events = read_events(tmp_path / "domain")
    scores = {e["step"]: e["scores"]["masked_accuracy"] for e in events if e["event"] == "evaluation"}
    assert list(scores) == [0, 6, 12] and scores[12] > scores[0]
    after = _embeddings(tmp_path / "domain" / "model")
    moved = (after != before).any(1)
    assert moved.any() and not moved[3000]  # 3000 stands nowhere in the corpus
    from weitiao.models.backbone import open_backbone
    from weitiao.models.known import resolve_model

    encoder, _, _ = open_backbone(resolve_model(tmp_path / "domain").path)
    assert torch.equal(encoder.embeddings.word_embeddings.weight, after)
    # Going on from there needs no new head: the first score is what the last one was.
    list(
        start(
            corpus, tmp_path / "more", objective="masked_lm", **settings | {"model": str(tmp_path / "domain")}
        )
    )
    first = next(
        e["scores"]["masked_accuracy"] for e in read_events(tmp_path / "more") if e["event"] == "evaluation"
    )
    assert first == pytest.approx(scores[12], abs=0.02)


def _embeddings(folder: Path) -> torch.Tensor:
    from weitiao.models.backbone import open_backbone

    return open_backbone(folder)[0].embeddings.word_embeddings.weight.detach()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data": "nowhere"}, "No such file"),
        ({"objective": "masked_lm+causal_lm"}, "cannot work"),
        ({"held_out": 0.001, "context": 8192}, "fewer than one block"),
        ({"model": "TINY", "objective": "causal_lm"}, "is an encoder: use --objective masked-lm"),
        ({"model": "TINY", "context": 128}, "reads at most 64"),
        ({"tokenizer_size": 100}, "too small"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    corpus: Path, tiny_model: Path, tmp_path: Path, settings: dict, said: str
):
    settings = {"objective": "causal_lm"} | settings
    if settings.get("model") == "TINY":
        settings = {"objective": "masked_lm"} | settings | {"model": str(tiny_model)}
    if "context" in settings and settings.get("model"):
        settings["objective"] = "masked_lm"
    with pytest.raises(WeitiaoError, match=said) as raised:
        list(start(corpus, tmp_path / "run", **settings))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_wordpiece_encoder_from_scratch(corpus: Path, tmp_path: Path):
    """The default of encoders; its trainer breaks ties at random, so that no two runs have the same ids."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    list(start(corpus, tmp_path / "run", objective="masked_lm", max_steps=3))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert tokenizer.decode(tokenizer("my card 银行")["input_ids"], skip_special_tokens=True).split()[
        -2:
    ] == ["银", "行"]
    _, said = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "model", output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]


def test_from_scratch_it_is_muon_which_learns_more_of_the_same_tokens(corpus: Path, tmp_path: Path):
    learnt = {}
    for kind in ("", "adamw"):
        folder = tmp_path / (kind or "default")
        for event in start(corpus, folder, objective="causal_lm", optimizer=kind, model="small"):
            if isinstance(event, CheckpointEvent):
                moments = load_file(Path(event.path) / "optimizer.safetensors")
        learnt[kind] = read_json(folder / "metrics.json")["evaluation"]["held_out"]["scores"]["bits_per_byte"]
        orthogonal = {name.rpartition("/")[0] for name in moments if name.endswith("/momentum")}
        assert bool(orthogonal) == (not kind)
        assert all(".layers." in name and moments[f"{name}/momentum"].ndim == 2 for name in orthogonal)
    assert learnt[""] < learnt["adamw"]


def test_the_old_weights_have_their_share(corpus: Path, tiny_model: Path, tmp_path: Path):
    found = {}
    for name, keep in (("new", 0.0), ("default", None), ("old", 1.0)):
        settings = {
            "model": str(tiny_model),
            "max_steps": 12,
            "head_steps": 2,
            "evaluate_steps": 6,
            "context": 48,
        }
        list(start(corpus, tmp_path / name, objective="masked_lm", keep=keep, **settings))
        found[name] = load_file(tmp_path / name / "model" / "model.safetensors")
    known, moved = load_file(tiny_model / "model.safetensors"), 0
    for name, old in known.items():
        here = next((key for key in (name, f"bert.{name}") if key in found["new"]), None)
        if here is None:
            continue
        moved += not torch.equal(found["new"][here], old)
        torch.testing.assert_close(found["old"][here], old, rtol=0, atol=1e-7)
        torch.testing.assert_close(
            found["default"][here], (old + found["new"][here]) / 2, rtol=1e-4, atol=1e-6
        )
    assert moved > 20


def test_from_scratch_there_is_nothing_to_keep(corpus: Path, tmp_path: Path):
    with pytest.raises(WeitiaoError, match="--model tiny begins with none"):
        list(start(corpus, tmp_path / "run", keep=0.5))
    assert not (tmp_path / "run").exists()


def test_a_small_corpus_is_read_several_times(corpus: Path, tmp_path: Path):
    def steps(**settings: Any) -> tuple[int, int]:
        """Of the whole run, and of one pass."""
        known = {"objective": "causal_lm", "max_steps": 0, "overwrite": True}
        events = start(corpus, tmp_path / "run", **(known | settings))
        step = next(event for event in events if type(event).__name__ == "StepEvent")
        events.close()
        return step.total_steps, round(1 / step.epoch)

    total, a_pass = steps(num_epochs=2)
    assert total == 2 * a_pass
    assert steps(num_epochs=2, max_steps=5) == (5, a_pass)
    assert steps(max_steps=3 * a_pass) == (3 * a_pass, a_pass)
    total, a_pass = steps()
    assert total == 9 * a_pass and 8 * a_pass < 500 <= total
    total, a_pass = steps(batch_tokens=4096)
    assert total == 10 * a_pass < 500


GOLDEN = {
    "causal_lm": [6.002422, 4.778974, 3.13293, 2.578155],
    "masked_lm": [4.132119, 3.859211, 3.809688, 3.888297],
    "masked_lm+next_sentence": [4.67954, 4.862744, 4.554502, 4.55671],
    "sentence_order": [0.693317, 0.711447, 0.703736, 0.689669],
}


def test_the_loss_curve_is_the_golden_one(run: tuple[str, Path]):
    """The losses of steps 1, 7, 13 and 19."""
    np.testing.assert_allclose(losses(run[1])[::6], GOLDEN[run[0]], rtol=2e-3)
