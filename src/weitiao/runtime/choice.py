"""Which engine runs a bundle here, and in which precision: measured once, then remembered.

``auto`` takes fp32, or bf16 where the bundle's certificate says that it costs no decision. What was
measured lies in the local cache, by bundle, processor, threads and the engines' versions.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError
from weitiao.core.home import home
from weitiao.core.messages import say
from weitiao.core.runs import write_json
from weitiao.engines.base import Engine, cores
from weitiao.runtime.bundle import Bundle

Pair = tuple[str, str]  # an engine's name and a precision
Trial = Callable[[Engine], None]
ROUNDS = 3
FASTEST_TO_START = "onnxruntime"


def open_engine(
    bundle: Bundle, engine: str, precision: str, threads: int, brief: bool, trial: Trial
) -> Engine:
    """The engine for a bundle, with its graph loaded.

    Args:
        brief: for a few texts: nothing is measured, the engine that is ready soonest is taken.
        trial: runs a typical batch, to measure by.

    Raises:
        WeitiaoError: an unknown engine, or one that is not installed or lacks the precision.
    """
    quick = catalogue.member("engines", FASTEST_TO_START)
    if brief and engine == "auto" and precision != "bf16" and quick.installed():
        engine, precision = FASTEST_TO_START, "fp32"
    pairs = candidates(bundle, engine, precision)
    if brief:
        pairs = sorted(pairs, key=lambda pair: pair[1] != "fp32")[:1]
    if len(pairs) > 1:
        key = _key(bundle, pairs, threads)
        pairs = [_remembered(key, pairs) or _measured(bundle, pairs, threads, trial, key)]
    name, chosen = pairs[0]
    return catalogue.member("engines", name)(bundle.graph, precision=chosen, threads=threads, brief=brief)


def candidates(bundle: Bundle, engine: str, precision: str) -> list[Pair]:
    """The pairs of engine and precision that fit a wish, at least one.

    Raises:
        WeitiaoError: see ``open_engine``.
    """
    names = catalogue.members("engines") if engine == "auto" else (catalogue.canonical(engine),)
    kinds = {name: catalogue.member("engines", name) for name in names}
    found = [
        (name, one)
        for name, kind in kinds.items()
        if kind.installed()
        for one in (kind.usable() if precision == "auto" else kind.precisions)
        if one == precision or (precision == "auto" and (one == "fp32" or _certified(bundle, name, one)))
    ]
    if found:
        return found
    wanted = engine if engine != "auto" else "onnxruntime"
    if not any(kind.installed() for kind in kinds.values()):
        raise WeitiaoError(
            say(
                f"The engine {wanted} is not installed: pip install {wanted}",
                f"未安装引擎 {wanted}：pip install {wanted}",
            )
        )
    raise WeitiaoError(
        say(
            f"{', '.join(kinds)} cannot compute in {precision} here. Take --precision fp32, or --engine openvino",
            f"{', '.join(kinds)} 在此无法以 {precision} 计算。请用 --precision fp32 或 --engine openvino",
        )
    )


def _certified(bundle: Bundle, name: str, precision: str) -> bool:
    """Whether the certificate says that this precision costs no decision on this engine.

    Every decision is the trained model's; or, in a bundle whose compression cost some, as many are as in fp32.
    """
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        certificate = json.loads((bundle.folder / "certificate.json").read_text(encoding="utf-8"))
        same = {entry["name"]: entry["agreement"] for entry in certificate["compared"]}
        return bool(same[f"{name} {precision}"] >= same[f"{name} fp32"])
    return False


def _measured(bundle: Bundle, pairs: list[Pair], threads: int, trial: Trial, key: Path) -> Pair:
    """The fastest pair; the seconds of each are written down."""
    seconds: dict[Pair, float] = {}
    for name, precision in pairs:
        engine = catalogue.member("engines", name)(bundle.graph, precision=precision, threads=threads)
        trial(engine)  # claims memory and chooses kernels
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            trial(engine)
            times.append(time.perf_counter() - start)
        engine.close()
        seconds[name, precision] = min(times)
    best = min(seconds, key=seconds.__getitem__)
    shown: dict[str, Any] = {f"{name} {one}": round(value, 5) for (name, one), value in seconds.items()}
    with suppress(OSError):  # a read-only home only costs the time to measure again
        write_json(key, {"engine": best[0], "precision": best[1], "seconds": shown})
    return best


def _remembered(key: Path, pairs: list[Pair]) -> Pair | None:
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(key.read_text(encoding="utf-8"))
        pair = (found["engine"], found["precision"])
        return pair if pair in pairs else None
    return None


def _key(bundle: Bundle, pairs: list[Pair], threads: int) -> Path:
    """Where the choice for these circumstances is kept."""
    versions = {name: catalogue.member("engines", name).version() for name, _ in pairs}
    facts = [bundle.version, sorted(pairs), sorted(versions.items()), threads or cores(), _processor()]
    place = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return home() / "engines" / f"{place}.json"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    import platform

    return platform.processor() or platform.machine()
