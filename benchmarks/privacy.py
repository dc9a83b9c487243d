"""Masking of personal data: recall and precision on 5,000 generated Chinese texts, finds in real reviews, time."""

import argparse
import csv
import gzip
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import harness, privacy_texts
from benchmarks.harness import Entry, as_range, spread
from benchmarks.privacy_texts import Gold
from weitiao.core.privacy import Span, find, mask

Find = Callable[[str], Sequence[Span]]
COUNT, SEED = 5000, 20261124  # rules were tuned on other seeds


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Generated texts, whose personal data is known; and real reviews, which bound the false alarms."""
    config = {"texts": options.texts or COUNT, "seed": SEED, "rounds": options.rounds or 5}
    yield Entry("generated-chinese", config, lambda: measure(config))
    reviews = {"texts": 40_000, "data": "online_shopping_10_cats"}
    yield Entry("shop-reviews", reviews, lambda: false_alarms(reviews))


def measure(config: dict[str, Any]) -> dict[str, Any]:
    """Recall and precision in all and by kind; the time of masking, over rounds."""
    gold = privacy_texts.texts(config["texts"], config["seed"])
    found = score(gold, find)
    microseconds = []
    for _ in range(config["rounds"]):
        start = time.perf_counter()
        for one in gold:
            mask(one.text)
        microseconds.append(1e6 * (time.perf_counter() - start) / len(gold))
    summary = {
        "texts": len(gold),
        "spans": sum(len(one.spans) for one in gold),
        "recall %": round(100 * found["recall"], 2),
        "precision %": round(100 * found["precision"], 2),
        "microseconds a text": as_range(spread(microseconds)),
    }
    return {
        "summary": summary,
        "by kind": found["kinds"],
        "missed": found["missed"][:20],
        "wrong": found["wrong"][:20],
    }


def false_alarms(config: dict[str, Any]) -> dict[str, Any]:
    """How much is found in real reviews of a shop. Few hold personal data, so this bounds the false alarms."""
    path = harness.ROOT.parent / "shared" / "data" / "text" / f"{config['data']}.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        texts = [row["review"] for row, _ in zip(csv.DictReader(file), range(config["texts"]), strict=False)]
    kinds: Counter[str] = Counter()
    for text in texts:
        kinds.update(span.kind for span in find(text))
    summary = {"texts": len(texts), "finds in 10,000 texts": round(1e4 * kinds.total() / len(texts), 1)}
    return {"summary": summary, "by kind": dict(kinds)}


def score(gold: Sequence[Gold], find: Find) -> dict[str, Any]:
    """Recall: the spans whose every character is found, under the right kind. Precision: the finds that are right.

    A find is right if it meets a span of its kind and reaches at most one character beyond it on either side.
    """
    hits: Counter[str] = Counter()
    spans: Counter[str] = Counter()
    right: Counter[str] = Counter()
    finds: Counter[str] = Counter()
    missed, wrong = [], []
    for one in gold:
        found = find(one.text)
        covered = {place for span in found for place in range(span.start, span.end)}
        for kind, start, end in one.spans:
            spans[kind] += 1
            whole = covered.issuperset(range(start, end))
            if whole and any(span.kind == kind and span.start < end and start < span.end for span in found):
                hits[kind] += 1
            else:
                missed.append((kind, one.text[start:end], one.text))
        for span in found:
            finds[span.kind] += 1
            if any(
                kind == span.kind
                and span.start < end
                and start < span.end
                and start - 1 <= span.start
                and span.end <= end + 1
                for kind, start, end in one.spans
            ):
                right[span.kind] += 1
            else:
                wrong.append((span.kind, one.text[span.start : span.end], one.text))
    kinds = {
        kind: {
            "spans": spans[kind],
            "recall": hits[kind] / max(1, spans[kind]),
            "precision": right[kind] / max(1, finds[kind]),
        }
        for kind in sorted(spans | finds)
    }
    return {
        "recall": hits.total() / max(1, spans.total()),
        "precision": right.total() / max(1, finds.total()),
        "kinds": kinds,
        "missed": missed,
        "wrong": wrong,
    }
