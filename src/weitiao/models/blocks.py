"""Weights in blocks of 32 with a scale each, in 4 or 8 bits, as onnxruntime's products and GGUF have them.

Shapes: N outputs, K inputs, a multiple of 32.
"""

import numpy as np

BLOCK = 32


def quantise_8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``weight[n, 32 k + i] ~ scale[n, k] (q[n, k, i] - 128)``, with a scale that puts the largest at 127.

    Args:
        weight: float32 ``[N, K]``, K a multiple of 32.

    Returns:
        q uint8 ``[N, K / 32, 32]``, scale float32 ``[N, K / 32]``.
    """
    blocks = weight.reshape(len(weight), -1, BLOCK)
    scale = np.abs(blocks).max(-1) / np.float32(127)
    scale[scale == 0] = 1
    return (np.rint(blocks / scale[..., None]) + 128).astype(np.uint8), scale


def quantise_4(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``weight[n, 32 k + i] ~ scale[n, k] q[n, k, i] + least[n, k]``, from the least and the greatest of each block.

    Weights that came from Q4_1 lie on such a grid already, and get their own steps back.

    Returns:
        q uint8 ``[N, K / 32, 32]`` of 0 to 15, scale and least float32 ``[N, K / 32]``.
    """
    blocks = weight.reshape(len(weight), -1, BLOCK)
    least = blocks.min(-1)
    scale = (blocks.max(-1) - least) / np.float32(15)
    scale[scale == 0] = 1
    return np.rint((blocks - least[..., None]) / scale[..., None]).astype(np.uint8), scale, least


def pack_4(q: np.ndarray) -> np.ndarray:
    """Two to a byte, the first in the low half: ``[..., 32]`` to ``[..., 16]``."""
    return q[..., 0::2] | (q[..., 1::2] << 4)
