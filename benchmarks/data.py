"""The texts that benchmarks use: seeded samples of real data, written as tables that both sides read.

Read from the shared data sets beside the repository; none of it is copied into the repository.
"""

import csv
import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, SCRATCH
from weitiao.core.errors import WeitiaoError
from weitiao.core.runs import atomic_file

SHARED = ROOT.parent / "shared" / "data"
Row = dict[str, Any]


@dataclass(frozen=True)
class Dataset:
    """A task's data: ``read(split)`` for ``train`` and ``test``; ``score`` names the score compared.

    ``rate`` is the learning rate where no pilot has chosen one.
    """

    task: str
    score: str
    epochs: int
    read: Callable[[str], list[Row]]
    rate: float = 1e-4


def lines(path: str) -> Iterator[str]:
    """The lines of a shared file.

    Raises:
        WeitiaoError: the file is not there.
    """
    file = SHARED / path
    if not file.exists():
        raise WeitiaoError(f"Benchmarks read {file}, which is not there")
    with gzip.open(file, "rt", encoding="utf-8-sig", newline="") as opened:
        yield from opened


def _banking77(split: str) -> list[Row]:
    rows = csv.DictReader(lines(f"text/banking77_{split}.csv.gz"))
    return [{"text": row["text"], "label": row["category"]} for row in rows]


def _csl(split: str) -> list[Row]:
    return _json(f"text/csl_category_{split}.jsonl.gz", "text", "label")


def _sst2(split: str) -> list[Row]:
    pairs = (line.rstrip("\n").split(" ", 1) for line in lines(f"text/stsa.binary.{split}.txt.gz"))
    return [{"text": text, "label": ("negative", "positive")[int(label)]} for label, text in pairs]


def _cluener(split: str) -> list[Row]:
    return _json(f"ner_relation/cluener_{split}.jsonl.gz", "text", "label")


def _finre(split: str) -> list[Row]:
    rows = _json(f"ner_relation/FinRE_{split}.jsonl.gz", "text", "head", "tail", "relation")
    return [row for row in rows if row["head"] in row["text"] and row["tail"] in row["text"]]


def _stsb(split: str) -> list[Row]:
    rows = csv.reader(lines(f"pairs/zh_stsb_{split}.csv.gz"))
    return [{"text_a": a, "text_b": b, "label": float(score)} for a, b, score in rows]


def _online_shopping(split: str) -> list[Row]:
    """Reviews without repeats, good or bad; 2,000 drawn at random are the test part."""
    read = csv.DictReader(lines("text/online_shopping_10_cats.csv.gz"))
    texts = {row["review"].strip(): ("negative", "positive")[int(row["label"])] for row in read}
    rows = [{"text": text, "label": label} for text, label in texts.items() if text]
    random.Random(0).shuffle(rows)
    return rows[:2000] if split == "test" else rows[2000:]


def _clinc150(split: str) -> list[Row]:
    rows = map(json.loads, lines("text/clinc150.jsonl.gz"))
    return [{"text": row["text"], "label": row["intent"]} for row in rows if row["split"] == split]


def _thucnews(split: str) -> list[Row]:
    return _json(f"text/thucnews_titles_{'test' if split == 'test' else 'dev'}.jsonl.gz", "text", "label")


def _json(path: str, *keys: str) -> list[Row]:
    return [{key: row[key] for key in keys} for row in map(json.loads, lines(path))]


DATASETS = {
    "banking77": Dataset("text_classification", "accuracy", 10, _banking77),
    "csl": Dataset("text_classification", "accuracy", 5, _csl),
    "sst2": Dataset("text_classification", "accuracy", 5, _sst2),
    # At 5 epochs and 1e-4 both sides were still far from trained, and single seeds differed by up to 9 points.
    "cluener": Dataset("token_classification", "f1", 10, _cluener, 2e-4),
    "finre": Dataset("relation_extraction", "accuracy", 10, _finre, 2e-4),
    "stsb_zh": Dataset("text_matching", "spearman", 5, _stsb),
}

