"""The service on Ray Serve, started as a user starts it: one answer from many processes, and the death of one of them.

What starts Ray is for ``make soak``: beside another worker on two cores its own time limits run out now and then.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from pathlib import Path

import pytest
from served import make_bundle

from weitiao.core.errors import WeitiaoError
from weitiao.runtime import load

pytest.importorskip("ray")
from weitiao.service.ray_app import Scale, too_many

TEXTS = ["the card is good", "物流很快", "bad"]
START_SECONDS, REPLACE_SECONDS = 180, 150  # when to give up: a busy machine must not fail a test
CLIENTS = 2


class Served:
    """``weitiao serve --engine ray`` as a process, with all that descends from it."""

    def __init__(self, folder: Path, *options: str) -> None:
        # Ray's processes inherit the environment: so they are known, and no others.
        self.mark = f"WEITIAO_TEST={uuid.uuid4()}"
        name, value = self.mark.split("=")
        command = [sys.executable, "-m", "weitiao", "serve", str(folder), "--engine", "ray", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {name: value},
        )
        self.lines: list[str] = []
        self.ready, self.address = threading.Event(), ""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        if not self.ready.wait(START_SECONDS) or not self.address:
            self.end(signal.SIGKILL)
            raise AssertionError("".join(self.lines)[-3000:])

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"Serving on (\S+)", line):
                self.address = found[1]
                self.ready.set()
        self.ready.set()

    def processes(self, title: str = "") -> set[int]:
        """The living processes of this service, or those of them whose command line has ``title``."""
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                ours = self.mark.encode() in (folder / "environ").read_bytes().split(b"\0")
                if ours and title.encode() in (folder / "cmdline").read_bytes() and alive(folder):
                    found.add(int(folder.name))
            except OSError:  # it ended, or is another user's
                continue
        return found

    def replicas(self) -> set[int]:
        return self.processes("ServeReplica")

    def post(self, path: str, body: object) -> dict:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            return answer.read().decode()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the first process and wait for its end; whatever is left of the others is killed."""
        try:
            self.process.send_signal(number)
            return self.process.wait(90)
        finally:
            for process in self.processes():
                os.kill(process, signal.SIGKILL)
            self.reader.join(30)


