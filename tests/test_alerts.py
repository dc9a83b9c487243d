"""Alerts: what a rule file may say, when they ring and when they stop, and what they do."""

import asyncio
import json
import logging
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml

from weitiao.core.errors import WeitiaoError
from weitiao.service.alert_rules import VALUES, Rule, read_rules
from weitiao.service.alerts import Notice, Watch
from weitiao.service.metrics import Metrics
from weitiao.service.prometheus_rules import prometheus_rules, write_prometheus_rules

ROUTE = "/predict/{model}"
GOOD = """
alerts:
  - name: slow answers
    when: p95_latency_seconds > 0.5 for 60s
    severity: critical
    action: webhook
    url: https://alerts.example.org/hook
    cooldown: 30m
  - name: strange lengths
    when: drift.length>0.2
    model: reviews
  - name: unsure
    when: confidence_mean <= 0.5 for 2m
    clear: 0.6
    action: command
    command: [logger, -t, weitiao]
"""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def metrics(clock):
    made = Metrics([ROUTE], clock)
    made.declare("reviews", "1")
    return made


def rule(**changes):
    made = Rule("full", "queue_depth", ">", 100.0, 90.0, hold_seconds=10.0, cooldown_seconds=300.0)
    return replace(made, **changes)


def written(tmp_path, text):
    path = tmp_path / "alerts.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def ring(watch, clock, depths, step=5.0):
    """What is told as the queue takes these depths, one every ``step`` seconds: ``[(second, state), ...]``."""
    told = []
    for depth in depths:
        watch.metrics.queue(depth)
        told += [(clock.now, notice.state) for notice in watch.look()]
        clock.now += step
    return told


def test_a_file_is_read(tmp_path):
    slow, lengths, unsure = read_rules(written(tmp_path, GOOD), ["reviews"])
    assert slow == Rule(
        "slow answers", "p95_latency_seconds", ">", 0.5, 0.45, 60, "", "critical", "webhook",
        "https://alerts.example.org/hook", (), 1800,
    )  # fmt: skip
    assert (lengths.value, lengths.model, lengths.hold_seconds, lengths.action) == (
        "drift.length",
        "reviews",
        0,
        "log",
    )
    assert (unsure.operator, unsure.clear, unsure.command) == ("<=", 0.6, ("logger", "-t", "weitiao"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("when: p95_latency_second > 1", ["'when'", "p95_latency_seconds"]),
        ("when: drift.lenght > 1", ["'when'", "'drift.length'"]),
        ("when: queue_depth ~ 5", ["'when'", "queue_depth ~ 5", "for 60s"]),
        ("when: queue_depth > 5 for 1 minute", ["'when'", "for 60s"]),
        ("when: queue_depth > 5 for 5min", ["'when'", "5min", "30s"]),
        ("when: queue_depth > 1.2.3", ["'when'", "1.2.3"]),
        ("when: __import__('os').system('id') > 1", ["'when'", "does not read as"]),
        ("when: 5", ["'when'", "not text"]),
        ("wen: queue_depth > 5", ["'wen'", "'when'"]),
        ("when: queue_depth > 5\n    severity: warn", ["'severity'", "'warning'"]),
        ("when: queue_depth > 5\n    action: webhok", ["'action'", "'webhook'"]),
        ("when: queue_depth > 5\n    action: webhook\n    url: file:///etc/passwd", ["'url'", "file:///etc/passwd"]),
        ("when: queue_depth > 5\n    action: webhook", ["'url'"]),
        ("when: queue_depth > 5\n    url: https://a.example", ["'url'", "action: webhook"]),
        ("when: queue_depth > 5\n    action: command\n    command: rm -rf /", ["'command'", "no shell"]),
        ("when: queue_depth > 5\n    model: revews", ["'model'", "'reviews'"]),
        ("when: queue_depth > 5\n    clear: 6", ["'clear'", "below"]),
        ("when: queue_depth < 5\n    clear: 4", ["'clear'", "above"]),
        ("when: queue_depth > 5\n    clear: soon", ["'clear'", "soon"]),
        ("when: queue_depth > 5\n    cooldown: 300", ["'cooldown'", "300"]),
    ],
)  # fmt: skip
def test_a_bad_rule_is_one_line_with_its_name_its_field_and_the_way_out(tmp_path, line, expected):
    path = written(tmp_path, f"alerts:\n  - name: mine\n    {line}\n")
    with pytest.raises(WeitiaoError) as raised:
        read_rules(path, ["reviews"])
    message = str(raised.value)
    assert "\n" not in message and message.startswith("alerts.yaml, alert 'mine'"), message
    for part in expected:
        assert part in message, message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alert:\n  - name: x\n", "found: alert"),
        ("alerts: 5\n", "list 'alerts:'"),
        ("alerts:\n  - just words\n", "#1"),
        ("alerts:\n  - when: queue_depth > 1\n", "'name'"),
        (
            "alerts:\n  - {name: a, when: queue_depth > 1}\n  - {name: a, when: queue_depth > 2}\n",
            "used twice",
        ),
        ("alerts: [", "not valid YAML"),
        ("alerts:\n  - name: !!python/object/apply:os.system [id]\n", "not valid YAML"),
    ],
)
def test_a_file_of_another_form_is_one_line_too(tmp_path, text, expected):
    with pytest.raises(WeitiaoError) as raised:
        read_rules(written(tmp_path, text))
    assert expected in str(raised.value) and "\n" not in str(raised.value)


