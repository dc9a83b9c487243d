"""What the service tells about itself: counters, latencies, decisions and drift, in Prometheus' text format.

No label ever holds a text, a key or anything else that a client chose: models, routes and classes are named only
as they were declared, and everything else counts under 'other'. So the number of series is bounded, too.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily

from weitiao.runtime.reference import MOST_CLASSES, OTHER
from weitiao.service.drift import Drift
from weitiao.service.pages import merged
from weitiao.service.recent import BUCKETS, Recent, summary

CONTENT_TYPE = CONTENT_TYPE_LATEST
MOST_MODELS, MOST_ROUTES, MOST_SIGNS = 50, 100, 64
TOKEN_BUCKETS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
SCORE_BUCKETS = tuple(round(0.1 * step, 1) for step in range(1, 11))
ROUTE = re.compile(r"/[\w{}./:*-]{0,120}", re.ASCII)
MEMORY = Path("/proc/self/statm")


class Metrics:
    """The metrics of one process, in a registry of their own. Safe to call from several threads.

    Args:
        routes: the paths of the application as templates (``/predict/{model}``); empty: whatever is observed first, up
            to a bound.
        clock: seconds, for the values of the last minute.
    """

    def __init__(self, routes: Collection[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock, self._lock = clock, Lock()
        self._routes, self._open = set(routes), not routes
        self._versions: dict[str, str] = {}
        self._names: dict[str, set[str]] = {}
        self._drift: dict[str, Drift] = {}
        self._recent: dict[str, Recent] = {}
        self._depth: Callable[[], int] = lambda: 0
        self._name = ""
        self._others: Callable[[], Mapping[str, str]] = dict
        made: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter(
            "weitiao_requests", "Requests by their outcome", ("route", "model", "status"), **made
        )
        self._seconds = Histogram(
            "weitiao_request_seconds",
            "Seconds from request to answer",
            ("route", "model"),
            buckets=BUCKETS,
            **made,
        )
        self._tokens = Counter("weitiao_tokens", "Tokens read and written", ("model",), **made)
        self._decisions = Counter("weitiao_decisions", "Decisions by class", ("model", "label"), **made)
        self._scores = Histogram(
            "weitiao_confidence", "Scores of decisions", ("model",), buckets=SCORE_BUCKETS, **made
        )
        self._lengths = Histogram(
            "weitiao_text_tokens", "Lengths of texts in tokens", ("model",), buckets=TOKEN_BUCKETS, **made
        )
        self._unknown = Counter(
            "weitiao_unknown_share", "Sum of texts' shares of unknown pieces", ("model",), **made
        )
        self.firing = Gauge("weitiao_alert_firing", "1 while an alert fires", ("alert", "severity"), **made)
        self.failures = Counter(
            "weitiao_alert_failures", "Webhooks and commands of alerts that failed", ("alert",), **made
        )
        self.registry.register(_Collected(self))

    def declare(
        self, model: str, version: str, labels: Sequence[str] = (), reference: Mapping[str, Any] | None = None
    ) -> None:
        """A model was loaded, or took the place of another version of it: its drift is counted anew.

        Args:
            labels: the classes it can decide for.
            reference: the bundle's ``reference.json``, against which drift is measured.
        """
        with self._lock:
            if len(self._versions) >= MOST_MODELS and model not in self._versions:
                return
            drift = Drift(reference)
            self._versions[model], self._drift[model] = version, drift
            self._names[model] = {_short(name) for name in list(labels)[:MOST_CLASSES]}

    def forget(self, model: str) -> None:
        """A model was unloaded: what comes under its name counts as 'other' from now on."""
        with self._lock:
            for known in (self._versions, self._names, self._drift, self._recent):
                known.pop(model, None)

    def observe_request(self, route: str, model: str, status: int, seconds: float, tokens: int = 0) -> None:
        """A request was answered, whatever the outcome.

        Args:
            route: the template of the path, not the path.
            model: empty where the route has none (``/metrics``): alerts leave such requests out.
        """
        route, model, code = (
            self._route(route),
            self._model(model),
            str(status) if 100 <= status < 600 else OTHER,
        )
        self._requests.labels(route, model, code).inc()
        self._seconds.labels(route, model).observe(seconds)
        if tokens:
            self._tokens.labels(model).inc(tokens)
        if model:
            counts = {
                "requests": 1,
                "errors": status in (500, 501, 502, 504),
                "refused": status in (429, 503),
            }
            with self._lock:
                self._last_minute(model).add(seconds, tokens=tokens, **counts)

    def observe_prediction(
        self,
        model: str,
        text_length: int,
        unknown_share: float,
        label: str | Sequence[str] | None,
        score: float | None,
        embedding: np.ndarray | None = None,
        characters: int | None = None,
    ) -> None:
        """One text was predicted: ``text_length`` in tokens; ``label`` is a name, several (spans, labels), or None.

        ``runtime.reference`` has ``unknown_share``, and ``decision`` for names and score;
        ``wants_embedding`` says of which texts an embedding is wanted.
        """
        model = self._model(model)
        names = [label] if isinstance(label, str) else list(label or ())
        self._lengths.labels(model).observe(text_length)
        self._unknown.labels(model).inc(max(unknown_share, 0.0))
        for name in names:
            self._decisions.labels(model, self._label(model, name)).inc()
        with self._lock:
            drift = self._drift.get(model)
            if score is not None:
                self._last_minute(model).add(scores=1, score_sum=score)
        if score is not None:
            self._scores.labels(model).observe(score)
        if drift is not None:
            drift.add(text_length, unknown_share, names, score, embedding, characters)

    def wants_embedding(self, model: str) -> bool:
        """Whether drift wants the embedding of a text; to be asked once a text. One in ten, if there is a reference."""
        drift = self._drift.get(model)
        return drift is not None and drift.wants_embedding()

    def queue(self, depth: int) -> None:
        """How many requests wait at this moment."""
        self._depth = lambda: depth

    def queue_from(self, depth: Callable[[], int]) -> None:
        """Where to ask how many requests wait, whenever somebody wants to know: ``queue`` need not be called then."""
        self._depth = depth

    def values(self, model: str = "") -> dict[str, float]:
        """The numbers that alerts may name (``alert_rules.VALUES``), for one model or over all.

        Rates and latencies are of the last minute; a drift is the largest over the models; what isn't known is absent.
        """
        with self._lock:
            parts = [part for name, part in self._recent.items() if not model or name == model]
            found = summary(parts)
            drifts = [drift for name, drift in self._drift.items() if not model or name == model]
        for drift in drifts:
            for signal, value in drift.measured().items():
                found[f"drift.{signal}"] = max(value, found.get(f"drift.{signal}", 0.0))
        return found | {"queue_depth": float(self._depth()), "memory_bytes": float(resident_bytes())}

    def render(self) -> str:
        """Everything, in Prometheus' text format (``CONTENT_TYPE``); the replicas' together, where there are some."""
        own = self.page()
        return merged({**self._others(), self._name: own}) if self._name else own

    def page(self) -> str:
        """What this process alone has counted."""
        return generate_latest(self.registry).decode()

    def share(self, name: str, others: Callable[[], Mapping[str, str]]) -> None:
        """This process is one of several behind one address: whichever is asked tells of all.

        Args:
            name: of this process; no letter of it is a client's.
            others: the latest pages of the processes, by name.
        """
        self._name, self._others = name, others

    def depth(self) -> int:
        """How many requests wait."""
        return self._depth()

    def state(self) -> list[tuple[str, str, Drift]]:
        """``(model, version, drift)`` of each declared model."""
        with self._lock:
            return [(model, version, self._drift[model]) for model, version in self._versions.items()]

    def _model(self, model: str) -> str:
        return model if not model or model in self._versions else OTHER

    def _label(self, model: str, label: str) -> str:
        label = _short(label)
        return label if label in self._names.get(model, ()) else OTHER

    def _route(self, route: str) -> str:
        if route not in self._routes:
            if not self._open or len(self._routes) >= MOST_ROUTES or not ROUTE.fullmatch(route):
                return OTHER
            self._routes.add(route)
        return route

    def _last_minute(self, model: str) -> Recent:
        found = self._recent.get(model)
        if found is None:  # not setdefault, which would make a new one at every call
            found = self._recent[model] = Recent(self._clock)
        return found


class _Collected:
    """What is read when asked for: models, drift, memory."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Metric families, for ``prometheus_client``."""
        depth = self.metrics.depth()
        yield GaugeMetricFamily("weitiao_queue_depth", "Requests that wait for a batch", value=depth)
        yield GaugeMetricFamily("weitiao_memory_bytes", "Resident memory", value=resident_bytes())
        info = GaugeMetricFamily("weitiao_model_info", "1 for each loaded model", labels=("model", "version"))
        seen = GaugeMetricFamily("weitiao_drift_texts", "Texts in the window of drift", labels=("model",))
        drifts = GaugeMetricFamily(
            "weitiao_drift", "Distance of late texts from the training texts", labels=("model", "signal")
        )
        for model, version, drift in self.metrics.state():
            info.add_metric((model, version), 1)
            seen.add_metric((model,), drift.samples())
            for signal, value in drift.measured().items():
                drifts.add_metric((model, signal), value)
        yield from (info, seen, drifts)


def resident_bytes() -> int:
    """The resident memory of this process; its peak where the system tells no more."""
    if MEMORY.exists():
        return int(MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _short(label: str) -> str:
    return label[:MOST_SIGNS]
