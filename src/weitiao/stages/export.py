"""Export a run as a bundle that predicts without torch / 把运行结果导出为无需 torch 即可预测的部署包."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent, ResultEvent
from weitiao.core.messages import say

EXAMPLES = (
    "weitiao export runs/reviews --output deploy/reviews",
    "weitiao export SmolLM2-135M-Instruct --output deploy/smol --bits 4",
)


@dataclass
class Config:
    """What to export, and where to."""

    run: str = option(
        "",
        "the run's folder, or a language model's name or folder",
        "运行目录，或语言模型的名称或目录",
        positional=True,
    )
    output: str = option("", "the bundle's folder", "部署包目录")
    overwrite: bool = option(False, "replace a bundle that is there", "覆盖已有的部署包")
    data: str = option("", "a table to prove the export by (default: the run's own held-out rows)",
                       "用于验证导出的数据表（默认使用该次训练的留出数据）")  # fmt: skip
    columns: dict[str, str] = option({}, "columns by role: text=review", "各角色对应的列：text=评论")
    rows: int = option(200, "rows to prove the export by", "用于验证导出的数据行数", least=1)
    tolerance: float = option(1e-3, "largest difference of the outputs that is let through",
                              "输出允许的最大差异", least=0)  # fmt: skip
    service: bool = option(True, "prove the HTTP service too, where it is installed",
                           "已安装 HTTP 服务时一并验证")  # fmt: skip
    bits: int = option(
        32, "language model: bits of a weight, 4, 8, 16 or 32", "语言模型：每个权重的位数，4、8、16 或 32"
    )
    texts: str = option(
        "", "language model: a text file to measure perplexity on", "语言模型：用于计算困惑度的文本文件"
    )


def run(config: Config) -> Iterator[Event]:
    """Write the graph and its tokenizer, compare it with the trained model, and seal the bundle."""
    if not config.run or not config.output:
        raise WeitiaoError(
            say(
                "Name a run and a folder: weitiao export RUN --output FOLDER",
                "请指定运行目录和输出目录：weitiao export 运行目录 --output 目录",
            )
        )
    folder = Path(config.output)
    if folder.exists() and not config.overwrite:
        raise WeitiaoError(
            say(
                f"{folder} exists already. Take another folder, or pass --overwrite",
                f"{folder} 已存在。请换一个目录，或加上 --overwrite",
            )
        )
    from weitiao.stages._export_decoder import export_decoder, find_decoder, is_adapter, merged, read_texts

    if is_adapter(config.run):
        with merged(config.run) as whole:
            texts = read_texts(config.texts)
            yield from export_decoder(
                whole, folder, name=Path(config.run).name, bits=config.bits, texts=texts
            )
        return
    if decoder := find_decoder(config.run):
        name = Path(config.run).name
        texts = read_texts(config.texts)
        yield from export_decoder(decoder, folder, name=name, bits=config.bits, texts=texts)
        return
    yield from _export(config, folder)


def _export(config: Config, folder: Path) -> Iterator[Event]:
    """Write, compare and seal one bundle; a failure leaves nothing."""
    from weitiao.core.config import make_member
    from weitiao.core.runs import atomic_folder
    from weitiao.runtime.bundle import seal
    from weitiao.stages._certificate import Certificate
    from weitiao.stages._held_out import held_out
    from weitiao.stages._predictor import text_run
    from weitiao.stages._proof import Proof

    trained = text_run(config.run)
    rows = held_out(trained, config.data, config.columns, config.rows)
    certificate = Certificate(
        trained.task,
        trained.answers,
        lambda records: trained.task.encode(
            records, trained.tokenizer, trained.description["max_length"], None
        ),
        rows.items,
        rows.row_numbers,
        config.tolerance,
        rows.data,
    )
    yield ProgressEvent(say("comparing", "比对"), 0, len(rows.items))
    certificate.compare("trained", lambda _: trained.outputs(certificate.records)[1])
    tuning = make_member("tuning", trained.description["tuning"], trained.description["tuning_options"])
    tuning.merge(trained.model)
    if tuning.merges:
        certificate.compare("merged adapter", lambda _: trained.outputs(certificate.records)[1])
    proof = Proof(certificate, rows.labels, service=config.service)
    with atomic_folder(folder) as new:
        described = manifest(trained, folder.name, write_model(trained, new))
        trained.tokenizer.save(str(new / "tokenizer.json"), pretty=False)
        seal(new, proof.write(new, described))
    yield from proof.notes()
    yield NoteEvent(say(f"Exported to {folder}", f"已导出到 {folder}"))
    yield ResultEvent(str(folder), {"certificate": certificate.as_json()})


def write_model(trained: Any, folder: Path) -> dict[str, Any]:
    """Write ``model.onnx``. Returns the manifest's part about it."""
    from weitiao.models.onnx_graph import write_graph

    graph = _graph(trained.model, trained.description, pairs=trained.task.name == "text_matching")
    write_graph(graph, folder / "model.onnx")
    outputs, embedding = (value.name for value in graph.graph.output)
    return {
        "file": "model.onnx",
        "precision": "fp32",
        "inputs": [value.name for value in graph.graph.input],
        "output": outputs,
        "embedding": embedding,
        "padding_id": int(trained.model.config.get("pad_token_id") or 0),
    }


def _graph(model: Any, description: dict[str, Any], *, pairs: bool) -> Any:
    """The model's graph: written node by node for the packed encoder, traced for any other.

    Raises:
        WeitiaoError: the graph would not compute all that the model does.
    """
    from weitiao.models.hub_encoder import HubEncoder
    from weitiao.models.onnx_graph import encoder_graph
    from weitiao.models.traced_graph import traced_graph

    if isinstance(model.backbone, HubEncoder):
        return traced_graph(model, description["head"], types=pairs)
    _check_parts(model.backbone, description["tuning"])
    types = pairs and model.backbone.shape.type_vocab_size > 1
    encoder, head = (
        {name: tensor.numpy() for name, tensor in part.state_dict().items()}
        for part in (model.backbone, model.head)
    )
    return encoder_graph(encoder, model.backbone.shape, description["head"], head, types=types)


def _check_parts(backbone: Any, tuning: str) -> None:
    """Raise where the encoder has parts that the graph does not know."""
    import torch

    from weitiao.models.encoder import Encoder

    whole = isinstance(backbone, Encoder)
    with torch.device("meta"):  # names only, no memory
        plain = Encoder(backbone.shape).state_dict() if whole else {}
    if not whole or plain.keys() ^ backbone.state_dict().keys():
        raise WeitiaoError(
            say(
                f"What {tuning} adds cannot be put into the model's weights, so there is no export of it yet. "
                "weitiao predict RUN works without a bundle",
                f"{tuning} 增加的部分无法并入模型权重，暂不能导出。可直接使用 weitiao predict 运行目录",
            )
        )


def manifest(trained: Any, name: str, graph: dict[str, Any]) -> dict[str, Any]:
    """The bundle's manifest, but for what ``seal`` adds."""
    described = trained.description
    keys = ("task", "task_options", "answers", "max_length", "head")
    base = described["base"]
    return {
        "kind": "predictor",
        "name": name,
        **{key: described[key] for key in keys},
        # Of a base that was a folder on this machine only the last part of its path concerns others.
        "base": {**base, "name": Path(base["name"]).name if base["route"] == "folder" else base["name"]},
        "graph": graph,
        "recipe": [],
    }
