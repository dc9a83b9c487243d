"""Beam search: the likeliest of several texts that are followed at once.

As ``transformers`` does it with ``early_stopping=False``: a finished text's score is the sum of its tokens' log
probabilities divided by its number of new tokens (its end counted) to the power ``length_penalty``; the search ends
when no text that still grows can overtake the worst of those kept.
"""

from collections.abc import Collection, Sequence

import numpy as np

from weitiao.generation.writing import Scores


def search(
    model: Scores,
    ids: Sequence[int],
    *,
    beams: int,
    most: int,
    ends: Collection[int],
    length_penalty: float = 1.0,
) -> list[tuple[list[int], float]]:
    """Finished texts, without their ends, and their scores, the best first: at most ``beams``, at least one."""
    scores_KV = _log_softmax(model.read([ids], most))
    model.select(np.zeros(beams, np.int64))
    texts: list[list[int]] = [[] for _ in range(beams)]
    totals_K = np.array([0.0] + [-np.inf] * (beams - 1))  # at first all are the same text
    scores_KV = np.repeat(scores_KV, beams, 0)
    finished: list[tuple[list[int], float]] = []
    for length in range(1, most + 1):
        places, tokens, values = _best(totals_K[:, None] + scores_KV, 2 * beams)
        going: list[tuple[int, int, float]] = []
        for rank, (place, token, value) in enumerate(zip(places, tokens, values, strict=True)):
            if token in ends:
                if rank < beams:
                    finished.append((texts[place], value / length**length_penalty))
            elif len(going) < beams:
                going.append((place, token, value))
        finished = sorted(finished, key=lambda one: -one[1])[:beams]
        if not going:
            break
        rows, chosen, totals = zip(*going, strict=True)
        texts = [[*texts[place], token] for place, token in zip(rows, chosen, strict=True)]
        totals_K = np.array(totals)
        hopeless = len(finished) == beams and totals_K.max() / length**length_penalty <= finished[-1][1]
        if length == most or hopeless:
            break
        model.select(np.array(rows))
        scores_KV = _log_softmax(model.step(np.array(chosen)))
    if len(finished) < beams:
        grown = len(texts[0]) ** length_penalty
        finished += [(text, value / grown) for text, value in zip(texts, totals_K.tolist(), strict=True)]
    return sorted(finished, key=lambda one: -one[1])[:beams]


def _best(totals_KV: np.ndarray, count: int) -> tuple[list[int], list[int], list[float]]:
    """Rows, tokens and values of the largest totals, in order."""
    flat = totals_KV.ravel()
    count = min(count, len(flat))
    top = np.argpartition(-flat, count - 1)[:count]
    top = top[np.argsort(-flat[top], kind="stable")]
    rows, tokens = np.divmod(top, totals_KV.shape[1])
    return rows.tolist(), tokens.tolist(), flat[top].tolist()


def _log_softmax(scores_BV: np.ndarray) -> np.ndarray:
    """In float64, as sums of many are compared."""
    scores = scores_BV.astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))
