"""How far the texts of late lie from the training texts: lengths, unknown pieces, decisions, confidence, embeddings.

Compared are a window of the last texts and the bundle's ``reference.json`` (``runtime.reference``). Counts are compared
by the population stability index, distributions by Kolmogorov-Smirnov, embeddings by a Fréchet-like distance on
random projections. Where chance alone has an expected value, it is taken off, so that 0 means "as in training"
whatever the number of classes and the window's size. A window holds numbers only, never a text.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.runtime import reference as reference_module
from weitiao.runtime.reference import OTHER, count_into, project

SIGNALS = {
    "length": "population stability index of lengths in tokens",
    "length_ks": "Kolmogorov-Smirnov distance of lengths in tokens",
    "characters": "population stability index of lengths in characters",
    "unknown": "population stability index of the share of unknown pieces",
    "decisions": "population stability index of the classes decided for",
    "confidence": "population stability index of the scores",
    "embedding": "Frechet-like distance of embeddings, in variances of the training texts",
    "embedding_ks": "Kolmogorov-Smirnov distance of projected embeddings, the mean over directions",
}
WINDOW = 1000
LEAST = 200  # texts, below which nothing is said
EMBEDDING_WINDOW = 500
LEAST_EMBEDDINGS = 100
EMBEDDED_EVERY = 10  # an embedding can cost as much as the prediction: one text in ten is enough
COARSE = 10  # bins of a stability index; more of them would mostly count noise


@dataclass
class Drift:
    """The window of one model. Safe to call from several threads.

    Args:
        reference: the content of ``reference.json``; None: nothing is ever measured.
        window: texts that are remembered.
        least: texts before a signal is given.

    Raises:
        WeitiaoError: the reference has another format.
    """

    reference: Mapping[str, Any] | None
    window: int = WINDOW
    least: int = LEAST
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        version = (self.reference or {}).get("version", reference_module.VERSION)
        if version != reference_module.VERSION:
            known = reference_module.VERSION
            raise WeitiaoError(
                say(
                    f"reference.json has format {version}, this version reads {known}: export the model again",
                    f"reference.json 的格式为 {version}，当前版本只能读取 {known}：请重新导出模型",
                )
            )
        self._texts: deque[tuple[int, int | None, float]] = deque(maxlen=self.window)
        self._decisions: deque[str] = deque(maxlen=self.window)
        self._scores: deque[float] = deque(maxlen=self.window)
        self._projected: deque[np.ndarray] = deque(maxlen=min(self.window, EMBEDDING_WINDOW))
        self._asked = 0

    def add(
        self,
        tokens: int,
        unknown_share: float,
        names: Sequence[str] = (),
        score: float | None = None,
        embedding: np.ndarray | None = None,
        characters: int | None = None,
    ) -> None:
        """Remember the numbers of one text; of its embedding ``[D]`` only the projections are kept."""
        if self.reference is None:
            return
        with self._lock:
            self._texts.append((tokens, characters, unknown_share))
            self._decisions.extend(names)
            if score is not None:
                self._scores.append(score)
            known = self.reference.get("embedding")
            if embedding is not None and known and embedding.shape[-1] == known["dimension"]:
                self._projected.append(project(np.asarray(embedding, np.float32), known["seed"]))

    def wants_embedding(self) -> bool:
        """Whether the embedding of the text that is asked about is wanted: of every ``EMBEDDED_EVERY``-th."""
        if not self.reference or "embedding" not in self.reference:
            return False
        with self._lock:
            self._asked += 1
            return self._asked % EMBEDDED_EVERY == 1

    def samples(self) -> int:
        """Texts in the window."""
        return len(self._texts)

    def measured(self) -> dict[str, float]:
        """The signals that there are enough texts for, by name (see ``SIGNALS``)."""
        if self.reference is None:
            return {}
        with self._lock:
            texts, decisions = list(self._texts), list(self._decisions)
            scores, projected = np.array(self._scores), list(self._projected)
        found: dict[str, float] = {}
        if len(texts) >= self.least:
            tokens = np.array([row[0] for row in texts])
            characters = np.array([row[1] for row in texts if row[1] is not None])
            found["length"] = _binned_stability(self.reference["tokens"], tokens)
            found["length_ks"] = _binned_distance(self.reference["tokens"], tokens)
            found["unknown"] = _binned_stability(
                self.reference["unknown"], np.array([row[2] for row in texts])
            )
            if len(characters) >= self.least:
                found["characters"] = _binned_stability(self.reference["characters"], characters)
        if self.reference["decisions"] and len(decisions) >= self.least:
            found["decisions"] = _counted_stability(self.reference["decisions"], decisions)
        if "confidence" in self.reference and len(scores) >= self.least:
            found["confidence"] = _binned_stability(self.reference["confidence"], scores)
        if "embedding" in self.reference and len(projected) >= min(LEAST_EMBEDDINGS, self.least):
            found |= _embedding_shift(self.reference["embedding"], np.stack(projected))
        return found


def stability_index(expected: np.ndarray, observed: np.ndarray) -> float:
    """The population stability index of two lists of counts, less what chance alone would make of it.

    ``sum((q - p) * ln(q / p))``; of two samples of one distribution its expectation is about
    ``(bins - 1) * (1 / n + 1 / m)``, which is taken off. A bin empty on one side counts as half a text of the
    smaller sample.
    """
    n, m = expected.sum(), observed.sum()
    bins = int(((expected > 0) | (observed > 0)).sum())
    if not n or not m or bins < 2:
        return 0.0
    floor = 0.5 / min(n, m)
    p, q = ((counts / counts.sum() + floor) / (1 + floor * len(counts)) for counts in (expected, observed))
    index = float(((q - p) * np.log(q / p)).sum())
    return max(index - float((bins - 1) * (1 / n + 1 / m)), 0.0)


def _binned_stability(known: Mapping[str, Any], values: np.ndarray) -> float:
    """The stability index over at most ``COARSE`` groups of bins, about equally full in training."""
    expected, observed = np.array(known["counts"]), count_into(values, known["edges"])
    below = (np.cumsum(expected) - expected) / max(expected.sum(), 1)
    group = np.minimum((below * COARSE).astype(int), COARSE - 1)
    return stability_index(*(np.bincount(group, counts, COARSE) for counts in (expected, observed)))


def _binned_distance(known: Mapping[str, Any], values: np.ndarray) -> float:
    """The largest difference of the two cumulative shares at the edges of the bins."""
    expected, observed = np.array(known["counts"]), count_into(values, known["edges"])
    shares = [np.cumsum(counts) / max(counts.sum(), 1) for counts in (expected, observed)]
    return float(np.abs(shares[0] - shares[1]).max())


def _counted_stability(known: Mapping[str, int], names: Sequence[str]) -> float:
    """The stability index of classes; those that the reference doesn't list count as 'other'."""
    order = {name: place for place, name in enumerate(dict.fromkeys([*known, OTHER]))}
    observed = np.bincount([order.get(name, order[OTHER]) for name in names], minlength=len(order))
    return stability_index(np.array([known.get(name, 0) for name in order]), observed)


def _embedding_shift(known: Mapping[str, Any], projected: np.ndarray) -> dict[str, float]:
    """The distances of projections ``[N, directions]`` from the training texts'.

    Fréchet's distance of two normal distributions with independent coordinates, ``(mean difference)^2 +
    (deviation difference)^2``, in variances of the training texts; the mean over the directions.
    """
    mean, deviation = np.array(known["projected_mean"]), np.array(known["projected_deviation"])
    variance = np.maximum(deviation**2, 1e-12)
    moved = (projected.mean(0) - mean) ** 2 + (projected.std(0) - deviation) ** 2
    by_chance = 1.5 * (1 / len(projected) + 1 / known["texts"])
    quantiles = np.array(known["quantiles"])  # [directions, quantiles]
    levels = np.linspace(0, 1, quantiles.shape[1])
    shares = (projected[:, :, None] <= quantiles[None]).mean(0)
    return {
        "embedding": max(float((moved / variance).mean()) - by_chance, 0.0),
        "embedding_ks": float(np.abs(shares - levels).max(1).mean()),
    }
