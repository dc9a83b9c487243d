"""What this machine can do: threads, the faster precision, memory."""

import os
import time
from typing import Any


def set_threads(threads: int) -> int:
    """Use this many threads (0: leave torch's choice). Returns the number in use."""
    import torch

    if threads > 0:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def keep_freed_memory() -> None:
    """Let the C library keep freed memory instead of giving it back to the system after each large tensor.

    Measured here (LAB_LOG.md): a step on short texts is a fifth faster, because fresh pages are costly. Does nothing
    where the C library is not glibc.
    """
    import contextlib
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def pick_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_precision(wish: str, device: str) -> str:
    """``bf16`` or ``fp32``. ``auto`` measures a matrix product in both and takes bf16 where it is 1.2x as fast."""
    import torch

    if wish != "auto":
        return wish
    if device != "cpu":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return (
        "bf16"
        if gemm_flops_per_second(torch.bfloat16) > 1.2 * gemm_flops_per_second(torch.float32)
        else "fp32"
    )


def gemm_flops_per_second(
    dtype: Any, size: tuple[int, int, int] = (512, 384, 1536), repeats: int = 7
) -> float:
    """The rate of one [m, k] x [k, n] matrix product here: the median of some runs after a warm-up."""
    import torch

    m, k, n = size
    a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * m * k * n / sorted(seconds[2:])[repeats // 2]


def peak_memory_bytes() -> int:
    """The most memory this process has held resident."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def gpu_peak_bytes(device: str) -> int:
    """The most memory this process has held on a GPU; 0 where it computes on the processor."""
    if device == "cpu":
        return 0
    import torch

    return int(torch.cuda.max_memory_allocated())


def forget_peak_memory() -> bool:
    """Begin a new ``peak_memory_bytes`` from what is in use now. Returns whether the system can do that (Linux)."""
    import contextlib
    import ctypes
    import gc

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what ``keep_freed_memory`` keeps would count
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def resident_bytes() -> int:
    """The memory this process holds resident now, or 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def free_memory_bytes() -> int:
    """Memory a new allocation can have, or 0 where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
