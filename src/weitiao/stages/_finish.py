"""The end of a run: scores of the saved model, errors, report and model card."""

import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from weitiao.core.device import gpu_peak_bytes, peak_memory_bytes
from weitiao.core.events import Event, NoteEvent, ProgressEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import write_json
from weitiao.core.version import __version__
from weitiao.evaluation.base import write_errors
from weitiao.models.known import KNOWN
from weitiao.reporting.card import write_card
from weitiao.reporting.page import write_report
from weitiao.stages import _neighbours, _untrained
from weitiao.training.engagement import count_parameters

if TYPE_CHECKING:
    from weitiao.stages._training import Training


def evaluate_and_report(run: "Training", description: dict[str, Any]) -> Iterator[Event]:
    """Score the saved model on the held-out parts, in fp32 as it will predict; write everything that is for people."""
    majority = run.task.majority(run.data.records["train"], run.answers)
    reports: dict[str, Any] = {}
    gains: dict[str, Any] = {}  # of the neighbours
    splits = [name for name in run.scored if name in run.data.encoded]
    for number, split in enumerate(splits):
        yield ProgressEvent(say("evaluating", "评估"), number, len(splits))
        encoded, records = run.data.encoded[split], run.data.records[split]
        outputs = run.task.outputs(run.saved, encoded, records, run.tokenizer)
        if run.neighbours is not None:
            plain = outputs
            outputs = run.neighbours.mixed(plain, run.neighbours.nearest(run.saved, encoded))
            gains[split] = _neighbours.ablation(run, plain, outputs, encoded, records)
        predictions = run.task.predictions(outputs, encoded, records, run.answers)
        known = majority if run.task.labelled else _untrained.kept(run.folder, split)
        reports[split] = run.evaluation.report(predictions, train_majority=known, seed=run.config.seed)
        if split == splits[-1]:
            write_errors(run.folder / "errors.csv", run.evaluation.worst_errors(predictions))
    yield ProgressEvent(say("evaluating", "评估"), len(splits), len(splits))
    metrics = _metrics(run, reports, description)
    if gains:
        metrics["neighbours"] = gains
    write_json(run.folder / "metrics.json", metrics)
    if splits:
        yield NoteEvent(run.evaluation.report_text(reports[splits[-1]]))
    if gains:
        yield NoteEvent(_neighbours.told(gains[splits[-1]], run.monitor))
    # The recorder has the events so far, which is what the report draws.
    write_card(run.folder)
    write_report(run.folder)
    output = run.folder
    yield NoteEvent(
        say(
            f"Run folder: {output}   report: {output / 'report.html'}",
            f"运行目录：{output}   报告：{output / 'report.html'}",
        )
    )
    yield ResultEvent(
        str(output), {"monitor": run.monitor, "scores": {s: r["scores"] for s, r in reports.items()}}
    )


def _metrics(run: "Training", reports: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    every, trained = count_parameters(run.model)[0], int(run.moved["trained_parameters"])
    known = KNOWN.get(run.config.model)
    tokens, seconds = sum(t for t, _ in run.speeds), sum(s for _, s in run.speeds)
    cost: dict[str, Any] = {
        "actual_seconds": run.trained_seconds,
        "actual_cpu_seconds": run.trained_cpu_seconds,  # of all threads; a busy machine does not change it much
        "actual_memory_bytes": peak_memory_bytes(),
    }
    if gpu := gpu_peak_bytes(run.device):
        cost["actual_gpu_bytes"] = gpu
    if run.estimate is not None:
        cost |= {
            "estimated_seconds": run.estimate.seconds,
            "estimated_memory_bytes": run.estimate.memory_bytes,
        }
    train = run.data.encoded["train"]
    if seconds and train.image_shape is not None:  # of equally large pictures, whose "tokens" are squares
        cost["pictures_per_second"] = tokens / seconds / int(train.lengths[0])
    elif seconds:
        cost["tokens_per_second"] = tokens / seconds
    return {
        "task": run.task.name,
        "model": {
            "name": run.config.model,
            "route": run.source.route,
            "tuning": run.config.tuning,
            "pooling": run.head_kind["pooling"],
            "opens_in_transformers": _opens(run, description) + _knows(run),
            "parameters": every,
            "trained_parameters": trained,
            "saved_logit_difference": run.saved_difference,
            "weights_bytes": sum(p.stat().st_size for p in (run.folder / "model").glob("*.safetensors")),
            **({"license": known.licence, "hub_id": known.hub_id} if known else {}),
        },
        "data": run.data.sources,
        "data_findings": [
            {"code": f.code, "count": f.count, "message": f.message, "rows": f.rows}
            for f in run.data.findings
        ],
        "evaluation": reports,
        "monitor": run.monitor,
        "engagement": run.moved,
        "cost": cost,
        "environment": _environment(run),
        "seed": run.config.seed,
    }


def _environment(run: "Training") -> dict[str, Any]:
    """What the figures were measured with."""
    return {
        "weitiao": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": run.threads,
        **({"processes": run.team.size} if run.team.size > 1 else {}),
        "precision": run.precision,
    }


def _knows(run: "Training") -> str:
    """That what opens elsewhere lacks the embeddings of a lexicon."""
    if run.model.head.known is None:
        return ""
    return say(
        " What the lexicon knows is added to the words' embeddings by Weitiao alone (known in head.safetensors).",
        "词典知识的向量（head.safetensors 中的 known）只有本工具会加到词向量上。",
    )


def _opens(run: "Training", description: dict[str, Any]) -> str:
    """What of the model folder opens elsewhere, for the model card."""
    if run.head_kind["type"] == "language" and not run.tuning.saves_adapter:
        name = "AutoModelForCausalLM.from_pretrained"
        return say(f"The folder opens as it is: {name}.", f"该目录可直接打开：{name}。")
    if run.head_kind["pooling"] == "none" and run.head_kind["type"] != "language":
        return say(
            "The weights are plain safetensors of a network that is written out in weitiao.models; transformers has "
            "none like it. The head lies beside them in head.safetensors (one linear layer).",
            "权重为普通的 safetensors，网络结构见 weitiao.models；transformers 中没有同样的网络。"
            "分类头在 head.safetensors 中（一个线性层）。",
        )
    if run.tuning.saves_adapter and not run.tuning.opens_in_peft:
        return say(
            "The adapter is Weitiao's own: adapter.safetensors and head.safetensors, over the base model's weights.",
            "适配器为本工具自有格式：adapter.safetensors 与 head.safetensors，叠加在基座模型的权重之上。",
        )
    if run.tuning.saves_adapter:
        base, base_zh = run.tuning.base_in_peft
        return say(
            f"The adapter opens in peft over {base} (PeftModel.from_pretrained); the head lies beside it in "
            "head.safetensors.",
            f"适配器可用 peft 加载到{base_zh}上（PeftModel.from_pretrained）；分类头在 head.safetensors 中。",
        )
    if description["transformers_class"]:
        name = description["transformers_class"]
        return say(
            f"The folder opens as it is: {name}.from_pretrained.",
            f"该目录可直接打开：{name}.from_pretrained。",
        )
    return say(
        "The backbone opens with AutoModel.from_pretrained; transformers has no class with this head, which lies "
        f"beside it in head.safetensors (pooling: {run.head_kind['pooling']}, then one linear layer).",
        "主干可用 AutoModel.from_pretrained 打开；transformers 没有与此分类头相同的类，它在 head.safetensors 中"
        f"（汇聚方式：{run.head_kind['pooling']}，之后一个线性层）。",
    )
