"""A bundle's classifier, tagger, matcher or encoder: items in, answers out, through an engine; no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core.config import make_member
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.data.encode import Encoded, Ragged, encode_texts, load_tokenizer
from weitiao.engines.base import Engine
from weitiao.runtime.batches import batches
from weitiao.runtime.bundle import Bundle
from weitiao.runtime.choice import open_engine
from weitiao.runtime.items import columns_of, records_of
from weitiao.runtime.quick_tokenizer import QuickTokenizer
from weitiao.tasks.base import Answers, Task

TRIAL_TEXTS, TRIAL_TOKENS = 32, 48  # what engines are measured by


class Predictor:
    """What ``weitiao.runtime.load`` returns for a bundle with a task.

    Attributes:
        bundle: the files and the manifest.
        task: the task's member.
        answers: what the answers can be.
        engine: what runs the graph.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        engine: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        brief: bool = False,
    ) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.task: Task = make_member("tasks", manifest["task"], manifest["task_options"])
        self.answers = Answers(**manifest["answers"])
        quick = QuickTokenizer.open(bundle.tokenizer) if brief else None
        self.tokenizer: Any = quick or load_tokenizer(bundle.folder)
        self.inputs: list[str] = manifest["graph"]["inputs"]
        self.output: str = manifest["graph"]["output"]
        self.padding = int(manifest["graph"].get("padding_id", 0))
        self.engine: Engine = open_engine(bundle, engine, precision, threads, brief, self._trial)

    @property
    def folder(self) -> Path:
        """The bundle's folder."""
        return self.bundle.folder

    def predict(self, items: Sequence[Any]) -> list[Any]:
        """Answers for items: texts, pairs ``(a, b)``, for relations a text with <e1>, <e2> or ``(text, head, tail)``.

        Returns:
            in the shapes of ``weitiao.load(run).predict``.

        Raises:
            WeitiaoError: an item is not what the task reads.
        """
        return self.answer(records_of(self.task, items))

    def answer(self, records: list[dict[str, Any]]) -> list[Any]:
        """Answers for records, as ``task.example`` makes them."""
        if not records:
            return []
        encoded = self.encode(records)
        return self.task.answers(self.run(encoded), encoded, columns_of(records), self.answers)

    def outputs(self, items: Sequence[Any]) -> list[np.ndarray]:
        """The head's raw outputs for each item: logits ``[C]``, ``[tokens, C]``, or unit vectors ``[2, D]``."""
        records = records_of(self.task, items)
        return self.run(self.encode(records)) if records else []

    def lengths(self, items: Sequence[Any]) -> list[int]:
        """The tokens of each item as the model reads it, special tokens included, cut to the longest text."""
        records = records_of(self.task, items)
        return self.encode(records).lengths.tolist() if records else []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, float32 ``[N, D]``: the pooled last hidden state.

        Raises:
            WeitiaoError: the graph has no such output.
        """
        name = self.bundle.manifest["graph"].get("embedding")
        if not name:
            raise WeitiaoError(
                say(f"{self.bundle.name} gives no embeddings", f"{self.bundle.name} 不提供文本向量")
            )
        texts = [texts] if isinstance(texts, str) else list(texts)
        encodings = encode_texts(self.tokenizer, texts, self.bundle.manifest["max_length"])
        ids = Ragged.of(encoding.ids for encoding in encodings)
        marks = np.zeros((len(ids), 2), np.int64) if "marks" in self.inputs else None
        (rows,) = self._rows(Encoded(ids, marks=marks), name)
        return np.stack(rows) if rows else np.empty((0, 0), np.float32)

    def encode(self, records: Any) -> Encoded:
        """Token ids of records."""
        return self.task.encode(records, self.tokenizer, self.bundle.manifest["max_length"], None)

    def run(self, encoded: Encoded) -> list[np.ndarray]:
        """The head's outputs for each encoded example, laid out as in ``training.outputs.outputs_of``."""
        (rows,) = self._rows(encoded, self.output)
        if encoded.per_example == 1:
            return rows
        size = encoded.per_example
        return [np.stack(rows[start : start + size]) for start in range(0, len(rows), size)]

    def run_and_embed(self, encoded: Encoded) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The head's outputs and the unit vectors of examples of one text each, in one run of the graph."""
        outputs, vectors = self._rows(encoded, self.output, self.bundle.manifest["graph"]["embedding"])
        return outputs, vectors

    def close(self) -> None:
        """Let go of the graph."""
        self.engine.close()

    def _trial(self, engine: Engine) -> None:
        """Run a typical batch, to measure an engine by."""
        random = np.random.default_rng(0)
        longest = min(self.bundle.manifest["max_length"], TRIAL_TOKENS)
        size = self.tokenizer.get_vocab_size()
        ids = Ragged.of(random.integers(0, size, longest) for _ in range(TRIAL_TEXTS))
        marks = np.zeros((len(ids), 2), np.int64)
        for batch in batches(Encoded(ids, marks=marks), self.inputs, self.padding):
            engine.run(batch.inputs, [self.output])

    def _rows(self, encoded: Encoded, *names: str) -> list[list[np.ndarray]]:
        """Each named output for each row of ``encoded.ids``; an output for each token loses its padding."""
        found: list[list[Any]] = [[None] * len(encoded.ids) for _ in names]
        by_token = self.bundle.manifest["head"]["type"] == "token"
        for batch in batches(encoded, self.inputs, self.padding):
            for name, place, values in zip(names, found, self.engine.run(batch.inputs, names), strict=True):
                for row, length, value in zip(batch.rows, batch.lengths, values, strict=True):
                    place[row] = value[:length] if by_token and name == self.output else value
        return found
