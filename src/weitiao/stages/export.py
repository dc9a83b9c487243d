"""Export a run as a bundle that predicts without torch / 把运行结果导出为无需 torch 即可预测的部署包."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ResultEvent
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
    from weitiao.stages._export_decoder import export_decoder, find_decoder, read_texts

    if decoder := find_decoder(config.run):
        name = Path(config.run).name
        texts = read_texts(config.texts)
        yield from export_decoder(decoder, folder, name=name, bits=config.bits, texts=texts)
        return
    from weitiao.core.runs import atomic_folder
    from weitiao.runtime.bundle import seal
    from weitiao.stages._predictor import Run

    trained = Run(config.run)
    with atomic_folder(folder) as new:
        graph = write_model(trained, new)
        trained.tokenizer.save(str(new / "tokenizer.json"), pretty=False)
        seal(new, manifest(trained, folder.name, graph))
    yield NoteEvent(say(f"Exported to {folder}", f"已导出到 {folder}"))
    yield ResultEvent(str(folder), {})


def write_model(trained: Any, folder: Path) -> dict[str, Any]:
    """Write ``model.onnx``. Returns the manifest's part about it."""
    from weitiao.models.encoder import Encoder
    from weitiao.models.onnx_graph import encoder_graph, write_graph

    model = trained.model
    if not isinstance(model.backbone, Encoder):
        raise NotImplementedError
    encoder = {name: tensor.numpy() for name, tensor in model.backbone.state_dict().items()}
    head = {name: tensor.numpy() for name, tensor in model.head.state_dict().items()}
    types = trained.task.name == "text_matching" and model.backbone.shape.type_vocab_size > 1
    graph = encoder_graph(encoder, model.backbone.shape, trained.description["head"], head, types=types)
    write_graph(graph, folder / "model.onnx")
    return {
        "file": "model.onnx",
        "precision": "fp32",
        "inputs": [value.name for value in graph.graph.input],
        "output": "outputs",
        "embedding": "embedding",
        "padding_id": int(model.config.get("pad_token_id") or 0),
    }


def manifest(trained: Any, name: str, graph: dict[str, Any]) -> dict[str, Any]:
    """The bundle's manifest, but for what ``seal`` adds."""
    described = trained.description
    keys = ("task", "task_options", "answers", "max_length", "head", "base")
    return {
        "kind": "predictor",
        "name": name,
        **{key: described[key] for key in keys},
        "graph": graph,
        "recipe": [],
    }
