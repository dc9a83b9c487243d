"""The contract of an engine: a graph's file in, arrays in and out; no torch.

A member imports its library when it is made, so that listing engines costs nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

PRECISIONS = ("fp32", "bf16")


class Engine(ABC):
    """A graph, loaded and ready. ``precision`` is the one it computes in; ``name`` the member's."""

    name: ClassVar[str]
    library: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    @abstractmethod
    def __init__(
        self, graph: Path, *, precision: str = "fp32", threads: int = 0, brief: bool = False
    ) -> None:
        """Load a graph.

        Args:
            precision: what matrix products are computed in, one of ``precisions``. Integer weights stay integers.
            threads: at most so many; 0: one for each core this process may use.
            brief: a few runs only: be ready sooner, even if each run takes longer.

        Raises:
            WeitiaoError: the library refuses the graph.
        """

    @abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """The named outputs for named inputs, each an array of its own."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the graph."""

    @classmethod
    def installed(cls) -> bool:
        """Whether the library is there. Does not import it."""
        return find_spec(cls.library) is not None

    @classmethod
    def usable(cls) -> tuple[str, ...]:
        """The precisions that this processor computes in directly."""
        return cls.precisions if has_bf16() else tuple(p for p in cls.precisions if p != "bf16")

    @classmethod
    def version(cls) -> str:
        """The library's version."""
        from importlib.metadata import version

        return version(cls.library)


def cores() -> int:
    """The cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def has_bf16() -> bool:
    """Whether the processor multiplies in bf16 (AVX-512 BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def first_line(error: BaseException) -> str:
    """The first line of a library's error, short enough for a message."""
    text: Any = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
