"""Hold out a test set: stratified, seeded, with the same text never on both sides."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.data.table import batches

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

QUANTILE_BINS = 10


def normalise(text: str) -> str:
    """A text as it is compared with others: NFKC, no case, runs of white space made one space."""
    if not text.isascii() and not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def text_ids(records: "Dataset", keys: str | Sequence[str]) -> "np.ndarray":
    """A 64-bit number for each row's text (or texts), the same where the normalised texts are; uint64.

    Numbers are the first 8 bytes of BLAKE2b, so they don't depend on the process; among a million texts the
    chance of one false match is about 3e-8.
    """
    import numpy as np

    keys = [keys] if isinstance(keys, str) else list(keys)
    ids = np.empty(len(records), dtype=np.uint64)
    at = 0
    for batch in batches(records, keys):
        rows = zip(*(batch[key] for key in keys), strict=True)
        joined = ["\x1f".join(normalise(_as_text(cell)) for cell in row) for row in rows]
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in joined)
        ids[at : at + len(joined)] = np.frombuffer(digests, dtype="<u8")
        at += len(joined)
    return ids


def _as_text(cell: Any) -> str:
    return cell if isinstance(cell, str) else cell.hex() if isinstance(cell, bytes) else str(cell)


def label_names(label: Any) -> list[str]:
    """The labels a row carries: itself, those of a list, or the types of its spans."""
    if label is None:
        return []
    if isinstance(label, (list, tuple)):
        return [str(item["label"]) if isinstance(item, dict) else str(item) for item in label]
    return [str(label)]


def column(records: "Dataset", key: str) -> list[Any]:
    """A column as a list."""
    return [value for batch in batches(records, [key]) for value in batch[key]]


def split(
    records: "Dataset",
    *,
    test_fraction: float,
    seed: int,
    group_key: str | Sequence[str] = "text",
    label_key: str = "label",
) -> tuple["np.ndarray", "np.ndarray"]:
    """Row indices for training and for testing, both ascending int64.

    Rows with the same text (normalised) form a group and stay together. A group counts under the rarest of
    its labels (numbers under their decile); in each such stratum about ``test_fraction`` of the groups are
    held out, the total being right to within one group. Every label keeps a row in training, and a group
    larger than its stratum's share of the test set is trained on.

    Args:
        test_fraction: between 0 and 1, both excluded.
        group_key: the column (or columns) that must not be on both sides.
        label_key: a column of labels, lists of labels, numbers or spans; without it the split is at random.

    Raises:
        WeitiaoError: the fraction is no fraction, or nothing can be held out.
    """
    import numpy as np

    if not 0 < test_fraction < 1:
        raise WeitiaoError(
            say(
                f"test_fraction is {test_fraction}; it must lie between 0 and 1, such as 0.2",
                f"test_fraction 为 {test_fraction}，应在 0 与 1 之间，例如 0.2",
            )
        )
    _, first_rows, groups = np.unique(text_ids(records, group_key), return_index=True, return_inverse=True)
    labels = _labels(records, label_key)
    strata = _strata(labels)[first_rows]
    rng = np.random.default_rng(seed)
    held_out = _hold_out(strata, np.bincount(groups), test_fraction, rng)
    _keep_labels_in_train(labels, groups, held_out)
    in_test = held_out[groups]
    if not in_test.any():
        raise WeitiaoError(
            say(
                f"Too few different texts ({len(first_rows)}) to hold out {test_fraction:.0%} for testing. "
                "Give a test file, or more texts",
                f"不同的文本太少（{len(first_rows)} 条），无法留出 {test_fraction:.0%} 作测试。"
                "请给出测试文件，或增加文本",
            )
        )
    return np.flatnonzero(~in_test).astype(np.int64), np.flatnonzero(in_test).astype(np.int64)


def draw(labels: Sequence[str], each: int, seed: int) -> "np.ndarray":
    """Rows with ``each`` texts of every class, at random, ascending int64.

    Raises:
        WeitiaoError: a class has fewer.
    """
    import numpy as np

    names, classes, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    if counts.min() < each:
        name, count = names[counts.argmin()], counts.min()
        raise WeitiaoError(
            say(
                f"--shots is {each}, but the class '{name}' has only {count} texts to train on: "
                f"--shots {count} at most, or leave it out and all texts are used",
                f"--shots 为 {each}，但类别“{name}”只有 {count} 条训练文本：最多 --shots {count}，"
                "或去掉该选项以使用全部文本",
            )
        )
    order = np.random.default_rng(seed).permutation(len(classes))
    return np.sort(np.concatenate([order[classes[order] == place][:each] for place in range(len(names))]))


def folds(labels: Sequence[str], count: int, seed: int) -> "np.ndarray":
    """The fold of each row, int64 ``[N]``; each class is spread over the folds as evenly as can be."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(labels))
    _, classes = np.unique(np.asarray(labels), return_inverse=True)
    found = np.empty(len(labels), np.int64)
    found[order[np.argsort(classes[order], kind="stable")]] = np.arange(len(labels)) % count
    return found


