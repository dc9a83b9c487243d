"""One picture: from a file or its bytes to pixels of the size and the colours a model reads, and to PNG for a page.

Grey PGM files (``P5``), which is what IDX pictures become in a table, and sounds (WAV), whose picture is their
spectrogram, are read without Pillow; all others need it.
"""

import base64
import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.messages import say

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".tif", ".tiff", ".wav")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
MOST_PIXELS = 100_000_000  # a small file can unfold to gigabytes
_PGM = re.compile(rb"P5 (\d+) (\d+) 255\n")


def pgm(pixels_HW: Any) -> bytes:
    """A grey picture, uint8 ``[height, width]``, as the bytes of a PGM file."""
    height, width = pixels_HW.shape
    return b"P5 %d %d 255\n" % (width, height) + pixels_HW.tobytes()


def decode(picture: str | bytes, size: int, channels: int) -> tuple[bytes, str]:
    """A picture's pixels, and what it was before where it had to be converted (``64x48 RGB``), else "".

    It is fitted into the square whole; what is then empty takes the colour of its corner. Transparent parts are white.

    Args:
        picture: a path, or the bytes of a file.
        size: height and width.
        channels: 1 (grey) or 3.

    Returns:
        ``size * size * channels`` bytes, row by row.

    Raises:
        BadRow: it can't be read as a picture; ``reason`` says why.
    """
    if isinstance(picture, bytes) and (head := _PGM.match(picture)):
        width, height = int(head[1]), int(head[2])
        if channels == 1 and width == height == size and len(picture) == head.end() + size * size:
            return picture[head.end() :], ""
    if _is_sound(picture):
        from weitiao.data.spectrogram import spectrogram

        return spectrogram(picture, size).repeat(channels).tobytes(), ""
    image = _opened(picture)
    was = f"{image.width}x{image.height} {image.mode}"
    mode = {1: "L", 3: "RGB"}[channels]
    same = image.mode == mode and image.size == (size, size)
    return _fitted(_flat(image, mode), size).tobytes(), "" if same else was


def _is_sound(picture: str | bytes) -> bool:
    if isinstance(picture, bytes):
        return picture[:4] == b"RIFF" and picture[8:12] == b"WAVE"
    return picture.lower().endswith(".wav")


def _opened(picture: str | bytes) -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise WeitiaoError(
            say("Reading pictures needs: pip install pillow", "读取图片需要 pip install pillow")
        ) from None
    shown = str(picture)[:80] if isinstance(picture, str) else f"{len(picture):,} bytes"
    try:
        with Image.open(
            io.BytesIO(picture) if isinstance(picture, bytes) else Path(picture), formats=FORMATS
        ) as image:
            if image.width * image.height > MOST_PIXELS:
                reason = say("has too many pixels", "像素过多")
                raise BadRow("image", f"{shown} {reason}: {image.width} x {image.height}")
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise BadRow("image", say(f"there is no file {shown}", f"找不到文件 {shown}")) from None
    except BadRow:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        why = str(error).split("\n")[0][:100] or type(error).__name__
        raise BadRow(
            "image", say(f"{shown} can't be read as a picture ({why})", f"{shown} 无法作为图片读取（{why}）")
        ) from None


def _flat(image: Any, mode: str) -> Any:
    """A picture in ``L`` or ``RGB``."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more, which Pillow would cut off at 255
        values = np.asarray(image, np.float64)
        top = 65535 if values.max(initial=0) > 255 else 255
        image = Image.fromarray(np.clip(values * (255 / top), 0, 255).round().astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _fitted(image: Any, size: int) -> Any:
    from PIL import Image

    if image.size == (size, size):
        return image
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.BILINEAR)
    square = Image.new(image.mode, (size, size), image.getpixel((0, 0)))
    square.paste(small, ((size - width) // 2, (size - height) // 2))
    return square


def png_uri(pixels: bytes, size: int, channels: int) -> str:
    """Pixels as ``decode`` gives them, as a PNG that a page can hold (``data:image/png;base64,...``)."""
    line = size * channels
    rows = b"".join(b"\0" + pixels[start : start + line] for start in range(0, size * line, line))
    head = struct.pack(">IIBBBBB", size, size, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()
