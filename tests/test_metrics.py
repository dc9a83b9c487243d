"""The metrics count what happened, forget what is over, and never show what a client wrote."""

import mmap
import re
import threading

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from weitiao.runtime.reference import OTHER
from weitiao.service import metrics as module
from weitiao.service.alert_rules import VALUES
from weitiao.service.metrics import Metrics, resident_bytes
from weitiao.service.recent import BUCKETS, WINDOW_SECONDS, quantile

ROUTE = "/predict/{model}"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def samples(metrics):
    """``{(name, labels as a sorted tuple): value}`` of the rendered text, read by the client's own parser."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render())
        for sample in family.samples
    }


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def metrics(clock):
    made = Metrics([ROUTE, "/metrics"], clock)
    made.declare("reviews", "abc123", ["good", "bad"])
    return made


def test_requests_are_counted_by_outcome(metrics):
    for status, seconds in [(200, 0.004), (200, 0.03), (500, 2.0)]:
        metrics.observe_request(ROUTE, "reviews", status, seconds, tokens=10)
    found = samples(metrics)
    where = (("model", "reviews"), ("route", ROUTE))
    assert found["weitiao_requests_total", (*where, ("status", "200"))] == 2
    assert found["weitiao_requests_total", (*where, ("status", "500"))] == 1
    assert found["weitiao_request_seconds_count", where] == 3
    assert found["weitiao_request_seconds_sum", where] == pytest.approx(2.034)
    assert found["weitiao_request_seconds_bucket", (("le", "0.005"), *where)] == 1
    assert found["weitiao_tokens_total", (("model", "reviews"),)] == 30


def test_predictions_are_counted_by_class(metrics):
    metrics.observe_prediction("reviews", 12, 0.25, "good", 0.95)
    metrics.observe_prediction("reviews", 300, 0.0, ["good", "bad"], 0.35, np.zeros(4), 900)
    metrics.observe_prediction("reviews", 3, 0.0, None, None)
    found, where = samples(metrics), (("model", "reviews"),)
    assert found["weitiao_decisions_total", (("label", "good"), *where)] == 2
    assert found["weitiao_decisions_total", (("label", "bad"), *where)] == 1
    assert found["weitiao_text_tokens_count", where] == 3 and found["weitiao_text_tokens_sum", where] == 315
    assert found["weitiao_confidence_count", where] == 2
    assert found["weitiao_unknown_share_total", where] == 0.25


def test_nothing_a_client_wrote_becomes_a_label(metrics):
    canary = "13800138000 sk-secret"
    metrics.observe_request(f"/predict/{canary}", canary, 200, 0.1, 5)
    metrics.observe_request(ROUTE, canary, 12345, 0.1)
    metrics.observe_prediction(canary, 3, 0.0, canary, 0.5)
    metrics.observe_prediction("reviews", 3, 0.0, canary, 0.5)
    assert "13800138000" not in metrics.render() and "secret" not in metrics.render()
    found = samples(metrics)
    assert found["weitiao_requests_total", (("model", OTHER), ("route", OTHER), ("status", "200"))] == 1
    assert found["weitiao_decisions_total", (("label", OTHER), ("model", "reviews"))] == 1


def test_the_number_of_series_is_bounded(clock, monkeypatch):
    monkeypatch.setattr(module, "MOST_MODELS", 5)
    monkeypatch.setattr(module, "MOST_ROUTES", 7)
    metrics = Metrics(clock=clock)
    for i in range(300):
        metrics.declare(f"m{i}", "v", [f"class {j}" for j in range(200)])
        metrics.observe_request(f"/r{i}", f"m{i}", 200 + i % 3, 0.1)
        metrics.observe_prediction(f"m{i}", 3, 0.0, f"class {i}", 0.5)
    found = samples(metrics)
    assert len({dict(labels)["model"] for name, labels in found if name == "weitiao_requests_total"}) == 6
    assert len({dict(labels)["route"] for name, labels in found if name == "weitiao_requests_total"}) == 8
    assert len(found) < 1000


def test_a_swapped_model_shows_its_new_version_only(metrics):
    metrics.observe_request(ROUTE, "reviews", 200, 0.1)
    metrics.declare("reviews", "def456", ["good", "bad"])
    versions = {dict(labels)["version"] for name, labels in samples(metrics) if name == "weitiao_model_info"}
    assert versions == {"def456"}
    where = (("model", "reviews"), ("route", ROUTE), ("status", "200"))
    assert samples(metrics)["weitiao_requests_total", where] == 1
    metrics.forget("reviews")
    assert not [1 for name, _ in samples(metrics) if name == "weitiao_model_info"]
    metrics.observe_request(ROUTE, "reviews", 200, 0.1)
    assert samples(metrics)["weitiao_requests_total", where] == 1


def test_values_are_those_of_the_last_minute(metrics, clock):
    for i in range(100):
        metrics.observe_request(ROUTE, "reviews", 500 if i < 10 else 429 if i < 15 else 200, 0.07, tokens=3)
    metrics.observe_request("/metrics", "", 500, 20.0)
    metrics.observe_prediction("reviews", 3, 0.0, "good", 0.8)
    metrics.queue(17)
    found = metrics.values()
    assert found["request_rate"] == pytest.approx(100 / WINDOW_SECONDS)
    assert found["token_rate"] == pytest.approx(300 / WINDOW_SECONDS)
    assert (found["error_share"], found["refused_share"]) == (0.1, 0.05)
    assert 0.05 < found["p50_latency_seconds"] < found["p99_latency_seconds"] <= 0.1
    assert found["confidence_mean"] == pytest.approx(0.8) and found["queue_depth"] == 17
    assert metrics.values("reviews") == metrics.values() | {
        "memory_bytes": pytest.approx(resident_bytes(), rel=0.1)
    }
    assert "p50_latency_seconds" not in metrics.values("another")
    clock.now += WINDOW_SECONDS - 5
    assert metrics.values()["request_rate"] > 0
    clock.now += 10
    assert metrics.values()["request_rate"] == 0 and "p95_latency_seconds" not in metrics.values()


def test_the_queue_is_asked_when_somebody_wants_to_know(metrics):
    waiting = [1, 2, 3]
    metrics.queue_from(lambda: len(waiting))
    assert samples(metrics)["weitiao_queue_depth", ()] == metrics.values()["queue_depth"] == 3
    waiting.clear()
    assert samples(metrics)["weitiao_queue_depth", ()] == metrics.values()["queue_depth"] == 0


def test_every_value_has_a_name_that_alerts_may_use(metrics):
    metrics.observe_request(ROUTE, "reviews", 200, 0.1)
    metrics.observe_prediction("reviews", 3, 0.0, "good", 0.8)
    assert set(metrics.values()) <= set(VALUES)
    assert set(VALUES) == set(metrics.values()) | {name for name in VALUES if name.startswith("drift.")}


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_quantiles_are_within_their_bucket(share):
    seconds = np.random.default_rng(0).lognormal(-3, 1, 5000)
    counts = np.bincount(np.searchsorted(BUCKETS, seconds), minlength=len(BUCKETS) + 1)
    found, exact = quantile(counts, share), np.quantile(seconds, share)
    assert np.searchsorted(BUCKETS, found) == np.searchsorted(BUCKETS, exact)
    assert quantile(np.eye(len(BUCKETS) + 1)[-1], share) == BUCKETS[-1]


def test_memory_is_that_of_this_process():
    before = resident_bytes()
    # Pages of its own: what a test before this one freed may serve an array, and nothing would grow.
    with mmap.mmap(-1, 64_000_000) as block:
        block.write(b"1" * len(block))
        assert resident_bytes() - before > 0.8 * len(block)


def test_threads_lose_no_count(metrics):
    def work():
        for _ in range(200):
            metrics.observe_request(ROUTE, "reviews", 200, 0.01, 1)
            metrics.observe_prediction("reviews", 5, 0.0, "good", 0.5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    metrics.render()
    for thread in threads:
        thread.join()
    assert samples(metrics)["weitiao_tokens_total", (("model", "reviews"),)] == 800
    assert metrics.values()["request_rate"] == pytest.approx(800 / WINDOW_SECONDS)


def test_names_follow_the_conventions(metrics):
    """Prefix, unit as the last word, help for every family."""
    families = list(text_string_to_metric_families(metrics.render()))
    assert all(re.fullmatch(r"weitiao_[a-z_]+", family.name) and family.documentation for family in families)
    assert {family.name for family in families} >= {"weitiao_memory_bytes", "weitiao_request_seconds"}


def test_whichever_replica_is_asked_tells_of_all(clock):
    pages, both = {}, [Metrics([ROUTE], clock) for _ in range(2)]
    for number, metrics in enumerate(both):
        metrics.declare("reviews", "1", ["{good} 1"])
        metrics.share(f"r{number}", lambda: pages)
        metrics.observe_request(ROUTE, "reviews", 200 + number, 0.1)
        metrics.observe_prediction("reviews", 3, 0.0, "{good} 1", 0.5)
        metrics.queue(number + 5)
        pages[f"r{number}"] = metrics.page()
    both[1].queue(9)  # newer than its page
    found = samples(both[1])
    assert found["weitiao_queue_depth", (("replica", "r0"),)] == 5
    assert found["weitiao_queue_depth", (("replica", "r1"),)] == 9
    where = (("label", "{good} 1"), ("model", "reviews"))
    assert [found["weitiao_decisions_total", (*where, ("replica", f"r{i}"))] for i in (0, 1)] == [1, 1]
    text = both[1].render()
    for family in text_string_to_metric_families(text):
        assert len(re.findall(rf"^# TYPE {family.name}(?:_total)? ", text, re.MULTILINE)) == 1
    assert all(dict(labels).get("replica") in ("r0", "r1") for _, labels in found)
