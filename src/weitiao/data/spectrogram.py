"""A sound as a picture: the loudness of each pitch over time, so that what reads pictures can read speech.

WAV files of whole numbers (8 to 32 bits), read with the standard library; the spectrogram needs numpy. Frames under
a Hann window, power in triangular bands on the mel scale (Stevens et al. 1937; 2595 log10(1 + f / 700)), in decibels
below the loudest. Time is stretched so that a whole recording fills the picture; low pitches are at the bottom.
"""

import io
import wave
from pathlib import Path

import numpy as np

from weitiao.core.errors import BadRow
from weitiao.core.messages import say

WINDOW_SECONDS = 0.032
RANGE_DECIBELS = 70.0  # below the loudest, which is white; what is softer is black
MOST_SECONDS = 30.0


def spectrogram(sound: str | bytes, size: int) -> np.ndarray:
    """The picture of a sound, uint8 ``[size, size]``.

    Args:
        sound: a path, or the bytes of a WAV file.

    Raises:
        BadRow: it can't be read, is empty, or is longer than ``MOST_SECONDS``.
    """
    samples, rate = _samples(sound)
    length = max(16, round(WINDOW_SECONDS * rate))
    samples = np.pad(samples, (0, max(0, length - len(samples))))
    starts = np.linspace(0, len(samples) - length, size).round().astype(int)
    frames = samples[starts[:, None] + np.arange(length)] * np.hanning(length)
    points = 1 << (4 * length - 1).bit_length()  # finer than the narrowest band
    power_TF = np.abs(np.fft.rfft(frames, points, axis=1)) ** 2
    bands_TM = power_TF @ _mel_bands(size, points, rate).T
    decibels = 10 * np.log10(np.maximum(bands_TM, 1e-12))
    levels = (decibels - decibels.max() + RANGE_DECIBELS) / RANGE_DECIBELS
    return (np.clip(levels, 0, 1) * 255).round().astype(np.uint8).T[::-1].copy()


def _samples(sound: str | bytes) -> tuple[np.ndarray, int]:
    """Samples in -1 .. 1 as one channel, and how many a second."""
    shown = sound[:80] if isinstance(sound, str) else f"{len(sound):,} bytes"
    try:
        with wave.open(io.BytesIO(sound) if isinstance(sound, bytes) else str(Path(sound)), "rb") as file:
            width, channels, rate, count = (
                file.getsampwidth(), file.getnchannels(), file.getframerate(), file.getnframes(),
            )  # fmt: skip
            if not 0 < count <= MOST_SECONDS * rate:
                raise BadRow("image", say(f"{shown} lasts {count / rate:.1f} s; 0 to {MOST_SECONDS:.0f} can be read",
                                          f"{shown} 时长 {count / rate:.1f} 秒；可读取 0 至 {MOST_SECONDS:.0f} 秒"))  # fmt: skip
            raw = np.frombuffer(file.readframes(count), np.uint8)
    except FileNotFoundError:
        raise BadRow("image", say(f"there is no file {shown}", f"找不到文件 {shown}")) from None
    except (wave.Error, EOFError, OSError, ZeroDivisionError, ValueError) as error:
        why = str(error) or type(error).__name__
        raise BadRow(
            "image", say(f"{shown} can't be read as a sound ({why})", f"{shown} 无法作为声音读取（{why}）")
        ) from None
    raw = raw[: len(raw) // (width * channels) * width * channels].reshape(-1, channels, width)
    if width == 1:  # alone without a sign
        values = raw[:, :, 0].astype(np.float64) - 128
    else:  # little-endian: the last byte has the sign
        values = raw.astype(np.float64) @ 256.0 ** np.arange(width)
        values = np.where(raw[:, :, -1] > 127, values - 256.0**width, values)
    return values.mean(1) / 256.0**width * 2, rate


def _mel_bands(bands: int, points: int, rate: int) -> np.ndarray:
    """Triangular weights ``[bands, points / 2 + 1]``, their tops evenly apart on the mel scale up to half the rate."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, points // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(
        np.minimum((frequencies - low) / (middle - low), (high - frequencies) / (high - middle)), 0, None
    )
