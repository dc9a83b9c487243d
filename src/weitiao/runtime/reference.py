"""What the training texts looked like, kept beside a model as ``reference.json`` so that drift can be seen later.

A few kilobytes of counts and quantiles, never a text: lengths in tokens and in characters, the share of unknown
pieces, classes, decisions and their confidence, and where the embeddings lie: their mean, and quantiles of their
projections onto a few random directions.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.data.encode import Encoded, Ragged

VERSION = 1
FINEST = (
    32  # bins of a length histogram: enough for Kolmogorov-Smirnov to be off by at most 1/32 on new texts
)
SHARE_EDGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # a bin of its own for texts without any unknown piece
SCORE_EDGES = tuple(round(0.05 * step, 2) for step in range(1, 20))
DIRECTIONS = 16
QUANTILES = 17
MOST_CLASSES = 100  # further ones are counted together: a label set of thousands must not swell the file
OTHER = "other"
MOST_ROWS, MOST_EMBEDDED = 2000, 500


def describe_table(
    predictor: Any, records: Any, *, rows: int = MOST_ROWS, embedded: int = MOST_EMBEDDED, seed: int = 0
) -> dict[str, Any]:
    """The statistics of a training table as its bundle sees it, as plain values for ``reference.json``.

    Args:
        predictor: the bundle's ``runtime.Predictor``.
        records: the task's records (a list, or a ``datasets.Dataset``), with or without labels. Confidence is
            lower on texts that the model was not trained on: give held-out ones where there are some.
        rows, embedded: how many, drawn at random, are predicted and how many of these are embedded.

    Raises:
        WeitiaoError: there is no record.
    """
    task = predictor.task
    chosen = np.sort(np.random.RandomState(seed).permutation(len(records))[:rows]).tolist()
    part = [records[i] for i in chosen] if isinstance(records, list) else records.select(chosen).to_list()
    if not part:
        raise _no_text()
    encoded = predictor.encode(part)
    columns = {key: [record[key] for record in part] for key in part[0]}
    answers = task.answers(predictor.run(encoded), encoded, columns, predictor.answers)
    texts = [task.shown(record) for record in part]
    embeddings = None
    if embedded and predictor.bundle.manifest["graph"].get("embedding"):
        sample = np.random.RandomState(seed).permutation(len(texts))[:embedded]
        embeddings = predictor.embed([texts[i] for i in sample])
    labels = columns.get(task.label_key, ())
    return describe(
        texts, answers, predictor.tokenizer, labels=labels, embeddings=embeddings, encoded=encoded, seed=seed
    )


def describe(
    texts: Sequence[str],
    answers: Sequence[Any],
    tokenizer: Any,
    *,
    labels: Iterable[Any] = (),
    embeddings: np.ndarray | None = None,
    encoded: Encoded | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The statistics of some texts.

    Args:
        texts: as a person would show them.
        answers: what the model predicts for them, in the shapes of ``Predictor.predict``.
        tokenizer: a ``tokenizers.Tokenizer``.
        labels: the table's own labels (a list of them where a text has several).
        embeddings: float ``[M, D]``, unit vectors of some of the texts.
        encoded: the texts as the model reads them, which the service will count: needed where that is more than a
            text's own tokens, as with pairs or where texts are cut.

    Raises:
        WeitiaoError: there is no text.
    """
    if not len(texts):
        raise _no_text()
    if encoded is None:
        encoded = Encoded(Ragged.of(encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))))
    facts = measure(encoded, tokenizer)
    decisions = [decision(answer) for answer in answers]
    scores = [score for _, score in decisions if score is not None]
    found: dict[str, Any] = {
        "version": VERSION,
        "texts": len(texts),
        "tokens": histogram([tokens for tokens, _ in facts]),
        "characters": histogram([len(text) for text in texts]),
        "unknown": histogram([share for _, share in facts], SHARE_EDGES),
        "classes": counted(name for label in labels for name in names_of(label)),
        "decisions": counted(name for names, _ in decisions for name in names),
    }
    if scores:
        found["confidence"] = histogram(scores, SCORE_EDGES)
    if embeddings is not None and len(embeddings):
        found["embedding"] = sketch(np.asarray(embeddings, np.float32), seed)
    return found


def measure(encoded: Encoded, tokenizer: Any) -> list[tuple[int, float]]:
    """``(tokens, share of unknown pieces)`` of each example as the model reads it: with special tokens, cut."""
    unknown, ids, size = unknown_id(tokenizer), encoded.ids, encoded.per_example
    bounds = ids.offsets[::size]
    pieces = (ids.values[start:end] for start, end in pairwise(bounds))
    return [(len(part), unknown_share(part, unknown)) for part in pieces]


