"""A trained model in memory: loaded from its folder, ready to answer. What ``weitiao.load`` returns."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weitiao.core.config import make_member
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, ProgressEvent
from weitiao.core.messages import say
from weitiao.core.runs import read_events, read_json, sha256
from weitiao.data.encode import Encoded
from weitiao.models.backbone import TextModel, open_backbone
from weitiao.models.heads import make_head
from weitiao.models.known import check_folder, resolve_model
from weitiao.models.saving import load_head, read_description
from weitiao.runtime.items import columns_of, records_of
from weitiao.tasks.base import Answers, Task
from weitiao.training.outputs import outputs_of


class Run:
    """A run folder (or a model folder) and its model, loaded when first used."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.model_folder = self.folder / "model" if (self.folder / "model").is_dir() else self.folder
        if not self.folder.exists():
            raise WeitiaoError(say(f"No such run: {folder}", f"找不到运行目录：{folder}"))
        self.description = read_description(self.model_folder)
        check_folder(self.model_folder)
        self.task: Task = make_member("tasks", self.description["task"], self.description["task_options"])
        self.answers = Answers(**self.description["answers"])
        self._loaded: tuple[TextModel, Any] | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """``metrics.json``."""
        return read_json(self.folder / "metrics.json")

    @property
    def events(self) -> list[dict[str, Any]]:
        """``events.jsonl``, oldest first."""
        return read_events(self.folder)

    @property
    def model(self) -> TextModel:
        """The model, in evaluation mode."""
        return self._load()[0]

    @property
    def tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer``."""
        return self._load()[1]

    def predict(self, texts: Sequence[Any]) -> list[Any]:
        """Answers for texts (pairs as ``(a, b)``; relations as text with <e1>, <e2>, or ``(text, head, tail)``).

        Returns:
            classification: ``{"label", "score"}`` each; spans: a list of ``{"entity_group", "word", "start", "end",
            "score"}`` each.

        Raises:
            WeitiaoError: an item is not what the task reads.
        """
        return self.answer(records_of(self.task, texts))

    def answer(self, records: list[dict[str, Any]]) -> list[Any]:
        """Answers for records, as ``task.example`` makes them."""
        if not records:
            return []
        encoded, outputs = self.outputs(records)
        return self.task.answers(outputs, encoded, columns_of(records), self.answers)

    def outputs(self, records: Any) -> tuple[Encoded, list[Any]]:
        """The encoded records, and the model's outputs for each."""
        labelled = self.task.label_key in (records[0] if isinstance(records, list) else records.column_names)
        encoded = self.task.encode(
            records, self.tokenizer, self.description["max_length"], self.answers if labelled else None
        )
        return encoded, outputs_of(self.model, encoded)

    def let_go(self) -> None:
        """Free the model's memory; it is loaded again when next used."""
        self._loaded = None

    def _load(self) -> tuple[TextModel, Any]:
        if self._loaded is None:
            self._loaded = (
                load_model(self.model_folder, self.description),
                self.task.reader(self.model_folder),
            )
        return self._loaded


def text_run(folder: str | Path) -> Run:
    """A run whose model reads texts, for what works on such models alone.

    Raises:
        WeitiaoError: it reads pictures.
    """
    run = Run(folder)
    if run.task.reads != "texts":
        raise WeitiaoError(
            say(
                f"{folder} reads {run.task.reads}: bundles are for models of texts. Use the run itself: "
                "weitiao predict, weitiao.load",
                f"{folder} 不是文本模型：部署包只支持文本模型。请直接使用运行目录：weitiao predict、weitiao.load",
            )
        )
    return run


def load_model(folder: Path, description: dict[str, Any]) -> TextModel:
    """The model in a folder that Weitiao wrote, in evaluation mode.

    Raises:
        WeitiaoError: the weights do not fit, or an adapter's base is not the one it was trained on.
    """
    tuning = make_member("tuning", description["tuning"], description["tuning_options"])
    source = _base(description) if tuning.saves_adapter else folder
    backbone, config, beside = open_backbone(source)
    head = make_head(description["head"], backbone.shape.hidden_size)
    model = TextModel(backbone, head, config)
    if tuning.saves_adapter:
        tuning.apply(model)
        tuning.load_adapter(model, folder)
    load_head(folder, head, beside if not tuning.saves_adapter else {})
    return model.eval().requires_grad_(False)


def _base(description: dict[str, Any]) -> Path:
    """The folder of an adapter's base, which must be the very weights it was trained on."""
    base = description["base"]
    folder = resolve_model(base["name"]).path
    found = weights_hash(folder)
    if found != base["sha256"]:
        raise WeitiaoError(
            say(
                f"The adapter was trained on other weights of {base['name']} (sha256 {base['sha256'][:12]}, here "
                f"{found[:12]}): fetch those, or train again",
                f"适配器是在另一份 {base['name']} 权重上训练的（sha256 {base['sha256'][:12]}，此处 {found[:12]}）："
                "请取得那份权重，或重新训练",
            )
        )
    return folder


def weights_hash(folder: Path) -> str:
    """The SHA-256 of a model's weights: of its file, or of all its files' hashes where there are several.

    Taken from the cache's manifest where it is there.
    """
    manifest = folder / "manifest.json"
    known = read_json(manifest).get("files", {}) if manifest.exists() else {}
    found = []
    for file in sorted(folder.glob("model*.safetensors")):
        entry = known.get(file.name) or sha256(file)
        found.append(entry["sha256"] if isinstance(entry, dict) else entry)
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def outputs_in_parts(run: Run, records: Any, rows: int = 2000) -> Iterator[Event | tuple[Encoded, list[Any]]]:
    """Run records through the model part by part, with progress between; each part's ``(encoded, outputs)``."""
    for start in range(0, len(records), rows):
        yield ProgressEvent(say("predicting", "预测"), start, len(records))
        yield run.outputs(records.select(range(start, min(start + rows, len(records)))))
    yield ProgressEvent(say("predicting", "预测"), len(records), len(records))
