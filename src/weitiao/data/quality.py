"""What is wrong with the data, said before training: one line each, with a count and the first rows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.data.arrow import ROW_NUMBER
from weitiao.data.splits import column, label_names, text_ids
from weitiao.data.table import batches

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

FIRST_ROWS = 20
SHOWN_ROWS = 5
IMBALANCE_RATIO = 100  # of the commonest label to the rarest
MAJORITY_SHARE = 0.95


@dataclass(frozen=True)
class Finding:
    """One kind of flaw.

    Attributes:
        code: ``empty_text``, ``duplicate``, ``two_labels``, ``overlap``, ``label_once``, ``imbalance``,
            ``truncated``.
        count, total: rows it touches, of how many.
        rows: the first row numbers, as a person counts in the source.
        message: one line, in the reader's language.
    """

    code: str
    count: int
    total: int
    rows: list[int] = field(default_factory=list)
    message: str = ""


def inspect(
    train: "Dataset",
    test: "Dataset | None" = None,
    *,
    lengths: "Sequence[int] | np.ndarray | None" = None,
    max_length: int | None = None,
    text_keys: Sequence[str] = ("text",),
    label_key: str = "label",
) -> list[Finding]:
    """The flaws of the data, worst first; an empty list where there are none.

    Texts are the same if they are after NFKC, without case and with white space collapsed.

    Args:
        train, test: records with ``row_number``.
        lengths: tokens of each training text, special ones included, before any cut.
        max_length: tokens a text is cut to.
        text_keys: what must be the same for two rows to have the same text (two texts of a pair, say).
        label_key: labels, lists of labels or spans; numbers are not judged as labels. May be missing.
    """
    ids = text_ids(train, text_keys)
    empty = _empty(train, text_keys)
    labels = column(train, label_key) if label_key in train.column_names else None
    found = [_finding("empty_text", train, empty, say("empty texts", "文本为空"))]
    found += _repeats(train, ids, empty, labels)
    if test is not None:
        found.append(_overlap(ids, test, text_ids(test, text_keys)))
    if labels is not None and not _are_numbers(labels):
        found += _label_counts(train, labels)
    if lengths is not None and max_length is not None:
        found.append(_truncated(train, lengths, max_length))
    return [finding for finding in found if finding.count]


def check_labels(train_labels: Iterable[Any], test_labels: Iterable[Any] | None = None) -> None:
    """Refuse labels that nothing can be learnt or measured from.

    Args:
        train_labels, test_labels: one entry a row: a label, a list of labels, spans, or a number.

    Raises:
        WeitiaoError: training has one label only (and no row without it), or test has a label never seen in
            training.
    """
    train = list(train_labels)
    known = Counter(name for label in train for name in label_names(label))
    without = sum(1 for label in train if not label_names(label))
    if not known:
        raise WeitiaoError(
            say("No row has a label, so there is nothing to learn", "没有一行有标签，无从学习")
        )
    if len(known) == 1 and not without and not any(_is_spans(label) for label in train):
        only = next(iter(known))
        raise WeitiaoError(
            say(
                f"All {len(train):,} rows have the same label '{only}'. Training needs at least two: "
                "is this the right column?",
                f"全部 {len(train):,} 行的标签都是“{only}”。训练至少需要两种标签：列选对了吗？",
            )
        )
    if test_labels is None or _are_numbers(train):
        return
    unseen = Counter(name for label in test_labels for name in label_names(label) if name not in known)
    if unseen:
        names = ", ".join(f"'{name}' ({count:,})" for name, count in unseen.most_common(5))
        more = say(f" and {len(unseen) - 5} more", f" 等 {len(unseen)} 种") if len(unseen) > 5 else ""
        raise WeitiaoError(
            say(
                f"The test set has labels that training never shows: {names}{more}. "
                "Add such texts to training, or take them out of the test set",
                f"测试集里有训练集从未出现的标签：{names}{more}。请在训练集中补充，或从测试集中去掉",
            )
        )


# --- the single checks


def _finding(code: str, data: "Dataset", mask: "np.ndarray", what: str, count: int | None = None) -> Finding:
    """``mask`` marks rows; ``count`` is their number unless something else is counted."""
    import numpy as np

    numbers = (
        [int(number) for number in data[np.flatnonzero(mask)[:FIRST_ROWS]][ROW_NUMBER]] if mask.any() else []
    )
    count, total = int(mask.sum()) if count is None else count, len(data)
    shown = ", ".join(map(str, numbers[:SHOWN_ROWS])) + (", ..." if count > SHOWN_ROWS else "")
    where = say(f" (rows {shown})", f"（第 {shown} 行）") if numbers else ""
    share = f"{count / max(total, 1):.1%}"
    message = say(
        f"{count:,} of {total:,} ({share}) {what}{where}",
        f"{total:,} 条中有 {count:,} 条（{share}）{what}{where}",
    )
    return Finding(code, count, total, numbers, message)


def _empty(data: "Dataset", keys: Sequence[str]) -> "np.ndarray":
    import numpy as np

    blank = (
        any(not str(cell).strip() for cell in row)
        for batch in batches(data, keys)
        for row in zip(*(batch[key] for key in keys), strict=True)
    )
    return np.fromiter(blank, dtype=bool, count=len(data))


def _repeats(
    train: "Dataset", ids: "np.ndarray", empty: "np.ndarray", labels: list[Any] | None
) -> list[Finding]:
    """Rows of texts with more than one label, and rows that repeat an earlier text and label."""
    import numpy as np

    names = [""] * len(ids) if labels is None else [str(label) for label in labels]
    numbers: dict[str, int] = {}
    label_ids = np.fromiter(
        (numbers.setdefault(name, len(numbers)) for name in names), np.int64, count=len(ids)
    )
    _, groups = np.unique(ids, return_inverse=True)
    pairs, first = np.unique(groups * max(len(numbers), 1) + label_ids, return_index=True)
    repeated = np.ones(len(ids), dtype=bool)
    repeated[first] = False
    contradicted = np.bincount(pairs // max(len(numbers), 1))[groups] > 1 if len(ids) else empty
    repeat = say("repeat an earlier text with the same label", "与前面的文本及标签重复")
    clash = say("have a text that also stands under another label", "的文本还出现在另一个标签下")
    return [
        _finding("two_labels", train, contradicted & ~empty, clash),
        _finding("duplicate", train, repeated & ~empty, repeat),
    ]


def _overlap(train_ids: "np.ndarray", test: "Dataset", test_ids: "np.ndarray") -> Finding:
    import numpy as np

    what = say(
        "test texts also stand in training, so the score is too good", "测试文本也在训练集中，分数会偏高"
    )
    return _finding("overlap", test, np.isin(test_ids, train_ids), what)


def _label_counts(train: "Dataset", labels: list[Any]) -> list[Finding]:
    import numpy as np

    names = [label_names(label) for label in labels]
    counts = Counter(name for row in names for name in set(row))
    found = []
    once = {name for name, count in counts.items() if count == 1}
    if once:
        mask = np.fromiter((not once.isdisjoint(row) for row in names), dtype=bool, count=len(names))
        shown = ", ".join(sorted(once)[:SHOWN_ROWS]) + (", ..." if len(once) > SHOWN_ROWS else "")
        found.append(
            _finding(
                "label_once",
                train,
                mask,
                say(f"have a label seen only once: {shown}", f"的标签只出现一次：{shown}"),
            )
        )
    if len(counts) > 1:
        (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
        if many >= IMBALANCE_RATIO * few or many >= MAJORITY_SHARE * counts.total():
            message = say(
                f"Labels are very unequal: '{most}' has {many:,} rows, '{least}' only {few:,}. "
                "Consider class weights, and judge by macro F1",
                f"标签极不均衡：“{most}”有 {many:,} 条，“{least}”只有 {few:,} 条。"
                "可用类别权重，并看宏平均 F1",
            )
            found.append(Finding("imbalance", few, len(labels), [], message))
    return found


def _truncated(train: "Dataset", lengths: Any, max_length: int) -> Finding:
    import numpy as np

    lengths = np.asarray(lengths)
    lost = np.maximum(lengths - max_length, 0).sum() / max(lengths.sum(), 1)
    what = say(
        f"texts are cut to {max_length} tokens, which loses {lost:.1%} of all tokens",
        f"文本被截断到 {max_length} 个 token，共丢失 {lost:.1%} 的 token",
    )
    return _finding("truncated", train, lengths > max_length, what)


def _are_numbers(labels: Sequence[Any]) -> bool:
    return bool(labels) and all(isinstance(label, float) for label in labels)


def _is_spans(label: Any) -> bool:
    return isinstance(label, (list, tuple)) and any(isinstance(item, dict) for item in label)
