"""Cut the example data from the full public data sets, the same bytes every time.

    python examples/data/make.py FOLDER        # FOLDER holds text/, ner_relation/ and corpus/

Every draw is seeded, and gzip writes no time stamp. What was cut from where is told in each folder's LICENSE.md.
"""

import gzip
import io
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20
Row = dict[str, str]


def read(path: Path) -> str:
    """The text of a gzip file."""
    return gzip.decompress(path.read_bytes()).decode("utf-8")


def rows(path: Path) -> list[Row]:
    """The objects of a gzipped JSONL file."""
    return [json.loads(line) for line in read(path).splitlines()]


def write(name: str, text: str) -> None:
    """Write one example file, compressed if its name ends in ``.gz``."""
    path = HERE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode("utf-8")
    if path.suffix == ".gz":
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0) as file:
            file.write(content)
        content = buffer.getvalue()
    path.write_bytes(content)


def jsonl(records: Iterable[Row]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def sentences(path: Path, clean: str = "") -> list[list[tuple[str, str]]]:
    """The sentences of a gzipped two-column CoNLL file as (token, tag) pairs.

    ``clean`` is a pattern removed from each token. A line of white space alone ends a sentence.
    """
    found: list[list[tuple[str, str]]] = [[]]
    for line in read(path).splitlines():
        if not line.strip():
            found.append([])
            continue
        token, tag = line.split("\t")
        found[-1].append((re.sub(clean, "", token) if clean else token, tag))
    return [sentence for sentence in found if sentence]


def conll(items: Iterable[list[tuple[str, str]]]) -> str:
    """Sentences as ``token<TAB>tag`` lines with an empty line between."""
    return "\n".join("".join(f"{token}\t{tag}\n" for token, tag in sentence) for sentence in items)


def draw(items: list, count: int) -> list:
    """``count`` items, drawn without replacement, in their original order."""
    chosen = sorted(random.Random(SEED).sample(range(len(items)), count))
    return [items[index] for index in chosen]


def make_classification(source: Path) -> None:
    """CSL (the constant key ``task`` left out) and banking77 (as it is), whole."""
    for split in ("train", "dev", "test"):
        records = rows(source / "text" / f"csl_category_{split}.jsonl.gz")
        cut = ({"text": record["text"], "label": record["label"]} for record in records)
        write(f"csl/{split}.jsonl.gz", jsonl(cut))
    for split in ("train", "test"):
        write(f"banking77/{split}.csv.gz", read(source / "text" / f"banking77_{split}.csv.gz"))


def make_entities(source: Path) -> None:
    """Weibo (segment digits stripped) and WNUT-17: 300 training and 100 development sentences each."""
    for name, stem, clean in (("weibo", "weibo2", r"\d$"), ("wnut17", "wnut17", "")):
        train = sentences(source / "ner_relation" / f"{stem}_train.conll.gz", clean)
        dev = sentences(source / "ner_relation" / f"{stem}_dev.conll.gz", clean)
        train = draw(train, 300)
        # A tag that training never saw can only be wrong: leave such sentences out of the development part.
        seen = {tag for sentence in train for _, tag in sentence}
        dev = [sentence for sentence in dev if all(tag in seen for _, tag in sentence)]
        write(f"{name}/train.conll", conll(train))
        write(f"{name}/dev.conll", conll(draw(dev, 100)))


def make_relations(source: Path) -> None:
    """FinRE and SemEval-2010 task 8: 600 training and 200 test rows of the ten most frequent relations each."""
    for name, stem in (("finre", "FinRE"), ("semeval8", "semeval2010_8")):
        train = rows(source / "ner_relation" / f"{stem}_train.jsonl.gz")
        common = {label for label, _ in Counter(row["relation"] for row in train).most_common(10)}
        train = draw([row for row in train if row["relation"] in common], 600)
        known = {row["text"] for row in train}
        test = rows(source / "ner_relation" / f"{stem}_test.jsonl.gz")
        test = [row for row in test if row["relation"] in common and row["text"] not in known]
        write(f"{name}/train.jsonl", jsonl(train))
        write(f"{name}/test.jsonl", jsonl(draw(test, 200)))


def make_pairs(source: Path) -> None:
    """English and Chinese sentences of Python's documentation: 1 = translations of each other, 0 = not.

    A sentence is used once. The wrong partners come from a neighbour in English length, so that length alone
    doesn't give the label away.
    """
    odd = re.compile(r"[`*:|\\<>{}]")
    usable = {}
    for row in rows(source / "corpus" / "pydocs313_zh_en.jsonl.gz"):
        chinese = len(re.findall("[\u4e00-\u9fff]", row["zh"]))
        if 30 <= len(row["en"]) <= 140 and chinese >= 8 and not odd.search(row["en"] + row["zh"]):
            usable.setdefault(row["en"], row["zh"])
    unique = [
        (en, zh) for (en, zh), n in zip(usable.items(), _counts(usable.values()), strict=True) if n == 1
    ]
    chosen = random.Random(SEED).sample(unique, 1000)
    true, false = chosen[:500], sorted(chosen[500:], key=lambda pair: (len(pair[0]), pair[0]))
    table = [{"text_a": en, "text_b": zh, "label": "1"} for en, zh in true]
    for (en, _), (_, other) in zip(false, false[1:] + false[:1], strict=True):
        table.append({"text_a": en, "text_b": other, "label": "0"})
    random.Random(SEED + 1).shuffle(table)
    write("pairs_demo/train.jsonl", jsonl(table[:800]))
    write("pairs_demo/test.jsonl", jsonl(table[800:]))


def _counts(values: Iterable[str]) -> list[int]:
    """How often each value occurs, in the values' order."""
    values = list(values)
    counts = Counter(values)
    return [counts[value] for value in values]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER")
    for make in (make_classification, make_entities, make_relations, make_pairs):
        make(Path(sys.argv[1]))
