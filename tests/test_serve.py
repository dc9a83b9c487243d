"""``weitiao serve`` as a process of its own, under load: swaps, overload, its end; and requests that leave."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from served import make_bundle

from benchmarks.load import Load, request
from weitiao import cli

TEXTS = ["good card", "very bad", "物流很快", "a b c d e f g"]


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """A server on a free port; it is killed in the end if it still runs."""
    root = Path(__file__).resolve().parents[1]
    command = [
        sys.executable,
        "-m",
        "weitiao",
        "serve",
        str(folder),
        "--port",
        "0",
        "--threads",
        "1",
        "--compute",
        "onnxruntime",
        *flags,
    ]
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                yield process, int(found.group(1))
                return
        raise AssertionError(process.stderr.read())
    finally:
        process.kill()
        process.communicate()


def predicting(port: int, **settings) -> Load:
    return Load(
        "127.0.0.1", port, [request("/predict/reviews", {"text": text}) for text in TEXTS], **settings
    )


def statuses(load: Load) -> set[int]:
    return {answer.status for answer in load.answers}


async def post(port: int, path: str, body: dict) -> dict:
    """The answer to one request, which must succeed."""
    load = Load("127.0.0.1", port, [request(path, body)], keep_bodies=True)
    answer = await load.one(await load.connect())
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


async def swapping(port: int, count: int) -> tuple[Load, dict[str, str]]:
    """Two versions take turns while eight clients ask; the answers, and the folder of each version."""
    load, going, folders = predicting(port, keep_bodies=True), True, {}

    async def swap() -> None:
        nonlocal going
        try:
            for number in range(count):
                if number % 2:
                    state = await post(port, "/admin/models/reviews/rollback", {})
                else:
                    state = await post(port, "/admin/models/reviews/load", {"folder": "v1"})
                folders[state["version"]] = state["folder"]
                wanted = len(load.answers) + 20
                while len(load.answers) < wanted:
                    await asyncio.sleep(0)
        finally:
            going = False

    await asyncio.gather(load.closed(8, lambda: going), swap())
    return load, folders


def check_swaps(load: Load, folders: dict[str, str]) -> None:
    """Every request was answered, and by one version: the label is of the version that the answer names."""
    assert statuses(load) == {200}
    for answer in load.answers:
        body = json.loads(answer.body)
        assert body["version"] == answer.version
        assert body["predictions"][0]["label"].startswith(folders[answer.version])
    assert {answer.version for answer in load.answers} == set(folders)
    assert len(folders) == 2


@pytest.fixture
def two_versions(tmp_path):
    """A model in two versions; the labels of each begin with its folder's name."""
    for name, seed in (("v1", 1), ("v2", 2)):
        make_bundle(tmp_path / "reviews" / name, labels=(f"{name} bad", f"{name} good"), seed=seed)
    return tmp_path


def test_versions_swap_under_load_without_a_failed_or_mixed_answer(two_versions):
    with serving(two_versions) as (_, port):
        check_swaps(*asyncio.run(swapping(port, 4)))


@pytest.mark.soak
def test_forty_swaps_under_load(two_versions):
    with serving(two_versions) as (_, port):
        check_swaps(*asyncio.run(swapping(port, 40)))


async def ended(process: subprocess.Popen, load: Load, clients: int, after: int) -> None:
    """SIGTERM after so many answers; each client goes on until its connection is refused."""

    async def end() -> None:
        while len(load.answers) < after:
            await asyncio.sleep(0)
        process.send_signal(signal.SIGTERM)

    await asyncio.gather(load.closed(clients, lambda: True), end())


@pytest.mark.parametrize("clients", [1, 16])
def test_sigterm_under_load_loses_nothing(tmp_path, clients):
    make_bundle(tmp_path / "reviews", burden=20)
    with serving(tmp_path) as (process, port):
        load = predicting(port)
        asyncio.run(asyncio.wait_for(ended(process, load, clients, 50), 60))
        assert process.wait(30) == 0
        assert "every request was answered" in process.stdout.read()
        assert statuses(load) == {200}


