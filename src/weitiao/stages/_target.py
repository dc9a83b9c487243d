"""Targets in words: "4x faster, at most 0.5 points lost", "体积小 10 倍，最多损失 0.5 个点"."""

import math
import re
from dataclasses import dataclass

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.stages._measure import Point

NUMBER = r"(\d+(?:\.\d+)?)"
PATTERNS = {
    "faster": (rf"{NUMBER}\s*(?:x|times|×)?\s*faster", rf"快\s*{NUMBER}\s*倍", rf"{NUMBER}\s*倍(?:的)?(?:速度|加速|快)"),
    "smaller": (rf"{NUMBER}\s*(?:x|times|×)?\s*smaller", rf"小\s*{NUMBER}\s*倍", rf"压缩\s*{NUMBER}\s*倍"),
    "lost": (rf"at most\s*{NUMBER}\s*(?:points?|%)?\s*lost", rf"(?:最多|至多|不超过)[^\d]{{0,6}}{NUMBER}\s*个?(?:百分)?点?"),
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """How much faster and smaller (0: no matter), and how many points of the score may go (100: any)."""

    faster: float = 0.0
    smaller: float = 0.0
    lost: float = 100.0

    def shortfall(self, point: Point, start: Point) -> float:
        """How far a point is from the target, 0 where it fulfils it: in powers of two, a point of the score as one."""
        pairs = ((self.faster, speedup(point, start)), (self.smaller, start.bytes / point.bytes))
        lacks = sum(max(math.log2(wish / found), 0.0) for wish, found in pairs if wish)
        return lacks + max(100 * (start.score - point.score) - self.lost - 1e-9, 0.0)


def speedup(point: Point, start: Point) -> float:
    """The lesser of two ratios: the latency of one text, and the texts a second in batches."""
    return min(start.latency_ms / point.latency_ms, point.texts_per_second / start.texts_per_second)


def read_target(text: str) -> Target:
    """A target from words.

    Raises:
        WeitiaoError: a part of it says nothing that is known.
    """
    found: dict[str, float] = {}
    for part in filter(str.strip, re.split(r"[,，;；]|\band\b|且", text)):
        key, value = next(
            (
                (key, float(match[1]))
                for key, patterns in PATTERNS.items()
                for pattern in patterns
                if (match := re.search(pattern, part, re.IGNORECASE))
            ),
            ("", 0.0),
        )
        if not key or (key != "lost" and value < 1):
            example = '"4x faster, 10x smaller, at most 0.5 points lost"'
            raise WeitiaoError(
                say(
                    f"--target does not say '{part.strip()}' in a way that is understood. For example: {example}",
                    f"--target 中的“{part.strip()}”无法理解。例如：“快 4 倍，小 10 倍，最多损失 0.5 个点”",
                )
            )
        found[key] = value
    if not found:
        raise WeitiaoError(say("--target is empty", "--target 为空"))
    return Target(**found)