def test_an_alert_rings_after_its_time_and_stops_past_the_second_threshold(metrics, clock):
    watch = Watch([rule()], metrics, clock)
    assert ring(watch, clock, [50, 101, 50, 101, 101, 101]) == [(25.0, "firing")]
    assert watch.firing == ["full"]
    assert 'weitiao_alert_firing{alert="full",severity="warning"} 1.0' in metrics.render()
    assert ring(watch, clock, [99, 95, 101, 91]) == []
    assert ring(watch, clock, [90]) == [(50.0, "resolved")]
    assert watch.firing == []
    assert 'weitiao_alert_firing{alert="full",severity="warning"} 0.0' in metrics.render()


def test_a_value_that_swings_rings_once_in_a_cool_down(metrics, clock):
    watch = Watch([rule(hold_seconds=0.0)], metrics, clock)
    told = ring(watch, clock, [200, 0] * 30)
    assert told == [(0.0, "firing"), (5.0, "resolved")]
    assert clock.now == 300.0
    assert ring(watch, clock, [200]) == [(300.0, "firing")]


def test_what_outlasts_the_cool_down_is_told_then(metrics, clock):
    watch = Watch([rule(hold_seconds=0.0)], metrics, clock)
    told = ring(watch, clock, [200, 0] + [200] * 100)
    assert told == [(0.0, "firing"), (5.0, "resolved"), (300.0, "firing")]


def test_an_alert_below_a_number(metrics, clock):
    watch = Watch([rule(operator="<", threshold=5.0, clear=8.0, hold_seconds=0.0)], metrics, clock)
    assert ring(watch, clock, [5, 4, 6, 8]) == [(5.0, "firing"), (15.0, "resolved")]


def test_without_traffic_there_is_no_alert(metrics, clock):
    slow = rule(value="p95_latency_seconds", threshold=0.5, clear=0.4, hold_seconds=0.0)
    watch = Watch([slow, replace(slow, name="other", model="elsewhere")], metrics, clock)
    assert watch.look() == []
    metrics.observe_request(ROUTE, "reviews", 200, 2.0)
    assert [(notice.rule.name, notice.state) for notice in watch.look()] == [("full", "firing")]
    clock.now += 120
    assert [(notice.state, notice.value) for notice in watch.look()] == [("resolved", None)]


