"""How much a text says what its references say: ROUGE, BLEU, chrF, as counts that add up over texts.

Words: a Chinese, Japanese or Korean character is one, and so is a run of other letters and digits, in lower case for
ROUGE. So Chinese is compared by characters, English by words, and a text of both by each.

* ROUGE-N and ROUGE-L (Lin 2004): F1 of the n-grams in common, of the longest common subsequence; against several
  references the best counts.
* BLEU (Papineni et al. 2002) of a whole set, orders 1-4, words and marks kept apart as mteval-v13a does; an order
  without a match counts as 1/2, 1/4 ... match (the "exp" smoothing of sacreBLEU).
* chrF (Popović 2015) of a whole set: F2 of character n-grams, orders 1-6, without white space.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np

WIDE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7af\U00020000-\U0003134f"
_WORD = re.compile(f"[{WIDE}]|[^\\W_{WIDE}]+")
_WIDE = re.compile(f"([{WIDE}\u3000-\u303f\uff00-\uffef])")
_MARK = re.compile(r"([\x21-\x26\x28-\x2b\x3a-\x40\x5b-\x60\x7b-\x7e/])")
_POINTS = (
    (re.compile(r"(\D)([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])(\D)"), r" \1 \2"),
    (re.compile(r"(\d)(-)"), r"\1 \2 "),
)
BLEU_ORDERS, CHRF_ORDERS, CHRF_BETA = 4, 6, 2.0


def words(text: str) -> list[str]:
    """The words of a text as ROUGE and distinct-n count them."""
    return _WORD.findall(text.lower())


def marked_words(text: str) -> list[str]:
    """The words and marks of a text as BLEU counts them, with their case."""
    text = _MARK.sub(r" \1 ", " " + _WIDE.sub(r" \1 ", text) + " ")
    for pattern, replacement in _POINTS:
        text = pattern.sub(replacement, text)
    return text.split()


def grams(parts: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram occurs."""
    return Counter(zip(*(parts[start:] for start in range(order)), strict=False))


def rouge(text: str, references: Sequence[str]) -> dict[str, float]:
    """``rouge_1``, ``rouge_2``, ``rouge_l``: F1 against the best reference."""
    ours = words(text)
    found: dict[str, float] = {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}
    for reference in references:
        theirs = words(reference)
        for order in (1, 2):
            a, b = grams(ours, order), grams(theirs, order)
            value = _f1((a & b).total(), a.total(), b.total())
            found[f"rouge_{order}"] = max(found[f"rouge_{order}"], value)
        found["rouge_l"] = max(found["rouge_l"], _f1(common(ours, theirs), len(ours), len(theirs)))
    return found


def common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    lengths = [0] * (len(b) + 1)
    for one in a:
        corner = 0
        for place, other in enumerate(b, 1):
            above = lengths[place]
            lengths[place] = corner + 1 if one == other else max(above, lengths[place - 1])
            corner = above
    return lengths[-1]


def bleu_counts(text: str, references: Sequence[str]) -> np.ndarray:
    """Matches and n-grams of each order, then the text's and the nearest reference's words: float ``[10]``."""
    ours, theirs = marked_words(text), [marked_words(reference) for reference in references]
    counts = []
    for order in range(1, BLEU_ORDERS + 1):
        a = grams(ours, order)
        best: Counter[tuple[str, ...]] = Counter()
        for reference in theirs:
            best |= grams(reference, order)
        counts += [(a & best).total(), max(len(ours) - order + 1, 0)]
    nearest = min((abs(len(r) - len(ours)), len(r)) for r in theirs)[1]
    return np.array([*counts, len(ours), nearest], np.float64)


def bleu(totals_B10: np.ndarray) -> np.ndarray:
    """BLEU, 0 .. 1, of sums of ``bleu_counts``, float ``[B]``."""
    return np.array([_bleu(totals.tolist()) for totals in totals_B10])


def _bleu(totals: list[float]) -> float:
    *pairs, length, reference = totals
    logs, miss = 0.0, 1.0
    for match, total in zip(pairs[::2], pairs[1::2], strict=True):
        if not total:
            return 0.0
        if not match:
            miss *= 2
        logs += np.log(match / total if match else 1 / (miss * total))
    if not any(pairs[::2]):
        return 0.0
    brevity = min(0.0, 1 - reference / length)
    return float(np.exp(logs / BLEU_ORDERS + brevity))


def chrf_counts(text: str, references: Sequence[str]) -> np.ndarray:
    """Character n-grams of the text, of its best reference, and in common, order by order: float ``[18]``."""
    found = [_chrf_counts(text, reference) for reference in references]
    return max(found, key=lambda counts: float(chrf(counts[None])[0]))


def _chrf_counts(text: str, reference: str) -> np.ndarray:
    ours, theirs = "".join(text.split()), "".join(reference.split())
    counts = []
    for order in range(1, CHRF_ORDERS + 1):
        a, b = grams(ours, order), grams(theirs, order)
        counts += [a.total(), b.total(), (a & b).total()]
    return np.array(counts, np.float64)


def chrf(totals_B18: np.ndarray) -> np.ndarray:
    """chrF, 0 .. 1, of sums of ``chrf_counts``, float ``[B]``: precision and recall are means over the orders."""
    ours, theirs, match = (totals_B18[:, start::3] for start in range(3))
    both = (ours > 0) & (theirs > 0)
    orders = np.maximum(both.sum(1), 1)
    precision, recall = (
        np.where(both, match / np.maximum(total, 1), 0).sum(1) / orders for total in (ours, theirs)
    )
    weight = CHRF_BETA**2
    return (1 + weight) * precision * recall / np.maximum(weight * precision + recall, 1e-300)


def distinct(texts: Sequence[str], order: int) -> float:
    """The share of n-grams of all texts that differ (Li et al. 2016); 0 where there are none."""
    total: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        total += grams(words(text), order)
    return len(total) / total.total() if total else 0.0


@cache
def lead(text: str) -> str:
    """The first sentence of a text: the baseline lead-1."""
    text = " ".join(text.split())
    end = re.search(r"[。！？!?；]|\.(?=\s|$)", text)
    return text[: end.end()] if end else text


def _f1(match: int, ours: int, theirs: int) -> float:
    return 2 * match / (ours + theirs) if match else 0.0
