"""A trained model in memory: loaded from its folder, ready to answer. What ``weitiao.load`` returns."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from weitiao.core.config import make_member
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, ProgressEvent
from weitiao.core.messages import say
from weitiao.core.runs import promoted, read_events, read_json, sha256
from weitiao.data.encode import Encoded
from weitiao.models.backbone import TextModel, open_backbone
from weitiao.models.heads import make_head
from weitiao.models.known import check_folder, resolve_model, weights_hash
from weitiao.models.saving import load_head, read_description
from weitiao.models.shared import keep_own, standing_on
from weitiao.runtime.items import columns_of, records_of
from weitiao.stages._neighbours import Neighbours
from weitiao.tasks.base import Answers, Task


class Run:
    """A run folder (or a model folder) and its model, loaded when first used."""

    together: dict[str, Any] | None = None  # what runs that were opened together hold in common

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        source = promoted(self.folder)  # an update of the run, where one answers for it
        self.model_folder = source / "model" if (source / "model").is_dir() else source
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
        encoded, outputs, near = self._read(records)
        answers = self.task.answers(outputs, encoded, columns_of(records), self.answers)
        if self.neighbours is None:
            return answers
        evidence = self.neighbours.evidence(near)
        pairs = zip(answers, evidence, strict=True)
        return [
            {**answer, "neighbours": found} if isinstance(answer, dict) else answer for answer, found in pairs
        ]

    def outputs(self, records: Any) -> tuple[Encoded, list[Any]]:
        """The encoded records, and the outputs for each; with neighbours, what they say is mixed in."""
        return self._read(records)[:2]

    @cached_property
    def neighbours(self) -> Neighbours | None:
        """The labelled texts that are asked beside the model (``--neighbours``)."""
        return Neighbours.load(self.model_folder)

    def _read(self, records: Any) -> tuple[Encoded, list[Any], Any]:
        labelled = self.task.label_key in (records[0] if isinstance(records, list) else records.column_names)
        encoded = self.task.encode(
            records, self.tokenizer, self.description["max_length"], self.answers if labelled else None
        )
        outputs = self.task.outputs(self.model, encoded, records, self.tokenizer)
        if self.neighbours is None:
            return encoded, outputs, None
        near = self.neighbours.nearest(self.model, encoded)
        return encoded, self.neighbours.mixed(outputs, near), near

    def let_go(self) -> None:
        """Free the model's memory; it is loaded again when next used."""
        self._loaded = None

    def _load(self) -> tuple[TextModel, Any]:
        if self._loaded is None:
            model = load_model(self.model_folder, self.description, self.together)
            self._loaded = (model, self._reader())
        return self._loaded

    def _reader(self) -> Any:
        file = self.model_folder / "tokenizer.json"
        if self.together is None or not file.exists():
            return self.task.reader(self.model_folder)
        key = f"tokenizer {sha256(file)}"
        if key not in self.together:
            self.together[key] = self.task.reader(self.model_folder)
        return self.together[key]


def open_together(folders: Sequence[str | Path]) -> list[Run]:
    """Runs for one process: adapters of the same base hold its weights, and its tokenizer, in memory once.

    They are for one thread at a time, as a single run is.
    """
    runs, held = [Run(folder) for folder in folders], dict[str, Any]()
    for run in runs:
        run.together = held
    return runs


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
    if run.description["head"]["pooling"] == "next":
        raise WeitiaoError(
            say(
                f"{folder} answers by in-context examples, which bundles cannot hold: use the run itself, "
                "with weitiao predict",
                f"{folder} 通过上下文示例作答，部署包不支持：请直接使用运行目录：weitiao predict",
            )
        )
    if run.description["head"].get("known"):
        raise WeitiaoError(
            say(
                f"{folder} knows words by embeddings, which a bundle's graph has no place for: train it with "
                "--knowledge-as text, or use the run itself, with weitiao predict",
                f"{folder} 以向量形式使用词典知识，部署包的计算图不支持：请用 --knowledge-as text 重新训练，或直接使用运行目录",
            )
        )
    if run.neighbours is not None:
        raise WeitiaoError(
            say(
                f"{folder} asks its nearest labelled texts, and a bundle holds the model alone: train it without "
                "--neighbours, or use the run itself",
                f"{folder} 会参考最近的标注文本（--neighbours），而部署包只含模型本身：请去掉该选项重新训练，或直接使用运行目录",
            )
        )
    return run


def load_model(
    folder: Path, description: dict[str, Any], together: dict[str, Any] | None = None
) -> TextModel:
    """The model in a folder that Weitiao wrote, in evaluation mode.

    Args:
        together: bases that are open already, by the hash of their weights: an adapter stands on those tensors.

    Raises:
        WeitiaoError: the weights do not fit, or an adapter's base is not the one it was trained on.
    """
    tuning = make_member("tuning", description["tuning"], description["tuning_options"])
    source = _base(description) if tuning.saves_adapter else folder
    causal = description["head"]["type"] == "language" or description["head"]["pooling"] == "next"
    if together is None or not tuning.saves_adapter:
        backbone, config, beside = open_backbone(source, causal=causal)
    else:
        key = description["base"]["sha256"]
        if key not in together:
            together[key] = open_backbone(source, causal=causal)
        base, config, beside = together[key]
        backbone = standing_on(base)
    head = make_head(description["head"], backbone.shape.hidden_size)
    model = TextModel(backbone, head, config)
    if tuning.saves_adapter:
        tuning.apply(model)
        if together is not None:
            keep_own(model, base)
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


def outputs_in_parts(run: Run, records: Any, rows: int = 2000) -> Iterator[Event | tuple[Encoded, list[Any]]]:
    """Run records through the model part by part, with progress between; each part's ``(encoded, outputs)``."""
    for start in range(0, len(records), rows):
        yield ProgressEvent(say("predicting", "预测"), start, len(records))
        yield run.outputs(records.select(range(start, min(start + rows, len(records)))))
    yield ProgressEvent(say("predicting", "预测"), len(records), len(records))
