"""What a model's thread computes for a batch, and what the metrics are told of it afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weitiao.data.encode import encode_texts
from weitiao.runtime.items import columns_of
from weitiao.runtime.reference import decision, unknown_id, unknown_share


@dataclass(frozen=True)
class Result:
    """One item's answer, logits or vector; its tokens as the model read them; the share of unknown pieces; its
    embedding, where drift wants it and it came with the answer."""

    value: Any
    tokens: int
    unknown: float
    vector: Any = None


class Work:
    """The kinds of work of one ``runtime.Predictor``.

    Args:
        metrics: ``service.metrics.Metrics``, or None.
    """

    def __init__(self, model: str, predictor: Any, metrics: Any = None) -> None:
        self.model, self.predictor, self.metrics = model, predictor, metrics
        self.embeds = bool(predictor.bundle.manifest["graph"].get("embedding"))
        # A lone text is read for its answer as it is read for its embedding: one run of the graph gives both.
        lone = len(predictor.task.text_keys) == 1 and predictor.bundle.manifest["head"]["type"] == "pooled"
        self._together = self.embeds and lone
        self._unknown = unknown_id(predictor.tokenizer)

    def compute(self, kind: str, items: list[Any]) -> list[Result]:
        """``predict`` and ``logits`` take the task's records, ``embed`` takes texts."""
        return self._embed(items) if kind == "embed" else self._predict(kind, items)

    def observe(self, kind: str, items: list[Any], results: Sequence[Result]) -> None:
        """Tell the metrics of predictions; what drift still wants embedded is embedded here, in one go."""
        if self.metrics is None or kind != "predict":
            return
        texts = [self.predictor.task.shown(record) for record in items]
        if self._together:
            vectors = {place: result.vector for place, result in enumerate(results)}
        else:
            wanted = [place for place, wants in enumerate(self._wanted(len(texts))) if wants]
            found = self.predictor.embed([texts[i] for i in wanted]) if wanted else ()
            vectors = dict(zip(wanted, found, strict=True))
        for place, (text, result) in enumerate(zip(texts, results, strict=True)):
            names, score = decision(result.value)
            self.metrics.observe_prediction(
                self.model, result.tokens, result.unknown, names, score, vectors.get(place), len(text)
            )

    def _predict(self, kind: str, records: list[dict[str, Any]]) -> list[Result]:
        predictor = self.predictor
        encoded = predictor.encode(records)
        wanted = self._wanted(len(records)) if kind == "predict" and self._together else []
        vectors: Sequence[Any] = ()
        values: Sequence[Any]
        if any(wanted):
            values, vectors = predictor.run_and_embed(encoded)
        else:
            values = predictor.run(encoded)
        if kind == "predict":
            values = predictor.task.answers(values, encoded, columns_of(records), predictor.answers)
        found, ids = [], encoded.ids
        for place, value in enumerate(values):
            start, end = (
                ids.offsets[place * encoded.per_example],
                ids.offsets[(place + 1) * encoded.per_example],
            )
            pieces = ids.values[start:end]
            vector = vectors[place] if any(wanted) and wanted[place] else None
            found.append(Result(value, len(pieces), unknown_share(pieces, self._unknown), vector))
        return found

    def _wanted(self, texts: int) -> list[bool]:
        """Which of so many texts drift wants embedded."""
        able = self.embeds and self.metrics is not None
        return [able and self.metrics.wants_embedding(self.model) for _ in range(texts)]

    def _embed(self, texts: list[str]) -> list[Result]:
        vectors = self.predictor.embed(texts)
        encodings = encode_texts(
            self.predictor.tokenizer, texts, self.predictor.bundle.manifest["max_length"]
        )
        return [
            Result(vector, len(encoding.ids), unknown_share(encoding.ids, self._unknown))
            for vector, encoding in zip(vectors, encodings, strict=True)
        ]


def length(item: Any) -> int:
    """About how long an item is, without reading it with the tokenizer."""
    if isinstance(item, str):
        return len(item)
    return sum(len(part) for part in item.values() if isinstance(part, str))
