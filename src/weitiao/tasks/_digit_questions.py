"""Questions about pictures of digits, and their answers in words, for a table that asks none itself."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.data.columns import IMAGES
from weitiao.data.encode import rows_in_chunks
from weitiao.data.readers import read_table
from weitiao.data.table import Table

ENGLISH = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
)  # fmt: skip
CHINESE = "零一二三四五六七八九"
ANYTHING = "What does this picture show?"  # of labels that are no digits

# kind -> the question; how many pictures it is about; the answer from the digits
KINDS: dict[str, tuple[str, int, Callable[..., str]]] = {
    "name": ("Which digit is this?", 1, lambda a: ENGLISH[a]),
    "name_zh": ("这是数字几？", 1, lambda a: CHINESE[a]),
    "even": ("Is this digit even?", 1, lambda a: "no" if a % 2 else "yes"),
    "even_zh": ("这个数字是偶数吗？", 1, lambda a: "不是" if a % 2 else "是"),
    "sum": ("What is the sum of these two digits?", 2, lambda a, b: ENGLISH[a + b]),
    "larger": (
        "Which of these two digits is larger?", 2,
        lambda a, b: "the first" if a > b else "the second" if b > a else "neither",
    ),
}  # fmt: skip


def kinds_of(wish: str) -> list[str]:
    """The kinds in ``name,even,...``.

    Raises:
        WeitiaoError: one is unknown, or there is none.
    """
    found = [kind.strip().replace("-", "_") for kind in wish.split(",") if kind.strip()]
    strange = [kind for kind in found if kind not in KINDS]
    if strange or not found:
        raise WeitiaoError(
            say(
                f"--questions {wish}: choose among {', '.join(KINDS)}, separated by commas",
                f"--questions {wish}：请从 {', '.join(KINDS)} 中选择，用逗号分隔",
            )
        )
    return found


def answered(kind: str, labels: Sequence[str]) -> tuple[str, str]:
    """The question of a kind about digits (as many as it is about), and its answer."""
    question, pictures, answer = KINDS[kind]
    return question, answer(*(int(label) for label in labels[:pictures]))


def with_questions(table: Table, kinds: Sequence[str], most: int = 0) -> Table:
    """A table of pictures and digits as one of questions: each row asks one kind, the next row the next.

    A question about two pictures takes the row before as its second. Other labels are asked for themselves.

    Args:
        most: questions, about rows drawn at random, the same each time; 0: one about every row.
    """
    columns = table.find(IMAGES)
    rows = [row for chunk in rows_in_chunks(table.rows, list(columns.values())) for row in chunk]
    pairs = [(row[columns["image"]], str(row[columns["label"]]).strip()) for row in rows]
    digits = all(len(label) == 1 and label.isascii() and label.isdigit() for _, label in pairs)
    if 0 < most < len(pairs):
        pairs = [pairs[row] for row in sorted(random.Random(0).sample(range(len(pairs)), most))]
    asked: list[dict[str, Any]] = []
    for number, (image, label) in enumerate(pairs):
        before, label_b = pairs[number - 1]
        kind = kinds[number % len(kinds)]
        question, answer = answered(kind, (label, label_b)) if digits else (ANYTHING, label)
        two = digits and KINDS[kind][1] == 2
        asked.append(
            {"image": image, "image_b": before if two else None, "question": question, "answer": answer}
        )
    return replace(table, rows=read_table(asked).rows, headerless=False)