# Labelled texts for what is learnt from few of them.
FEW_LABELS = {
    "csl": _csl,
    "sst2": _sst2,
    "online_shopping": _online_shopping,
    "banking77": _banking77,
    "clinc150": _clinc150,
    "thucnews": _thucnews,
}


def shots(name: str, each: int, test_texts: int, seed: int) -> tuple[Path, Path]:
    """A table of ``each`` texts a class, drawn with the seed, and a test table that is the same for every seed."""
    train = SCRATCH / "data" / f"{name}-shots-{each}-{seed}.jsonl"
    test = SCRATCH / "data" / f"{name}-few-test-{test_texts}.jsonl"
    if not train.exists():
        by_class: dict[str, list[Row]] = {}
        for row in sample(FEW_LABELS[name]("train"), 0, seed):
            by_class.setdefault(row["label"], []).append(row)
        write(train, [row for label in sorted(by_class) for row in by_class[label][:each]])
    if not test.exists():
        write(test, sample(FEW_LABELS[name]("test"), test_texts, 0, every_label=False))
    return train, test


def tables(name: str, texts: int, test_texts: int, seed: int) -> tuple[Path, Path]:
    """A sample's training and test tables (0 texts: all). The test rows are the same for every seed."""
    found = []
    data = DATASETS[name]
    for split, wanted, chosen_by in (("train", texts, seed), ("test", test_texts, 0)):
        path = SCRATCH / "data" / f"{name}-{split}-{wanted}-{chosen_by}.jsonl"
        if not path.exists():
            write(path, sample(data.read(split), wanted, chosen_by, split == "train"))
        found.append(path)
    return found[0], found[1]


def write(path: Path, rows: Sequence[Row]) -> Path:
    """Rows as JSON lines."""
    with atomic_file(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def sample(rows: Sequence[Row], wanted: int, seed: int, every_label: bool = True) -> list[Row]:
    """So many rows at random (0: all); with ``every_label`` each class has at least one,
    or a test could ask for an answer that was never taught."""
    rows = random.Random(seed).sample(rows, len(rows))
    if not wanted or wanted >= len(rows):
        return rows
    first: dict[Any, int] = {}
    for i, row in enumerate(rows):
        label = row.get("label", row.get("relation"))
        if every_label and isinstance(label, str):
            first.setdefault(label, i)
    needed = set(first.values())
    rest = [i for i in range(len(rows)) if i not in needed]
    return [rows[i] for i in sorted([*needed, *rest[: max(wanted - len(needed), 0)]])]


def speed_table(kind: str, texts: int) -> Path:
    """Texts to measure speed on.

    ``short``: SST-2; ``long``: English news; ``long-bilingual``: news and Chinese reviews.

    Every second long text is two news items, which spreads the lengths over what ``max_length=128`` lets in.
    """
    path = SCRATCH / "data" / f"speed-{kind}-{texts}.jsonl"
    if path.exists():
        return path
    if kind == "short":
        return write(path, sample(_sst2("train"), texts, 0))
    english = sample(_news(), texts, 0)
    if kind == "long-bilingual":
        rows = csv.DictReader(lines("text/online_shopping_10_cats.csv.gz"))
        chinese = [{"text": row["review"], "label": row["label"]} for row in rows if len(row["review"]) >= 60]
        english = sample(english, texts // 2, 0) + sample(chinese, texts // 2, 0)
    return write(path, sample(english, texts, 1))


def _news() -> list[Row]:
    items = [(row[0], f"{row[1]}. {row[2]}") for row in csv.reader(lines("text/ag_news_test.csv.gz"))]
    found = []
    while len(items) > 2:
        (label, text), (_, second), (third_label, third) = items.pop(), items.pop(), items.pop()
        found += [{"text": f"{text} {second}", "label": label}, {"text": third, "label": third_label}]
    return found