def alive(folder: Path) -> bool:
    """Whether a process is more than a name that its parent hasn't asked about yet."""
    return (folder / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


class Load:
    """Clients that ask one after the other until told to stop; what they were answered, by outcome and time."""

    def __init__(self, served: Served, model: str, expected: dict, clients: int = CLIENTS) -> None:
        self.served, self.model, self.expected = served, model, expected
        self.stop = threading.Event()
        self.outcomes: list[tuple[float, str]] = []
        self.threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _ask(self) -> None:
        while not self.stop.is_set():
            try:
                answer = self.served.post(f"/predict/{self.model}", {"texts": TEXTS[:1]})
                outcome = "right" if answer["predictions"][0]["label"] == self.expected["label"] else "wrong"
            except (urllib.error.URLError, OSError) as error:
                outcome = f"failed: {error}"
            self.outcomes.append((time.monotonic(), outcome))

    def count(self, since: float = 0.0) -> Counter:
        return Counter(outcome.partition(":")[0] for when, outcome in list(self.outcomes) if when >= since)


def until(condition, seconds):
    """Wait for a condition; returns whether it came."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("served")
    make_bundle(made / "reviews")
    make_bundle(made / "topics", ("a", "b", "c"), seed=1)
    return made


@pytest.fixture(scope="module")
def expected(folder):
    predictor = load(folder / "reviews")
    yield predictor.predict(TEXTS)
    predictor.close()


@pytest.fixture(scope="module")
def served(folder):
    made = Served(folder, "--min-replicas", "2", "--max-replicas", "2")
    yield made
    made.end(signal.SIGKILL)


@pytest.mark.soak
def test_replicas_answer_as_one_process_does(served, expected):
    assert len(served.replicas()) == 2
    for _ in range(6):
        found = served.post("/predict/reviews", {"texts": TEXTS})["predictions"]
        assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
        assert [answer["score"] for answer in found] == pytest.approx(
            [answer["score"] for answer in expected]
        )
    assert json.loads(served.get("/v2/health/ready"))["ready"] is True


@pytest.mark.soak
def test_metrics_tell_of_all_replicas(served):
    for _ in range(20):
        served.post("/predict/topics", {"texts": TEXTS})

    def both() -> bool:
        pattern = r'weitiao_requests_total{replica="(\w+)",model="topics".*?} (\S+)'
        found = dict(re.findall(pattern, served.get("/metrics").replace('route="/predict/{model}",', "")))
        return len(found) == 2 and sum(map(float, found.values())) == 20

    assert until(both, 20), served.get("/metrics")


def kill_one(served, load_of_clients):
    """Kill one replica; when it happened, and the outcomes until another had taken its place."""
    before = served.replicas()
    assert until(lambda: load_of_clients.count()["right"] >= 20, 30)
    killed = time.monotonic()
    os.kill(min(before), signal.SIGKILL)
    assert until(lambda: len(served.replicas() - before) == 1, REPLACE_SECONDS), served.replicas()
    return killed, load_of_clients.count(killed)


@pytest.mark.soak
def test_a_killed_replica_is_replaced_while_the_other_answers(served, expected):
    with Load(served, "reviews", expected[0]) as clients:
        killed, meanwhile = kill_one(served, clients)
        replaced = time.monotonic()
        assert until(lambda: clients.count(replaced)["right"] >= 100, REPLACE_SECONDS)
    assert meanwhile["right"] >= 20  # it kept answering
    total = clients.count(killed)
    assert not total["wrong"]
    # What the killed process had in hand is lost with it: at most one request of each client.
    assert total["failed"] <= CLIENTS, [outcome for _, outcome in clients.outcomes if "failed" in outcome]
    assert clients.count(replaced)["failed"] == 0


@pytest.mark.soak
def test_after_sigterm_no_process_is_left(served):
    everything = served.processes()
    assert len(everything) > 4
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(90) == 0, "".join(served.lines)[-2000:]
    assert until(lambda: not served.processes(), 30), served.processes()
    served.reader.join(30)
    assert any("Stopped" in line for line in served.lines)


@pytest.mark.soak
def test_five_deaths_under_load(folder, expected):
    served = Served(folder, "--min-replicas", "2", "--max-replicas", "2")
    try:
        with Load(served, "reviews", expected[0]) as clients:
            for death in range(1, 6):
                kill_one(served, clients)
                now = time.monotonic()
                assert until(lambda now=now: clients.count(now)["right"] >= 50, REPLACE_SECONDS)
                assert clients.count()["failed"] <= CLIENTS * death
        assert not clients.count()["wrong"]
    finally:
        served.end()
    assert not served.processes()


@pytest.mark.soak
def test_a_crowd_starts_another_replica(folder, expected):
    served = Served(folder, "--min-replicas", "1", "--max-replicas", "2")
    try:
        assert len(served.replicas()) == 1
        with Load(served, "reviews", expected[0], clients=48) as clients:
            assert until(lambda: len(served.replicas()) == 2, REPLACE_SECONDS)
        assert clients.count().keys() == {"right"}
    finally:
        served.end()


@pytest.mark.soak
def test_a_driver_that_is_killed_leaves_no_process(folder):
    served = Served(folder, "--max-replicas", "1")
    served.process.kill()
    served.process.wait()
    try:
        assert until(lambda: not served.processes(), 60), served.processes()
    finally:
        served.end(signal.SIGKILL)


def started(*arguments):
    command = [sys.executable, "-m", "weitiao", "serve", *map(str, arguments), "--engine", "ray"]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_mistakes_are_told_before_ray_is_started(folder, tmp_path):
    for arguments, expected in (
        ((tmp_path,), "no bundle"),
        ((folder, "--min-replicas", "3", "--max-replicas", "2"), "--min-replicas 3"),
        ((folder, "--alerts", tmp_path / "none.yaml"), "none.yaml"),
    ):
        done = started(*arguments)
        assert done.returncode == 2, done.stderr
        assert expected in done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr


@pytest.mark.soak
def test_what_fails_in_a_replica_is_one_line_too(folder, tmp_path):
    (tmp_path / "audit").write_text("no database, and no head", encoding="utf-8")
    done = started(folder, "--audit", tmp_path / "audit")
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("weitiao: Ray could not start the service") and "audit" in last


def test_more_replicas_than_the_machine_holds_are_pointed_out(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert too_many(Scale(1, 2)) == ""
    assert "room for 2" in too_many(Scale(1, 8))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert too_many(Scale(1, 8)) == ""
    with pytest.raises(WeitiaoError, match="min-replicas 3"):
        Scale(3, 2).check()
