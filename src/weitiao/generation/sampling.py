"""From scores to tokens, and from tokens to text as it grows: numpy only.

The filters mean what they mean in ``transformers`` and come in its order: repetition penalty, temperature, top-k,
top-p, min-p.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

REPLACEMENT = "\ufffd"  # what a decoder puts where bytes are no character (yet)


@dataclass(frozen=True)
class Sampling:
    """How to choose and when to end.

    Attributes:
        max_new_tokens: at most so many.
        temperature: scores are divided by it; 0 takes the likeliest token always.
        top_k: only the k likeliest; 0: all.
        top_p: only the likeliest that together reach this probability; 1: all.
        min_p: only those at least this fraction as likely as the likeliest; 0: all.
        repetition_penalty: scores of tokens that occurred are divided by it where positive, else multiplied; 1: none.
        stop: texts that end the answer and are not part of it.
        seed: the same seed gives the same answer; None: another one each time.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: Sequence[str] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            WeitiaoError: a value out of its range; says which range.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        object.__setattr__(self, "stop", tuple(stop))
        ranges = {
            "max_new_tokens": (self.max_new_tokens >= 1, say("1 or more", "不小于 1")),
            "temperature": (0 <= self.temperature < float("inf"), say("0 or more", "不小于 0")),
            "top_k": (self.top_k >= 0, say("0 or more", "不小于 0")),
            "top_p": (0 < self.top_p <= 1, say("above 0, at most 1", "大于 0 且不超过 1")),
            "min_p": (0 <= self.min_p <= 1, say("between 0 and 1", "在 0 与 1 之间")),
            "repetition_penalty": (0 < self.repetition_penalty < float("inf"), say("above 0", "大于 0")),
            "stop": (all(isinstance(one, str) and one for one in self.stop), say("texts", "非空文本")),
            "seed": (self.seed is None or self.seed >= 0, say("0 or more", "不小于 0")),
        }
        for name, (fine, wanted) in ranges.items():
            if not fine:
                value = getattr(self, name)
                raise WeitiaoError(
                    say(f"{name} is {value}; it must be {wanted}", f"{name} 为 {value}，应{wanted}")
                )


class Sampler:
    """Picks one token after the other. ``prompt_ids`` count as having occurred."""

    def __init__(self, sampling: Sampling, prompt_ids: Iterable[int] = ()) -> None:
        self.sampling = sampling
        self.random = np.random.default_rng(sampling.seed)
        self.seen = set(prompt_ids)

    def pick(self, logits_V: np.ndarray) -> int:
        """The next token from its scores, float32 ``[V]``, which may be written over."""
        if self.sampling.repetition_penalty != 1 and self.seen:
            seen = np.fromiter(self.seen, np.int64)
            values = logits_V[seen]
            penalty = np.float32(self.sampling.repetition_penalty)
            logits_V[seen] = np.where(values > 0, values / penalty, values * penalty)
        if self.sampling.temperature == 0:
            token = int(logits_V.argmax())
        else:
            ids, probabilities = candidates(logits_V, self.sampling)
            place = int(np.searchsorted(probabilities.cumsum(), self.random.random(), side="right"))
            token = int(ids[min(place, len(ids) - 1)])
        self.seen.add(token)
        return token


def candidates(logits_V: np.ndarray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that temperature, top-k, top-p and min-p leave, and their probabilities, which sum to 1."""
    scores = logits_V.astype(np.float64)
    scores -= scores.max()
    scores /= sampling.temperature
    ids = np.arange(len(scores))
    if 0 < sampling.top_k < len(scores):
        ids = np.flatnonzero(scores >= np.partition(scores, -sampling.top_k)[-sampling.top_k])
    weights = np.exp(scores[ids])
    weights /= weights.sum()
    if sampling.top_p < 1:
        kept = _nucleus(weights, sampling.top_p)
        ids, weights = ids[kept], weights[kept]
    if sampling.min_p:
        kept = weights >= sampling.min_p * weights.max()
        ids, weights = ids[kept], weights[kept]
    return ids, weights / weights.sum()


def _nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
    """Places of the likeliest tokens that together reach ``top_p``, the likeliest first.

    Tokens below ``(1 - top_p) / V`` together miss ``1 - top_p``, so none of them is needed: the rest is quick to sort.
    """
    likely = np.flatnonzero(weights >= (1 - top_p) / len(weights))
    order = likely[np.argsort(-weights[likely], kind="stable")]
    return order[: np.searchsorted(weights[order].cumsum(), top_p) + 1]


class Detokenizer:
    """Text from tokens as they come; a character of several tokens comes out whole, with the last of them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.begin = (
            0  # where the window begins whose text is looked at: one whole stretch before what is new
        )
        self.clean = 0  # where the last whole stretch ended
        self.shown = 0  # characters of the window's text that are out already

    def push(self, token: int) -> str:
        """The text that a token completes; often empty, never half a character."""
        self.ids.append(token)
        text = self._text()
        ready = text.rstrip(REPLACEMENT)
        piece = ready[self.shown :]
        self.shown = max(self.shown, len(ready))
        if ready == text:
            self.begin, self.clean = self.clean, len(self.ids)
            self.shown = len(self._text())
        return piece

    def flush(self) -> str:
        """What is left at the end: bytes that never became a character."""
        return self._text()[self.shown :]

    def _text(self) -> str:
        return self.tokenizer.decode(self.ids[self.begin :], skip_special_tokens=True)


class Stops:
    """Lets text through up to the first stop text, and holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """What of the text so far may be shown now. After a hit: nothing more."""
        if self.hit:
            return ""
        self.held += text
        ends = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        self.hit = bool(ends)
        out = len(self.held) - self._beginnings() if not ends else min(ends)
        ready, self.held = self.held[:out], self.held[out:]
        return ready

    def flush(self) -> str:
        """What was held back and turned out to be no stop text."""
        return "" if self.hit else self.held

    def _beginnings(self) -> int:
        """How many characters at the end begin some stop text."""
        longest = min(max(map(len, self.stops), default=1) - 1, len(self.held))
        return next(
            (n for n in range(longest, 0, -1) if any(s.startswith(self.held[-n:]) for s in self.stops)), 0
        )
