"""The loop of generation, for whatever gives scores: one text as a stream, or many at once.

A model is asked through ``Scores``, which three calls make: in torch (``models.decoding``), in a bundle
(``runtime.decoder``), or in a test.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from weitiao.generation.sampling import Detokenizer, Sampler, Sampling, Stops


class Scores(Protocol):
    """A language model that remembers B texts. Scores are float32 ``[B, V]`` and may be written over."""

    def read(self, prompts: Sequence[Sequence[int]], room: int) -> np.ndarray:
        """Begin with these texts, of which each may grow by ``room`` tokens. The scores of what follows each."""
        ...

    def step(self, tokens_B: np.ndarray) -> np.ndarray:
        """Add one token to each text. The scores of what follows."""
        ...

    def select(self, rows_R: np.ndarray) -> None:
        """Go on with these texts only, in this order; one may be there several times."""
        ...


class Constraint(Protocol):
    """What a text may be, as the tokens that may come next."""

    def allowed(self) -> np.ndarray:
        """bool ``[V]``; end tokens are allowed where the text may end here."""
        ...

    def push(self, token: int) -> None:
        """The token that was chosen."""
        ...


@dataclass(frozen=True)
class Written:
    """A finished text. ``reason``: ``end`` (an end token, or nothing more may come), ``stop`` or ``length``."""

    text: str
    ids: list[int]
    reason: str


class Writing:
    """One text in the making.

    Args:
        ids: its prompt.
        ends: tokens that end it and are no part of it.
        most: new tokens at most; ``sampling`` may say fewer.
    """

    def __init__(
        self,
        tokenizer: Any,
        ids: Sequence[int],
        sampling: Sampling,
        ends: Collection[int],
        most: int,
        constraint: Constraint | None = None,
    ) -> None:
        self.most, self.ends, self.constraint = min(sampling.max_new_tokens, most), ends, constraint
        self.sampler, self.stops = Sampler(sampling, ids), Stops(sampling.stop)
        self.detokenizer = Detokenizer(tokenizer)
        self.ids: list[int] = []
        self.reason = ""

    def push(self, scores_V: np.ndarray) -> str:
        """Choose the next token. Returns the text that can be shown now; ``reason`` says when it was the last."""
        if self.constraint is not None:
            allowed_V = self.constraint.allowed()
            if not allowed_V.any():
                return self._finished("end")
            scores_V[~allowed_V] = -np.inf
        token = self.sampler.pick(scores_V)
        if token in self.ends:
            return self._finished("end")
        self.ids.append(token)
        if self.constraint is not None:
            self.constraint.push(token)
        piece = self.stops.push(self.detokenizer.push(token))
        if self.stops.hit:
            return piece + self._finished("stop")
        return piece + self._finished("length") if len(self.ids) >= self.most else piece

    def _finished(self, reason: str) -> str:
        self.reason = reason
        return self.stops.push(self.detokenizer.flush()) + self.stops.flush()


def stream(model: Scores, ids: Sequence[int], writing: Writing) -> Iterator[str]:
    """A text piece by piece: one for each token, empty where a character or a possible stop text is not complete."""
    scores_BV = model.read([ids], writing.most)
    while True:
        before = len(writing.ids)
        piece = writing.push(scores_BV[0])
        if piece or len(writing.ids) > before:
            yield piece
        if writing.reason:
            return
        scores_BV = model.step(np.array(writing.ids[-1:]))


def write(model: Scores, prompts: Sequence[Sequence[int]], writings: Sequence[Writing]) -> list[Written]:
    """Several texts at once; those that are finished leave the batch."""
    texts = [""] * len(prompts)
    rows = list(range(len(prompts)))
    scores_BV = model.read(prompts, max(writing.most for writing in writings))
    while True:
        for place, row in enumerate(rows):
            texts[row] += writings[row].push(scores_BV[place])
        going = [place for place, row in enumerate(rows) if not writings[row].reason]
        if not going:
            break
        if len(going) < len(rows):
            model.select(np.array(going))
            rows = [rows[place] for place in going]
        scores_BV = model.step(np.array([writings[row].ids[-1] for row in rows]))
    return [Written(text, one.ids, one.reason) for text, one in zip(texts, writings, strict=True)]
