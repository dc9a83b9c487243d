"""IDX files, the format of MNIST: big-endian u16 0, u8 type (8: unsigned bytes), u8 dimensions, u32 each, the bytes.

Source: http://yann.lecun.com/exdb/mnist. A file may be gzipped.
"""

import gzip
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.data.files import readable

if TYPE_CHECKING:
    import numpy as np

UNSIGNED_BYTE = 8
MOST_DIMENSIONS = 4  # pictures, height, width, channels
MOST_BYTES = 4 << 30  # what a header may claim: a damaged one must not ask for all the memory there is


def read_idx(path: Path) -> "np.ndarray":
    """The array in an IDX file of unsigned bytes, uint8 of the shape that its header says.

    Raises:
        WeitiaoError: it is no such file, it is cut short, or something follows the array.
    """
    import numpy as np

    name = str(path)
    with readable(name), gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        shape = _shape(file.read(4), file.read, name)
        size = math.prod(shape)
        content = file.read(size)
        more = bool(file.read(1))
    if len(content) < size or more:
        there = say("more", "更多") if more else f"{len(content):,}"
        raise WeitiaoError(
            say(
                f"{name} is damaged: its header says {_times(shape)} = {size:,} bytes, but there are {there}. "
                "Fetch it again",
                f"{name} 已损坏：文件头写明 {_times(shape)} = {size:,} 字节，实际有 {there}。请重新获取",
            )
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape(magic: bytes, read: Callable[[int], bytes], name: str) -> tuple[int, ...]:
    """The dimensions that a header states."""
    dimensions = magic[3] if len(magic) == 4 else 0
    if magic[:3] != bytes([0, 0, UNSIGNED_BYTE]) or not 1 <= dimensions <= MOST_DIMENSIONS:
        raise WeitiaoError(
            say(
                f"{name} is not an IDX file of bytes: it begins with {magic.hex(' ') or 'nothing'}, "
                "not with 00 00 08 and 1 to 4",
                f"{name} 不是字节型 IDX 文件：开头是 {magic.hex(' ') or '空'}，应为 00 00 08 加 1 到 4",
            )
        )
    rest = read(4 * dimensions)
    if len(rest) < 4 * dimensions:
        raise WeitiaoError(
            say(
                f"{name} is damaged: it ends within its header. Fetch it again",
                f"{name} 已损坏：文件头不完整。请重新获取",
            )
        )
    shape = struct.unpack(f">{dimensions}I", rest)
    if math.prod(shape) > MOST_BYTES:
        raise WeitiaoError(
            say(
                f"{name} is damaged: its header says {_times(shape)} bytes. Fetch it again",
                f"{name} 已损坏：文件头写明 {_times(shape)} 字节。请重新获取",
            )
        )
    return shape


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape)
