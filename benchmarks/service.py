"""The service under load: micro-batching against none, overload, hot swaps, and its end.

Each server is ``weitiao serve`` as a process of its own; the load comes from ``benchmarks.load`` in another.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data, harness
from benchmarks.cold_predict import trained
from benchmarks.harness import Entry, as_range, ratio, spread
from weitiao.core import catalogue

CLIENTS = 32
SECONDS = 5.0
OVERLOAD_SECONDS = 30.0
PARITY_TEXTS = 500


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Batching and parity on short questions, overload on long texts, swaps and ends on a small model."""
    rounds = options.rounds or 3
    for model in ("all-MiniLM-L6-v2", "multilingual-e5-small", "bert-base-dims"):
        config = {"model": model, "texts": "banking77 test, at most 60 characters", "clients": CLIENTS,
                  "rounds": rounds, "seconds": SECONDS, "compute": "onnxruntime fp32"}  # fmt: skip
        yield Entry(f"batching-{model}", config, lambda config=config: batching(config))
        if "bf16" in catalogue.member("engines", "openvino").usable():
            low = config | {"compute": "openvino bf16"}
            yield Entry(f"batching-{model}-bf16", low, lambda low=low: batching(low))
        yield Entry(f"parity-{model}", config, lambda config=config: parity(config))
    overload_config = {"model": "multilingual-e5-small", "texts": "sst2 test, four joined", "times": 10,
                       "seconds": OVERLOAD_SECONDS, "queue": 32}  # fmt: skip
    yield Entry("overload", overload_config, lambda: overload(overload_config))
    swap_config = {"model": "all-MiniLM-L6-v2", "clients": 16, "swaps": 20}
    yield Entry("swaps", swap_config, lambda: swaps(swap_config))
    end_config = {"model": "all-MiniLM-L6-v2", "clients": CLIENTS, "rounds": 5}
    yield Entry("sigterm", end_config, lambda: sigterm(end_config))


def batching(config: dict[str, Any]) -> dict[str, Any]:
    """Requests a second of the same service with batches of up to 32 and without, A B A B."""
    texts = questions()
    engine, precision = config["compute"].split()
    how = ("--compute", engine, "--precision", precision)
    with ExitStack() as stack:
        folder = bundle(config["model"])
        sides = {
            "batched": stack.enter_context(serving(folder, *how)),
            "unbatched": stack.enter_context(serving(folder, *how, "--max-batch", "1")),
        }
        plan = {
            "path": f"/predict/{folder.name}",
            "texts": texts,
            "clients": CLIENTS,
            "seconds": config["seconds"],
            "warm": 1,
        }
        calls = {name: lambda port=server.port: load(plan | {"port": port}) for name, server in sides.items()}
        found = harness.interleave(calls, config["rounds"])
        alone = {name: load(plan | {"port": server.port, "clients": 1}) for name, server in sides.items()}
    rates = {name: [one["per_second"] for one in runs] for name, runs in found.items()}
    summary: dict[str, Any] = {
        f"{name} requests/s": as_range(spread(values)) for name, values in rates.items()
    }
    summary["batched / unbatched"] = as_range(ratio(rates["batched"], rates["unbatched"]))
    for name, runs in found.items():
        summary[f"{name} p50 ms"] = 1000 * statistics.median(one["seconds"]["p50"] for one in runs)
        summary[f"{name} p99 ms"] = 1000 * statistics.median(one["seconds"]["p99"] for one in runs)
    by_size = engine_alone(folder, texts, engine, precision)
    summary["engine alone, texts/s, 32 at a time / one"] = f"{by_size[32]:.0f} / {by_size[1]:.0f}"
    summary["engine alone, 32 at a time / one"] = by_size[32] / by_size[1]
    summary["one client, p50 ms, batched"] = 1000 * alone["batched"]["seconds"]["p50"]
    return {"summary": summary, "runs": found, "one client": alone}


def engine_alone(folder: Path, texts: Sequence[str], engine: str, precision: str) -> dict[int, float]:
    """Texts a second without any service, 32 at a time and one at a time: what batching can gain at most here."""
    from weitiao.runtime import load as load_bundle

    predictor, found = load_bundle(folder, engine=engine, precision=precision), {}
    for size in (32, 1, 32, 1):
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < 2:
            at = done % (len(texts) - size)
            predictor.predict(texts[at : at + size])
            done += size
        found[size] = max(found.get(size, 0.0), done / (time.perf_counter() - start))
    return found


