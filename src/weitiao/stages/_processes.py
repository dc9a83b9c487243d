"""Training in several processes: starting the others, and what can be trained so.

``weitiao finetune --processes 2`` is the main process itself and starts one more; under torchrun, or ``accelerate
launch`` on GPUs, all are there already (without a GPU the latter starts a single process). Whatever is written or said,
the main process alone does.
"""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.config import to_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent
from weitiao.core.messages import say
from weitiao.training.hooks import Hooks

if TYPE_CHECKING:
    from weitiao.stages._training import Training

END_SECONDS = 60.0  # for the others to end by themselves


def with_others(config: Any, folder: Path, events: Iterator[Event]) -> Iterator[Event]:
    """The events of the main process, while the other processes that the config wants train along.

    Raises:
        WeitiaoError: one of them ended; its last words are in it.
    """
    if config.processes < 2 or "RANK" in os.environ:
        yield from events
        return
    with tempfile.TemporaryDirectory(prefix="weitiao-") as scratch, _environment(config.processes):
        recipe = Path(scratch) / "recipe.yaml"
        recipe.write_text(
            to_yaml(dataclasses.replace(config, output=str(folder), trackers=[])), encoding="utf-8"
        )
        others = [_start(recipe, rank) for rank in range(1, config.processes)]
        try:
            yield from events
        except RuntimeError as error:  # a connection that broke
            words = [_last_words(other) for other in others]
            reason = next(filter(None, words), str(error).strip().splitlines()[0])
            raise WeitiaoError(
                say(f"The processes lost each other: {reason}", f"进程之间失去联系：{reason}")
            ) from error
        finally:
            for other in others:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    other.wait(END_SECONDS if sys.exc_info()[0] is None else 5)
                other.kill()
                other.communicate()


@contextlib.contextmanager
def _environment(count: int) -> Iterator[None]:
    """What ``accelerate`` reads to find the others, for this process; the children inherit it but for their rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "RANK": "0",
            "LOCAL_RANK": "0"}  # fmt: skip
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start(recipe: Path, rank: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "weitiao", "finetune", "--recipe", str(recipe)],
        env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def _last_words(other: "subprocess.Popen[str]") -> str:
    """The last line that a process said before it ended in failure; nothing if it did not."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        said = other.communicate(timeout=5)[1].strip().splitlines()
        return said[-1] if other.returncode and said else ""
    return ""


def settle(run: "Training") -> Iterator[Event]:
    """Refuse what cannot be parted, agree on a precision, and say where ``--cpu-offload`` has nothing to do."""
    if run.config.cpu_offload and not run.team.offload:
        yield NoteEvent(
            say(
                "--cpu-offload: there is no GPU here, so everything is in main memory as it is",
                "--cpu-offload：本机没有 GPU，所有内容本来就在内存中",
            )
        )
    if run.team.parts:
        check(run)
    if run.team.size > 1:
        run.precision = "bf16" if run.team.agreed(run.precision == "bf16") else "fp32"


def check(run: "Training") -> None:
    """Refuse what several processes, or a model that is kept apart from its GPU, cannot train as one process would.

    Raises:
        WeitiaoError: the method or the objective looks at more than a layer, or than a process's own texts.
    """
    tuning, objective = run.tuning, run.objective
    own = [
        name
        for name in ("begin", "extra_loss", "after_step")
        if getattr(type(tuning), name) is not getattr(Hooks, name)
    ]
    wrong = ""
    if own or tuning.needs_gpu:
        wrong = f"--tuning {run.config.tuning}"
    elif objective.compares_examples or objective.perturbs:
        wrong = f"--objective {run.config.objective}"
    elif run.config.optimizer != "adamw":
        wrong = f"--optimizer {run.config.optimizer}"
    elif run.epochs == 0 or run.config.start == "probe":
        wrong = "--start probe" if run.epochs else f"--tuning {run.config.tuning}"
    if wrong:
        way = "--processes" if run.team.size > 1 else "--cpu-offload"
        raise WeitiaoError(
            say(
                f"{wrong} needs one process: leave {way} out, or choose another (--tuning full and lora, "
                "--objective cross_entropy and --optimizer adamw can be parted)",
                f"{wrong} 只能用一个进程：请去掉 {way}，或另选其他方法（--tuning full、lora，--objective cross_entropy，"
                "--optimizer adamw 支持多进程）",
            )
        )