def _labels(records: "Dataset", label_key: str) -> list[list[str]]:
    """The labels of each row; numbers that are no classes become the name of their bin."""
    import numpy as np

    if label_key not in records.column_names:
        return [[] for _ in range(len(records))]
    values = column(records, label_key)
    if values and all(isinstance(value, float) for value in values):
        numbers = np.asarray(values)
        edges = np.quantile(numbers, np.linspace(0, 1, QUANTILE_BINS + 1)[1:-1])
        return [[str(place)] for place in np.searchsorted(edges, numbers, side="right")]
    return [label_names(value) for value in values]


def _strata(labels: list[list[str]]) -> "np.ndarray":
    """A number for each row: that of the rarest of its labels, 0 where it has none."""
    import numpy as np

    counts = Counter(name for names in labels for name in set(names))
    numbers = {name: place for place, name in enumerate(sorted(counts), start=1)}
    rarest = (min(names, key=lambda name: (counts[name], name), default="") for names in labels)
    return np.fromiter((numbers.get(name, 0) for name in rarest), dtype=np.int64, count=len(labels))


def _hold_out(strata: Any, sizes: Any, fraction: float, rng: Any) -> "np.ndarray":
    """Choose groups: every 1/fraction-th along the strata, in random order within each.

    Unlike rounding in each stratum, this gets the total right where there are many strata of a few groups
    each.
    """
    import numpy as np

    share = fraction * np.bincount(strata, weights=sizes)
    may = np.flatnonzero(sizes <= np.maximum(1, share[strata]))
    shuffled = rng.permutation(may)
    ordered = shuffled[np.argsort(strata[shuffled], kind="stable")]
    steps = np.floor(np.arange(len(ordered) + 1) * fraction + rng.random())
    chosen = np.zeros(len(strata), dtype=bool)
    chosen[ordered[np.diff(steps) > 0]] = True
    return chosen


def _keep_labels_in_train(labels: list[list[str]], groups: Any, held_out: Any) -> None:
    """Take back into training one group of every label that has none there. Changes ``held_out``."""
    in_train: set[str] = set()
    missing: dict[str, list[int]] = {}
    for names, group in zip(labels, groups.tolist(), strict=True):
        for name in names:
            if not held_out[group]:
                in_train.add(name)
            elif name not in in_train:
                missing.setdefault(name, []).append(group)
    rows_of = {group for name in missing if name not in in_train for group in missing[name]}
    labels_of: dict[int, set[str]] = {group: set() for group in rows_of}
    for names, group in zip(labels, groups.tolist(), strict=True):
        if group in labels_of:
            labels_of[group].update(names)
    for name in sorted(missing):
        if name not in in_train:
            group = min(missing[name])
            held_out[group] = False
            in_train |= labels_of[group]