def parity(config: dict[str, Any]) -> dict[str, Any]:
    """Logits of texts sent by 32 clients at once, in batches, against the same texts one at a time."""
    texts, folder = questions()[:PARITY_TEXTS], bundle(config["model"])
    with serving(folder, "--compute", "onnxruntime") as server:
        plan = {"port": server.port, "texts": texts, "infer": folder.name, "count": len(texts)}
        together = logits(plan | {"clients": CLIENTS})
        alone = logits(plan | {"clients": 1})
    difference = float(np.abs(together - alone).max())
    same = float((together.argmax(1) == alone.argmax(1)).mean())
    summary = {
        "texts": len(texts),
        "same decision": f"{100 * same:.2f} %",
        "largest difference": f"{difference:.1e}",
    }
    return {"summary": summary}


def logits(plan: dict[str, Any]) -> np.ndarray:
    """The logits of the texts in order ``[N, C]``."""
    with tempfile.NamedTemporaryFile(suffix=".json") as kept:
        load(plan | {"keep": kept.name})
        rows = json.loads(Path(kept.name).read_text("utf-8"))
    found: dict[int, list[float]] = {}
    for _, _, status, number, _, body in rows:
        if status != 200:
            raise SystemExit(f"status {status}: {body[:200]}")
        found[number] = json.loads(body)["outputs"][0]["data"]
    return np.array([found[number] for number in range(len(plan["texts"]))])


def overload(config: dict[str, Any]) -> dict[str, Any]:
    """Ten times what the service can answer, for 30 s: refusals, memory, and the time until all is well again."""
    folder, texts = bundle(config["model"]), long_texts()
    with serving(folder, "--queue", str(config["queue"])) as server:
        plan = {"port": server.port, "path": f"/predict/{folder.name}", "texts": texts}
        able = load(plan | {"clients": CLIENTS, "seconds": 8, "warm": 2})["per_second"]
        rate = config["times"] * able
        load(plan | {"rate": rate, "seconds": 5})  # once before: what memory it takes at all is taken here
        before = server.resident()
        with sampled(server.resident) as seen:
            found = load(plan | {"rate": rate, "seconds": config["seconds"]})
        start, recovered = time.perf_counter(), 0.0
        while not recovered and time.perf_counter() - start < 30:
            recovered = (
                (time.perf_counter() - start) if ask(server.port, folder.name, texts[0]) == 200 else 0.0
            )
    grown = (max(seen) - before) / 1e6
    refused = found["refused_seconds"]
    summary = {
        "able, requests/s": able,
        "offered, requests/s": rate,
        "answered / refused / broken": " / ".join(
            str(found["statuses"].get(key, 0)) for key in ("200", "503", "0")
        ),
        "other statuses": sum(
            count for key, count in found["statuses"].items() if key not in ("200", "503", "0")
        ),
        "not sent": found["not_sent"],
        "refused p50 ms": 1000 * refused["p50"],
        "refused p99 ms": 1000 * refused["p99"],
        "refused most ms": 1000 * refused["most"],
        "without Retry-After": found["refused_without_retry_after"],
        "resident MB before": before / 1e6,
        "grown by MB": grown,
        "recovered after s": recovered,
    }
    return {"summary": summary, "load": found, "resident": seen}