@pytest.fixture
def webhook():
    """A server that keeps what is posted; its first ``refusals`` answers are errors."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.bodies.append(json.loads(body))
            self.send_response(500 if len(self.server.bodies) <= self.server.refusals else 204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.bodies, server.refusals = [], 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_gets_the_numbers_and_is_tried_again(metrics, clock, webhook):
    webhook.refusals = 1
    made = rule(action="webhook", url=f"http://127.0.0.1:{webhook.server_port}/")
    assert Watch([made], metrics, clock).tell(Notice(made, "firing", 123.0))
    assert len(webhook.bodies) == 2
    expected = {"alert": "full", "severity": "warning", "model": "", "when": "queue_depth > 100"}
    assert webhook.bodies[1].items() >= (expected | {"state": "firing", "value": 123.0}).items()


def test_a_command_reads_the_notice_and_no_secret(metrics, clock, tmp_path, monkeypatch):
    monkeypatch.setenv("WEITIAO_SECRET", "canary")
    output = tmp_path / "told"
    program = "import os, sys; open(sys.argv[1], 'w').write(sys.stdin.read() + str(dict(os.environ)))"
    made = rule(action="command", command=(sys.executable, "-c", program, str(output)))
    assert Watch([made], metrics, clock).tell(Notice(made, "firing", 123.0))
    assert '"value": 123.0' in output.read_text("utf-8") and "canary" not in output.read_text("utf-8")


@pytest.mark.parametrize(
    "broken",
    [
        {"action": "command", "command": (sys.executable, "-c", "raise SystemExit(3)")},
        {"action": "command", "command": ("/no/such/program",)},
        {"action": "webhook", "url": "http://127.0.0.1:9/"},
    ],
)
def test_an_action_that_fails_is_counted_and_ends_nothing(metrics, clock, broken, caplog):
    made = rule(**broken)
    with caplog.at_level(logging.ERROR, "weitiao.alerts"):
        assert not Watch([made], metrics, clock).tell(Notice(made, "firing", 1.0))
    assert "'full'" in caplog.text
    assert 'weitiao_alert_failures_total{alert="full"} 1.0' in metrics.render()


def test_in_the_event_loop_alerts_are_told_until_stopped(metrics, clock, webhook):
    made = rule(hold_seconds=0.0, action="webhook", url=f"http://127.0.0.1:{webhook.server_port}/")
    watch = Watch([made], metrics, clock, period_seconds=0.01)

    async def until(condition):
        while not condition():
            await asyncio.sleep(0.005)

    async def main():
        await watch.start()
        metrics.queue(500)
        await until(lambda: webhook.bodies)
        metrics.queue(0)
        await until(lambda: len(webhook.bodies) == 2)
        await watch.stop()
        return {task.get_name() for task in asyncio.all_tasks()}

    assert "weitiao-alerts" not in asyncio.run(asyncio.wait_for(main(), 30))
    assert [body["state"] for body in webhook.bodies] == ["firing", "resolved"]


def test_rules_are_written_for_prometheus(tmp_path):
    rules = read_rules(written(tmp_path, GOOD))
    path = tmp_path / "out" / "rules.yaml"
    write_prometheus_rules(rules, path)
    content = yaml.safe_load(path.read_text("utf-8"))
    assert content == prometheus_rules(rules)
    (group,) = content["groups"]
    first = group["rules"][0]
    assert first["alert"] == "slow answers" and first["for"] == "60s"
    assert first["labels"] == {"severity": "critical"}
    assert first["expr"].endswith("> 0.5") and "0.95" in first["expr"]
    assert 'model="reviews"' in group["rules"][1]["expr"] and "for" not in group["rules"][1]


@pytest.mark.parametrize("value", VALUES)
def test_every_value_is_valid_promql(value):
    promql = pytest.importorskip("promql_parser")
    for model in ("", 'odd "name"\\'):
        found = promql.parse(rule(value=value, model=model).promql())
        assert isinstance(found, promql.BinaryExpr)
