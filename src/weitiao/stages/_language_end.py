"""The end of a pretraining run: the model folder, its scores on all held-out text, report and card."""

import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from weitiao.core.device import peak_memory_bytes
from weitiao.core.events import EstimateEvent, Event, NoteEvent, ProgressEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_folder, read_events, write_json
from weitiao.core.version import __version__
from weitiao.models.known import KNOWN
from weitiao.reporting.card import write_card
from weitiao.reporting.page import write_report
from weitiao.stages import _language_model, _language_scores
from weitiao.stages._save import TOKENIZER_FILES
from weitiao.training.corpus_batches import CorpusBatches
from weitiao.training.engagement import count_parameters, same_outputs

if TYPE_CHECKING:
    from weitiao.stages._pretraining import Training

SCORED_TOKENS = 400_000  # of the held-out part, at the end
COMPARED = 4  # blocks whose states are compared


def finish(run: "Training") -> Iterator[Event]:
    """Save, open again and compare, score, report; checkpoints and encoded corpus go."""
    run.model.to("cpu").eval()
    objective = run.objective
    with torch.no_grad(), atomic_folder(run.folder / "model") as new:
        opens = _language_model.save(run.model, new)
        source = run.corpus_folder if run.scratch else run.data.source.path  # type: ignore[union-attr]
        for file in TOKENIZER_FILES:
            if (source / file).exists():
                shutil.copy(source / file, new / file)
    saved = _language_model.reopened(run.folder / "model", objective.decoder, objective.pairs is not None)
    held = run.data.held.first(max(SCORED_TOKENS // run.data.held.size, 1))
    batches = CorpusBatches(
        held, objective, 0, batch_tokens=run.config.micro_tokens, micro_tokens=run.config.micro_tokens,
        first_position=saved.first_position,
    )  # fmt: skip
    batch = batches.drawn(np.arange(min(COMPARED, len(held))), np.random.default_rng(0))[0]
    with torch.inference_mode():
        states = [model.hidden(batch.packed, batch.marks_T, None) for model in (run.model, saved)]
    difference = same_outputs(*states)
    yield NoteEvent(say("The saved model computes as the trained one", "保存后的模型与训练时计算一致"))
    yield EstimateEvent(peak_memory_bytes(), run.trained_seconds, actual=True)
    yield ProgressEvent(say("evaluating", "评估"), 0, 1)
    report = _report(run, saved, batches, held)
    yield ProgressEvent(say("evaluating", "评估"), 1, 1)
    write_json(run.folder / "metrics.json", _metrics(run, report, opens, difference))
    yield NoteEvent(_text(report))
    write_card(run.folder)
    write_report(run.folder)
    yield NoteEvent(
        say(
            f"Run folder: {run.folder}   report: {run.folder / 'report.html'}",
            f"运行目录：{run.folder}   报告：{run.folder / 'report.html'}",
        )
    )
    for place in (run.checkpoints, run.corpus_folder):
        shutil.rmtree(place, ignore_errors=True)
    yield ResultEvent(str(run.folder), {"monitor": run.monitor, "scores": {"held_out": report["scores"]}})


def _report(run: "Training", saved: Any, batches: CorpusBatches, held: Any) -> dict[str, Any]:
    found = _language_scores.measure(saved, batches, held)
    pieces = saved.backbone.shape.vocab_size
    baseline = _language_scores.guess(run.data.train.ids_T, held, pieces, run.objective.decoder)
    kept = {name: value for name, value in baseline.items() if name in (*found["scores"], "answer")}
    beside = {}
    if run.ngram:
        when = _language_scores.passed(read_events(run.folder), run.monitor, run.ngram["tracked"])
        beside = {"ngram": run.ngram | {"passed": when}}
    return {
        "kind": "language_model", "monitor": run.monitor, "rows": len(held), "scores": found["scores"],
        "intervals": found["intervals"], "baseline": kept, "notes": _notes(run), "tokens": found["tokens"],
        **beside,
    }  # fmt: skip


def _notes(run: "Training") -> list[str]:
    notes = []
    scored = min(SCORED_TOKENS, len(run.data.held.ids_T))
    if scored < len(run.data.held.ids_T):
        notes.append(
            say(
                f"Scored on the first {scored:,} held-out tokens.",
                f"在留出部分的前 {scored:,} 个词元上评估。",
            )
        )
    if run.objective.tokens and not run.objective.decoder:
        notes.append(
            say(
                "Bits per byte of hidden tokens: compare them among masked models only.",
                "比特/字节只计被遮住的词元：只能在掩码模型之间比较。",
            )
        )
    return notes


def _text(report: dict[str, Any]) -> str:
    names = {
        "bits_per_byte": ("bits per byte", "比特/字节"), "perplexity": ("perplexity", "困惑度"),
        "masked_accuracy": ("masked accuracy", "掩码准确率"), "token_accuracy": ("next-token accuracy", "下一词元准确率"),
        "pair_accuracy": ("pair accuracy", "句对准确率"),
    }  # fmt: skip
    lines = []
    for name, value in report["scores"].items():
        low, high = report["intervals"].get(name, (value, value))
        guess = report["baseline"].get(name)
        beside = "" if guess is None else say(f"; frequencies alone {guess:.4g}", f"；仅按频率猜 {guess:.4g}")
        if name == "bits_per_byte" and (ngram := report.get("ngram")):
            beside += "; " + ngram_words(ngram)
        lines.append(f"{say(*names[name])}: {value:.4g}  [{low:.4g}, {high:.4g}]{beside}")
    return say("Held-out text", "留出文本") + "\n" + "\n".join(lines)


def ngram_words(ngram: dict[str, Any]) -> str:
    """The n-gram beside a model, and when it was passed."""
    order, worth, when = ngram["order"], ngram["bits_per_byte"], ngram["passed"]
    if when is None:
        return say(f"{order}-gram {worth:.4g}, not passed", f"{order} 元模型 {worth:.4g}，未超过")
    minutes = when["seconds"] / 60
    return say(
        f"{order}-gram {worth:.4g}, passed after {minutes:.1f} minutes",
        f"{order} 元模型 {worth:.4g}，训练 {minutes:.1f} 分钟后超过",
    )


def _metrics(run: "Training", report: dict[str, Any], opens: str, difference: float) -> dict[str, Any]:
    tokens, seconds = sum(t for t, _ in run.speeds), sum(s for _, s in run.speeds)
    known, parts = KNOWN.get(run.config.model), run.data.about["parts"]
    counts = run.data.about["counts"]
    data = {
        name: {
            "name": run.data.about["name"],
            "sha256": run.data.about["sha256"],
            "rows": part["documents"],
            "tokens": part["tokens"],
        }
        for name, part in parts.items()
    }
    findings = [
        {"code": code, "count": count, "message": message, "rows": []}
        for code, count, message in (
            ("duplicates", counts["duplicates"], say("documents that occur twice", "重复的文档")),
            ("bad_lines", counts["bad_lines"], say("damaged lines", "损坏的行")),
            *(("skipped_file", 1, line) for line in run.data.about["skipped"]),
        )
        if count
    ]
    return {
        "task": "causal_lm" if run.objective.decoder else "masked_lm",
        "objective": run.config.objective,
        "model": {
            "name": run.config.model, "tuning": "", "route": run.data.source.route if run.data.source else "scratch",
            "opens_in_transformers": say(
                f"The folder opens as it is: {opens}.from_pretrained.", f"该目录可直接打开：{opens}.from_pretrained。"
            ),
            "parameters": count_parameters(run.model)[0], "trained_parameters": int(run.moved["trained_parameters"]),
            "saved_logit_difference": difference, "tokenizer": run.config.tokenizer if run.scratch else "",
            "weights_bytes": (run.folder / "model" / "model.safetensors").stat().st_size,
            **({"license": known.licence, "hub_id": known.hub_id} if known else {}),
        },
        "data": data,
        "data_findings": findings,
        "evaluation": {"held_out": report},
        "monitor": run.monitor,
        "engagement": run.moved,
        "cost": {
            "actual_seconds": run.trained_seconds, "actual_memory_bytes": peak_memory_bytes(),
            "estimated_seconds": run.estimate.seconds, "estimated_memory_bytes": run.estimate.memory_bytes,
            **({"tokens_per_second": tokens / seconds} if seconds else {}),
        },
        "environment": {
            "weitiao": __version__, "torch": torch.__version__, "python": ".".join(map(str, sys.version_info[:3])),
            "threads": run.threads, "precision": run.precision,
        },
        "seed": run.config.seed,
    }  # fmt: skip
