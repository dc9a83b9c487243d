"""Kernels in C for CPUs with AVX-512 BF16: attention, and dropout + residual + LayerNorm, each in one pass.

Those of decoders are called in ``native_decoder``. All are compiled once, by the machine's own C compiler, into the
cache folder. Where there is no compiler or the processor lacks the instructions, or with ``WEITIAO_NATIVE=0``,
``kernels`` and ``causal`` compute the same with torch's operations.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weitiao.core.sources import home

FOLDER = Path(__file__).parent
SOURCES = (FOLDER / "native.c", FOLDER / "native_decoder.c")
HEADER = FOLDER / "native.h"
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")


@cache
def library() -> Any:
    """The compiled kernels, or None where they can't be had."""
    if os.environ.get("WEITIAO_NATIVE", "1") == "0" or not _processor_can():
        return None
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    with suppress(OSError, subprocess.SubprocessError):
        return ctypes.CDLL(str(_compiled(compiler)))
    return None


def _processor_can() -> bool:
    with suppress(OSError), open("/proc/cpuinfo") as file:
        return any("avx512_bf16" in line for line in file if line.startswith("flags"))
    return False


def _compiled(compiler: str) -> Path:
    """The library's file: from the cache, or compiled into it. Its name holds all that it depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=30).stdout
    processor = b"".join(
        line for line in Path("/proc/cpuinfo").read_bytes().splitlines() if line.startswith(b"flags")
    )[:4096]
    sources = b"".join(path.read_bytes() for path in (HEADER, *SOURCES))
    parts = (sources, version, processor, " ".join(FLAGS).encode())
    name = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]
    path = home() / "kernels" / f"{name}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            command = [compiler, *FLAGS, *map(str, SOURCES), "-o", str(new), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
    return path


def pointers(*values: Tensor | int | float | None) -> list[Any]:
    """Arguments for C: tensors as pointers (None: NULL), whole numbers as long, others as float."""
    return [
        ctypes.c_void_p(None if value is None else value.data_ptr())
        if value is None or isinstance(value, Tensor)
        else ctypes.c_long(value)
        if isinstance(value, int)
        else ctypes.c_float(value)
        for value in values
    ]


def attention_forward(
    qkv_T3D: Tensor, starts_B: Tensor, lengths_B: Tensor, heads: int, key: int, p: float, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """softmax(q k' / sqrt(d)) v within each text: ``([T, D] bf16, log-sum-exp of the scores [T, H] fp32)``.

    With ``causal`` over each token's earlier ones and itself.
    """
    tokens, size = qkv_T3D.shape[0], qkv_T3D.shape[1] // 3
    out_TD, lse_TH = qkv_T3D.new_empty(tokens, size), torch.empty(tokens, heads)
    q, k, v = qkv_T3D.split(size, 1)
    library().attention_forward(
        *pointers(q, k, v, 3 * size, starts_B, lengths_B, len(starts_B), heads, size // heads, int(causal)),
        *_dropout(key, p),
        *pointers(out_TD, lse_TH),
    )
    return out_TD, lse_TH


def attention_backward(
    qkv_T3D: Tensor,
    starts_B: Tensor,
    lengths_B: Tensor,
    heads: int,
    key: int,
    p: float,
    out_TD: Tensor,
    lse_TH: Tensor,
    grad_TD: Tensor,
    causal: bool = False,
) -> Tensor:
    """The gradient of ``qkv_T3D``."""
    size = out_TD.shape[1]
    grad_T3D = torch.empty_like(qkv_T3D)
    library().attention_backward(
        *pointers(
            *qkv_T3D.split(size, 1),
            3 * size,
            starts_B,
            lengths_B,
            len(starts_B),
            heads,
            size // heads,
            int(causal),
        ),
        *_dropout(key, p),
        *pointers(out_TD, lse_TH, grad_TD, *grad_T3D.split(size, 1)),
    )
    return grad_T3D


def norm_forward(
    x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float, key: int, p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm(residual + dropout(x)): ``([T, D] bf16, mean [T], 1 / standard deviation [T])``."""
    tokens, size = x_TD.shape
    y_TD, mean_T, rstd_T = torch.empty_like(x_TD), torch.empty(tokens), torch.empty(tokens)
    library().norm_forward(
        *pointers(x_TD, residual_TD, weight_D, bias_D, eps, tokens, size),
        *_dropout(key, p),
        *pointers(y_TD, mean_T, rstd_T),
    )
    return y_TD, mean_T, rstd_T


def norm_backward(
    x_TD: Tensor,
    residual_TD: Tensor,
    weight_D: Tensor,
    mean_T: Tensor,
    rstd_T: Tensor,
    key: int,
    p: float,
    grad_TD: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, residual, weight and bias; without dropout the first two are one tensor."""
    tokens, size = x_TD.shape
    parts = torch.get_num_threads()
    g_residual = torch.empty_like(x_TD)
    g_x = torch.empty_like(x_TD) if p > 0 else g_residual
    g_weight, g_bias = torch.empty(parts, size), torch.empty(parts, size)
    library().norm_backward(
        *pointers(x_TD, residual_TD, weight_D, mean_T, rstd_T, tokens, size),
        *_dropout(key, p),
        *pointers(grad_TD, g_residual, g_x, parts, g_weight, g_bias),
    )
    return g_x, g_residual, g_weight.sum(0), g_bias.sum(0)


def column_sums(x_TD: Tensor) -> Tensor:
    """The sum over the rows of a bf16 ``[T, D]``, in fp32."""
    parts = torch.get_num_threads()
    out = torch.empty(parts, x_TD.shape[1])
    library().column_sums(*pointers(x_TD, *x_TD.shape, parts, out))
    return out.sum(0)


def _dropout(key: int, p: float) -> list[Any]:
    """(key, limit, factor) for C: an element is dropped where its 32 random bits are below the limit."""
    return [
        ctypes.c_uint32(key & 0xFFFFFFFF),
        ctypes.c_uint32(round(p * 2**32)),
        ctypes.c_float(1 / (1 - p)),
    ]