def swaps(config: dict[str, Any]) -> dict[str, Any]:
    """Twenty swaps of two versions whose labels differ, under load; no failed request, no mixed answer."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = two_versions(Path(scratch) / "deploy", bundle(config["model"]))
        kept, seen, took = Path(scratch) / "answers.json", {}, []
        with serving(folder) as server:
            plan = {"port": server.port, "path": "/predict/reviews", "texts": questions(), "clients": config["clients"],
                    "seconds": 3600, "keep": str(kept), "until": str(Path(scratch) / "stop")}  # fmt: skip
            load_process = started_load(plan)
            for number in range(config["swaps"]):
                time.sleep(0.5)
                start = time.perf_counter()
                state = post(server.port, "/admin/models/reviews/load", {"folder": ("v1", "v2")[number % 2]})
                took.append(time.perf_counter() - start)
                seen[state["version"]] = state["folder"]
            Path(plan["until"]).touch()
            found = finished(load_process)
            rows = json.loads(kept.read_text("utf-8"))
    mixed = 0
    for _, _, status, _, version, body in rows:
        if status == 200:
            label = json.loads(body)["predictions"][0]["label"]
            mixed += json.loads(body)["version"] != version or not label.startswith(seen[version])
    summary = {
        "swaps": config["swaps"],
        "requests": len(rows),
        "failed": sum(row[2] != 200 for row in rows),
        "mixed": mixed,
        "versions seen": len({row[4] for row in rows}),
        "a swap takes s": as_range(spread(took)),
    }
    return {"summary": summary, "load": found}


def sigterm(config: dict[str, Any]) -> dict[str, Any]:
    """SIGTERM while 32 clients ask, which go on until they are refused a connection."""
    folder, codes, broken, answered, took = bundle(config["model"]), [], 0, 0, []
    for _ in range(config["rounds"]):
        with serving(folder) as server:
            plan = {
                "port": server.port,
                "path": f"/predict/{folder.name}",
                "texts": questions(),
                "clients": CLIENTS,
            }
            load_process = started_load(plan | {"seconds": 30})
            time.sleep(2.0)
            start = time.perf_counter()
            server.process.send_signal(signal.SIGTERM)
            codes.append(server.process.wait(60))
            took.append(time.perf_counter() - start)
            statuses = finished(load_process)["statuses"]
            answered += statuses.get("200", 0)
            broken += sum(count for status, count in statuses.items() if status != "200")
    summary = {
        "ends": config["rounds"],
        "answered": answered,
        "lost or failed": broken,
        "exit codes": str(sorted(set(codes))),
        "seconds to the end": as_range(spread(took)),
    }
    return {"summary": summary}


class Server:
    """A running ``weitiao serve``."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process, self.port = process, port

    def resident(self) -> int:
        """Bytes of resident memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Server]:
    """A server on a free port."""
    command = [sys.executable, "-m", "weitiao", "serve", str(folder), "--port", "0", *flags]
    environment = os.environ | {"PYTHONPATH": str(harness.ROOT / "src"), "WEITIAO_LANG": "en"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            address = next((line for line in lines if "http://" in line), "")
            if not address:
                log.seek(0)
                raise SystemExit(log.read())
            yield Server(process, int(address.split("http://", 1)[1].split()[0].rsplit(":", 1)[1]))
        finally:
            process.terminate()
            process.communicate(timeout=60)


def started_load(plan: dict[str, Any]) -> "subprocess.Popen[str]":
    """``benchmarks.load`` in its own process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=harness.ROOT,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan))
    process.stdin.close()
    return process


def finished(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What a load generator found."""
    assert process.stdout is not None
    found = process.stdout.read()
    if process.wait():
        raise SystemExit("the load generator failed")
    return json.loads(found)


def load(plan: dict[str, Any]) -> dict[str, Any]:
    """Run a load to its end."""
    return finished(started_load(plan))


def post(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One request of ours."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def ask(port: int, model: str, text: str) -> int:
    """The status of one prediction."""
    try:
        post(port, f"/predict/{model}", {"text": text})
    except urllib.error.HTTPError as error:
        return error.code
    return 200


@contextmanager
def sampled(measure: Callable[[], int]) -> Iterator[list[int]]:
    """What ``measure`` says ten times a second while the block runs."""
    seen, done = [measure()], threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            seen.append(measure())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def bundle(model: str) -> Path:
    """The bundle of a small classifier, made once."""
    folder = harness.SCRATCH / f"service-{model}"
    if model == "bert-base-dims":  # made by the benchmark of inference
        folder = harness.SCRATCH / "inference" / f"{model}-bundle"
    if not (folder / "bundle.json").exists():
        from weitiao.core.config import build
        from weitiao.stages import export

        for _ in export.run(build(export.Config, {"run": str(trained(model)), "output": str(folder)})):
            pass
    return folder


def two_versions(folder: Path, source: Path) -> Path:
    """A model's bundle twice, the labels of each beginning with its version's folder."""
    for name in ("v1", "v2"):
        new = folder / "reviews" / name
        shutil.copytree(source, new)
        manifest = json.loads((new / "bundle.json").read_text("utf-8"))
        answers = manifest["answers"] | {
            "names": [f"{name} {label}" for label in manifest["answers"]["names"]]
        }
        (new / "README.md").write_text(f"Version {name}\n", "utf-8")
        from weitiao.runtime.bundle import seal

        seal(new, {key: value for key, value in manifest.items() if key != "files"} | {"answers": answers})
    return folder


def questions() -> list[str]:
    """Short questions of banking77's test set."""
    texts: Sequence[dict[str, Any]] = data.DATASETS["banking77"].read("test")
    return [row["text"] for row in texts if len(row["text"]) <= 60]


def long_texts() -> list[str]:
    """Four sentences of SST-2's test set at a time."""
    texts = [row["text"] for row in data.DATASETS["sst2"].read("test")]
    return [" ".join(texts[start : start + 4]) for start in range(0, 800, 4)]