def unknown_share(ids: Sequence[int] | np.ndarray, unknown: int | None) -> float:
    """The share of a text's ids that stand for 'unknown'; 0 for an empty text, or where nothing is unknown."""
    if unknown is None or not len(ids):
        return 0.0
    return float(np.count_nonzero(np.asarray(ids) == unknown)) / len(ids)


def unknown_id(tokenizer: Any) -> int | None:
    """The id of the unknown piece, or None where the tokenizer has none (a byte-level one)."""
    piece = getattr(tokenizer.model, "unk_token", None)
    if piece:
        return tokenizer.token_to_id(piece)
    # A Unigram model keeps its unknown piece's number to itself: its usual names are tried.
    known = (tokenizer.token_to_id(name) for name in ("<unk>", "[UNK]", "<UNK>"))
    return next((number for number in known if number is not None), None)


def decision(answer: Any) -> tuple[list[str], float | None]:
    """The names decided for and the confidence, of one result in the shapes of ``Predictor.predict``.

    Spans and several labels count once each; their confidence is the lowest of them. A list ranked by score
    for one text (``top`` over 1) can't be told from several labels and counts the same way.
    """
    parts = answer if isinstance(answer, list) else [answer]
    parts = [part for part in parts if isinstance(part, dict)]
    names = [str(part.get("label", part.get("entity_group", ""))) for part in parts]
    scores = [float(part["score"]) for part in parts if part.get("score") is not None]
    return [name for name in names if name], min(scores) if scores else None


def names_of(label: Any) -> list[str]:
    """The classes in a cell of a training table: a name, a list of names, or a list of spans."""
    if isinstance(label, dict):
        return [str(label["label"])] if "label" in label else []
    if isinstance(label, list | tuple):
        return [name for part in label for name in names_of(part)]
    return [] if isinstance(label, float) or label is None else [str(label)]


def histogram(values: Sequence[float] | np.ndarray, edges: Sequence[float] | None = None) -> dict[str, Any]:
    """``{"edges", "counts"}``: bin i counts values in ``(edges[i - 1], edges[i]]``, the last those above all.

    Without ``edges`` they are quantiles of the values, so that the bins are about equally full.
    """
    numbers = np.asarray(values, np.float64)
    if edges is None:
        inner = np.quantile(numbers, np.arange(1, FINEST) / FINEST, method="inverted_cdf")
        edges = sorted({float(edge) for edge in inner})
    counts = count_into(numbers, edges)
    return {"edges": list(edges), "counts": counts.tolist(), "mean": round(float(numbers.mean()), 6)}


def count_into(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """How many values fall into each bin of a ``histogram`` with these edges, int64 ``[len(edges) + 1]``."""
    places = np.searchsorted(np.asarray(edges, np.float64), values, side="left")
    return np.bincount(places, minlength=len(edges) + 1)


def counted(names: Iterable[str]) -> dict[str, int]:
    """Counts by name, the most frequent first; beyond ``MOST_CLASSES`` under 'other'."""
    ordered = sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0]))
    found = dict(ordered[:MOST_CLASSES])
    if rest := sum(count for _, count in ordered[MOST_CLASSES:]):
        found[OTHER] = found.get(OTHER, 0) + rest
    return found


def sketch(embeddings: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Where embeddings ``[N, D]`` lie: their mean, and the mean, spread and quantiles of their projections."""
    projected = project(embeddings, seed)
    quantiles = np.quantile(projected, np.linspace(0, 1, QUANTILES), axis=0).T
    return {
        "dimension": embeddings.shape[1],
        "seed": seed,
        "texts": len(embeddings),
        "mean": _short(embeddings.mean(0)),
        "projected_mean": _short(projected.mean(0)),
        "projected_deviation": _short(projected.std(0)),
        "quantiles": [_short(row) for row in quantiles],
    }


def project(embeddings: np.ndarray, seed: int) -> np.ndarray:
    """Embeddings ``[N, D]`` on ``DIRECTIONS`` random directions: float32 ``[N, DIRECTIONS]``."""
    return embeddings @ directions(embeddings.shape[-1], seed)


@cache
def directions(dimension: int, seed: int) -> np.ndarray:
    """Random unit directions, float32 ``[dimension, DIRECTIONS]``.

    They are drawn anew instead of being stored, so by the generator whose stream NumPy promises never to change.
    """
    drawn = np.random.RandomState(seed).standard_normal((dimension, DIRECTIONS))
    return (drawn / np.linalg.norm(drawn, axis=0)).astype(np.float32)


def _no_text() -> WeitiaoError:
    return WeitiaoError(say("no text to describe the training data by", "没有可用于描述训练数据的文本"))


def _short(values: np.ndarray) -> list[float]:
    """Five decimals: coordinates of unit vectors, where more would only be bytes."""
    return [round(float(value), 5) for value in values]