async def overloaded(port: int, clients: int, wanted: int) -> Load:
    load = predicting(port)
    await load.closed(clients, lambda: len(load.answers) < wanted)
    return load


def test_overload_is_refused_with_a_time_to_come_back_and_passes(tmp_path):
    make_bundle(tmp_path / "reviews", burden=20)
    with serving(tmp_path, "--queue", "2", "--max-batch", "1") as (_, port):
        load = asyncio.run(overloaded(port, 24, 400))
        assert statuses(load) == {200, 503}
        assert all(1 <= int(one.retry_after) <= 60 for one in load.answers if one.status == 503)
        after = asyncio.run(overloaded(port, 1, 5))
        assert statuses(after) == {200}


RULES = """
alerts:
  - {name: slow, when: p95_latency_seconds > 0.5 for 60s, severity: critical}
  - {name: odd, when: drift.length > 0.2, model: reviews}
"""


@pytest.fixture
def alerts(tmp_path):
    path = tmp_path / "alerts.yaml"
    path.write_text(RULES, encoding="utf-8")
    return path


def test_rules_are_written_for_prometheus_and_that_is_all_without_a_folder(tmp_path, alerts, capsys):
    path = tmp_path / "made" / "rules.yaml"
    assert cli.main(["serve", "--alerts", str(alerts), "--write-rules", str(path)]) == 0
    assert "2 alert rules for Prometheus:" in capsys.readouterr().out
    (group,) = yaml.safe_load(path.read_text("utf-8"))["groups"]
    slow, odd = group["rules"]
    assert slow["alert"] == "slow" and slow["for"] == "60s" and slow["labels"] == {"severity": "critical"}
    assert odd["expr"] == 'max(weitiao_drift{signal="length",model="reviews"}) > 0.2'


def test_rules_are_written_before_the_same_rules_are_watched(tmp_path, alerts):
    make_bundle(tmp_path / "deploy" / "reviews")
    path = tmp_path / "rules.yaml"
    with serving(tmp_path / "deploy", "--alerts", str(alerts), "--write-rules", str(path)) as (_, port):
        names = [rule["alert"] for rule in yaml.safe_load(path.read_text("utf-8"))["groups"][0]["rules"]]

        async def metrics() -> bytes:
            load = Load(
                "127.0.0.1", port, [b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"], keep_bodies=True
            )
            return (await load.one(await load.connect())).body

        watched = re.findall(r'weitiao_alert_firing{alert="(\w+)"', asyncio.run(metrics()).decode())
        assert sorted(watched) == sorted(names) == ["odd", "slow"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--write-rules", "rules.yaml"], "--alerts FILE"),
        (["--alerts", "alerts.yaml", "--write-rules", "./alerts.yaml"], "is the file of --alerts"),
        (["--alerts", "alerts.yaml", "--write-rules", "."], "is a folder"),
        (["--alerts", "alerts.yaml", "--write-rules", "alerts.yaml/rules.yaml"], "alerts.yaml"),
        (["--alerts", "bad.yaml", "--write-rules", "rules.yaml"], "p95_latency"),
    ],
)
def test_rules_that_cannot_be_written_are_one_clear_line(
    tmp_path, alerts, capsys, monkeypatch, flags, expected
):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("alerts: [{name: a, when: p59_latency_seconds > 1}]", encoding="utf-8")
    assert cli.main(["serve", *flags]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alerts.yaml", "bad.yaml"]
    assert alerts.read_text("utf-8") == RULES


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--host", "0.0.0.0"], "--keys"),
        (["--host", "example.com"], "--keys"),
        (["--port", "99999"], "65535"),
        (["--keys", "nowhere.toml"], "nowhere.toml"),
        (["--engine", "apache"], "uvicorn"),
        (["--alerts", "nowhere.yaml"], "nowhere.yaml"),
        ([], "holds no bundle"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(tmp_path, capsys, flags, expected):
    assert cli.main(["serve", str(tmp_path), *flags]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_a_taken_port_is_said(tmp_path, capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", str(tmp_path), "--port", str(port)]) == 2
    assert str(port) in capsys.readouterr().err
