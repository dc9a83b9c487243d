"""What a model's thread computes for a batch, and what the metrics are told of it afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weitiao.data.encode import encode_texts
from weitiao.runtime.items import columns_of
from weitiao.runtime.reference import decision, unknown_id, unknown_share


@dataclass(frozen=True)
class Result:
    """One item's answer, logits or vector; its tokens as the model read them; the share of unknown pieces."""

    value: Any
    tokens: int
    unknown: float


class Work:
    """The kinds of work of one ``runtime.Predictor``.

    Args:
        metrics: ``service.metrics.Metrics``, or None.
    """

    def __init__(self, model: str, predictor: Any, metrics: Any = None) -> None:
        self.model, self.predictor, self.metrics = model, predictor, metrics
        self.embeds = bool(predictor.bundle.manifest["graph"].get("embedding"))
        self._unknown = unknown_id(predictor.tokenizer)

    def compute(self, kind: str, items: list[Any]) -> list[Result]:
        """``predict`` and ``logits`` take the task's records, ``embed`` takes texts."""
        return self._embed(items) if kind == "embed" else self._predict(kind, items)

    def observe(self, kind: str, items: list[Any], results: Sequence[Result]) -> None:
        """Tell the metrics of predictions; what drift wants embedded is embedded here, in one go."""
        if self.metrics is None or kind != "predict":
            return
        texts = [self.predictor.task.shown(record) for record in items]
        wanted = [i for i in range(len(texts)) if self.embeds and self.metrics.wants_embedding(self.model)]
        vectors = (
            dict(zip(wanted, self.predictor.embed([texts[i] for i in wanted]), strict=True)) if wanted else {}
        )
        for place, (text, result) in enumerate(zip(texts, results, strict=True)):
            names, score = decision(result.value)
            self.metrics.observe_prediction(
                self.model, result.tokens, result.unknown, names, score, vectors.get(place), len(text)
            )

    def _predict(self, kind: str, records: list[dict[str, Any]]) -> list[Result]:
        predictor = self.predictor
        encoded = predictor.encode(records)
        values: Sequence[Any] = predictor.run(encoded)
        if kind == "predict":
            values = predictor.task.answers(values, encoded, columns_of(records), predictor.answers)
        found, ids = [], encoded.ids
        for place, value in enumerate(values):
            start, end = (
                ids.offsets[place * encoded.per_example],
                ids.offsets[(place + 1) * encoded.per_example],
            )
            pieces = ids.values[start:end]
            found.append(Result(value, len(pieces), unknown_share(pieces, self._unknown)))
        return found

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
