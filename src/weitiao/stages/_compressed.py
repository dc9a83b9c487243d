"""A compressed model as files: a bundle, and a folder that can be trained on."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.compression.base import Subject
from weitiao.core.runs import atomic_folder, write_json
from weitiao.core.version import __version__
from weitiao.models.backbone import TextModel
from weitiao.models.saving import DESCRIPTION, save_tensors, save_weights, transformers_class
from weitiao.stages._save import PROBLEMS

if TYPE_CHECKING:
    from weitiao.stages._proof import Proof


@dataclass
class Compressed:
    """What the export reads of a run, for a model in memory."""

    model: TextModel
    tokenizer: Any
    task: Any
    description: dict[str, Any]
    changed: Any = None  # the graph, where a step changed it

    @classmethod
    def of(cls, subject: Subject, trained: Any) -> "Compressed":
        """The subject as it is now."""
        old = trained.description
        pooling = getattr(subject.model.head, "pooling", old["head"].get("pooling", "mean"))
        description = {**old, "head": subject.task.head(subject.answers, pooling), "weitiao": __version__}
        return cls(subject.model, subject.tokenizer, subject.task, description, subject.graph)

    def graph(self) -> Any:
        """The exact model as an ``onnx.ModelProto``."""
        from weitiao.stages.export import write_model

        self.model.eval().requires_grad_(False)
        with tempfile.TemporaryDirectory(prefix="weitiao-") as folder:
            write_model(self, Path(folder))
            return _read_graph(Path(folder))


def _read_graph(folder: Path) -> Any:
    """A bundle's graph with the tensors that lie beside it."""
    import onnx

    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")
        del tensor.external_data[:]
    return model


def write_bundle(
    folder: Path,
    compressed: Compressed,
    name: str,
    recipe: Sequence[Mapping[str, Any]],
    extra: Mapping[str, str] | None = None,
    proof: "Proof | None" = None,
) -> None:
    """Write a bundle whole or not at all.

    Args:
        recipe: the steps taken.
        extra: further files, by name.
        proof: writes certificate, reference and card; None: there are none.

    Raises:
        WeitiaoError: what the proof finds.
    """
    from weitiao.compression._pack import pack_zeros
    from weitiao.models.onnx_graph import write_graph
    from weitiao.runtime.bundle import seal
    from weitiao.stages.export import manifest, write_model

    compressed.model.eval().requires_grad_(False)
    with atomic_folder(folder) as new:
        graph = write_model(compressed, new)
        model, saved = pack_zeros(compressed.changed or _read_graph(new))
        if saved or compressed.changed is not None:
            for file in new.glob("model.onnx*"):
                file.unlink()
            write_graph(model, new / "model.onnx")
        if any(entry["step"] == "int8" for entry in recipe):
            graph["precision"] = "int8"
        compressed.tokenizer.save(str(new / "tokenizer.json"), pretty=False)
        for file_name, text in (extra or {}).items():
            (new / file_name).write_text(text, encoding="utf-8")
        described = {**manifest(compressed, name, graph), "recipe": list(recipe)}
        seal(new, proof.write(new, described) if proof else described)


def write_trainable(folder: Path, compressed: Compressed) -> None:
    """Write a model folder that opens in ``weitiao finetune --model`` and ``weitiao.load``; sparse weights packed."""
    from safetensors.torch import load_file

    from weitiao.models.sparse_tensors import PACKED_FILE, pack

    described = compressed.description
    answers = described["answers"]
    with atomic_folder(folder) as new:
        save_weights(new, compressed.model, answers["names"], PROBLEMS[answers["kind"]])
        whole = load_file(new / "model.safetensors")
        small = pack(whole)
        if len(small) != len(whole):
            save_tensors(small, new / PACKED_FILE)
            (new / "model.safetensors").unlink()
        compressed.tokenizer.save(str(new / "tokenizer.json"), pretty=False)
        description = {**described, "tuning": "full", "tuning_options": {}}
        description["transformers_class"] = (
            "" if len(small) != len(whole) else transformers_class(compressed.model)
        )
        write_json(new / DESCRIPTION, description)
