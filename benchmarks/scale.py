"""The service on Ray Serve against one process: requests a second, latency, and the death of a replica under load."""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.cold_predict import trained
from benchmarks.harness import Entry, as_range, spread

MODEL = "all-MiniLM-L6-v2"
TEXT = "A quiet film that stays with you long after it ends ."
WAYS = {
    "one process": (),
    "ray, 1 replica": ("--engine", "ray", "--min-replicas", "1", "--max-replicas", "1"),
    "ray, 2 replicas": ("--engine", "ray", "--min-replicas", "2", "--max-replicas", "2"),
}
START_SECONDS, REPLACE_SECONDS = 180, 120


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Throughput of each way, and one replica killed."""
    config = {"model": MODEL, "text": TEXT, "seconds": 8, "clients": 16, "rounds": options.rounds or 3}
    config["ways"] = {name: " ".join(way) for name, way in WAYS.items()}
    yield Entry("throughput", config, lambda: throughput(config))
    death = {"model": MODEL, "text": TEXT, "clients": 8, "deaths": options.rounds or 3}
    yield Entry("killed-replica", death, lambda: deaths(death))


def throughput(config: dict[str, Any]) -> dict[str, Any]:
    """Each way in turn, A B C A B C: a service is started anew each time, so nothing idles beside it."""

    def side(way: tuple[str, ...]) -> dict[str, float]:
        with serving(way) as service:
            clients(service, config["clients"], 3)  # warm
            found = clients(service, config["clients"], config["seconds"])
            alone = clients(service, 1, 4)
        if found["failed"] or alone["failed"]:
            raise SystemExit(f"{way}: {found['failed'] + alone['failed']} requests failed")
        return {"requests/s": found["per_second"], "p50 of one client, ms": alone["p50"] * 1000}

    rounds = harness.interleave({name: partial(side, way) for name, way in WAYS.items()}, config["rounds"])
    summary = {
        f"{name}: {what}": as_range(spread([one[what] for one in found]))
        for name, found in rounds.items()
        for what in found[0]
    }
    return {"summary": summary, "rounds": rounds}


def deaths(config: dict[str, Any]) -> dict[str, Any]:
    """One of two replicas is killed under load, again and again: what clients saw, and for how long."""
    found = []
    with serving(WAYS["ray, 2 replicas"]) as service:
        clients(service, config["clients"], 3)
        for _ in range(config["deaths"]):
            found.append(death(service, config["clients"]))
    summary = {
        "failed requests a death": as_range(spread([float(one["failed"]) for one in found])),
        "longest gap between answers, s": as_range(spread([one["gap_seconds"] for one in found])),
        "new replica after, s": as_range(spread([one["replaced_seconds"] for one in found])),
        "requests/s meanwhile / before": as_range(
            spread([one["meanwhile"] / one["before"] for one in found])
        ),
    }
    return {"summary": summary, "deaths": found}


def death(service: "Service", count: int) -> dict[str, float]:
    """Kill one replica while so many clients ask."""
    load = Clients(service, count)
    with load:
        time.sleep(5)
        before, killed = service.names(), time.perf_counter()
        os.kill(min(service.replicas()), signal.SIGKILL)
        while not service.names() - before:
            if time.perf_counter() - killed > REPLACE_SECONDS:
                raise SystemExit("no new replica")
            time.sleep(0.05)
        replaced = time.perf_counter()
        time.sleep(8)
    answered = sorted(when for when, _, ok in load.answers if ok)
    after = [killed, *(when for when in answered if when >= killed)]
    meanwhile = [when for when in answered if killed <= when < replaced]
    return {
        "failed": sum(not ok for _, _, ok in load.answers),
        "gap_seconds": max(b - a for a, b in pairwise(after)),
        "replaced_seconds": replaced - killed,
        "before": sum(when < killed for when in answered) / 5,
        "meanwhile": len(meanwhile) / max(replaced - killed, 1e-9),
    }


def clients(service: "Service", count: int, seconds: float) -> dict[str, float]:
    """So many clients, each asking again when it has its answer, for so long."""
    load = Clients(service, count)
    with load:
        time.sleep(seconds)
    good = [taken for _, taken, ok in load.answers if ok]
    return {
        "per_second": len(good) / seconds,
        "p50": statistics.median(good) if good else float("nan"),
        "failed": len(load.answers) - len(good),
    }


class Clients:
    """Clients on threads of this process, while a block runs: ``(end, seconds, answered)`` of each request."""

    def __init__(self, service: "Service", count: int) -> None:
        self.service, self.stop = service, threading.Event()
        self.answers: list[tuple[float, float, bool]] = []
        self.threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _ask(self) -> None:
        import http.client

        address = self.service.address.removeprefix("http://")
        body = json.dumps({"text": TEXT})
        connection = http.client.HTTPConnection(address, timeout=60)
        while not self.stop.is_set():
            start = time.perf_counter()
            try:
                connection.request("POST", "/predict/model", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                ok = answer.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
                ok = False
            self.answers.append((time.perf_counter(), time.perf_counter() - start, ok))


@dataclass
class Service:
    """A running ``weitiao serve`` and the mark by which its processes are known."""

    address: str
    mark: str

    def replicas(self) -> set[int]:
        """The processes that are replicas of this service."""
        return {process for process in marked(self.mark) if b"ServeReplica" in command_line(process)}

    def names(self) -> set[str]:
        """The replicas that have told their metrics: those that answer, and for some seconds those that did."""
        try:
            with urllib.request.urlopen(f"{self.address}/metrics", timeout=30) as answer:
                return set(re.findall(r'weitiao_memory_bytes{replica="(\w+)"}', answer.read().decode()))
        except OSError:  # asked of the very replica that was killed
            return set()


@contextmanager
def serving(way: tuple[str, ...]) -> Iterator[Service]:
    """``weitiao serve`` in a process of its own, until the block ends."""
    name, value = "WEITIAO_BENCHMARK", str(uuid.uuid4())
    command = [sys.executable, "-m", "weitiao", "serve", str(bundles()), "--port", "0", *way]
    environment = os.environ | {name: value, "PYTHONPATH": str(harness.ROOT / "src"), "WEITIAO_LANG": "en"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        seen: list[str] = []
        for line in process.stdout or ():
            seen.append(line)
            if found := re.search(r"Serving on (\S+)", line):
                break
        else:
            raise SystemExit("".join(seen)[-2000:])
        watchdog.cancel()
        threading.Thread(target=process.stdout.read, daemon=True).start()  # type: ignore[union-attr]
        wait_until_ready(found[1])
        yield Service(found[1], f"{name}={value}")
    finally:
        watchdog.cancel()
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        for left in marked(f"{name}={value}"):
            os.kill(left, signal.SIGKILL)


def wait_until_ready(address: str) -> None:
    """Return when the service says that it is ready."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{address}/v2/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{address} is not ready")


def marked(mark: str) -> set[int]:
    """The processes with this in their environment."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def command_line(process: int) -> bytes:
    """A process's command line, empty where it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def bundles() -> Path:
    """A folder with one exported classifier, made once."""
    folder = harness.SCRATCH / "scale"
    if not (folder / "model" / "bundle.json").exists():
        run = trained(MODEL)
        command = [sys.executable, "-m", "weitiao", "export", str(run), "--output", str(folder / "model")]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(harness.ROOT / "src")})
    return folder
