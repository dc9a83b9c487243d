"""Tables for a terminal in which a Chinese character takes two columns."""

from collections.abc import Mapping
from typing import Any

from weitiao.core.messages import say, width

LABEL_COLUMNS = 40  # with five columns of numbers a line stays well within 100


def fit(text: str, columns: int, right: bool = False) -> str:
    """The text padded, or cut with an ellipsis, to exactly ``columns`` terminal columns."""
    text = " ".join(text.split())
    if width(text) > columns:
        while text and width(text) > columns - 1:
            text = text[:-1]
        text += "…"
    space = " " * (columns - width(text))
    return space + text if right else text + space


def wrap(text: str, columns: int = 100) -> str:
    """The text broken into lines of at most ``columns`` terminal columns, at a space where there is one."""
    lines, rest = [], " ".join(text.split())
    while width(rest) > columns:
        cut = len(rest)
        while width(rest[:cut]) > columns:
            cut -= 1
        space = rest.rfind(" ", 0, cut + 1)
        cut = space if space > cut // 2 else cut
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return "\n".join([*lines, rest])


def rates_table(rows: Mapping[str, Mapping[str, float]], averages: Mapping[str, Mapping[str, float]]) -> str:
    """Precision, recall, F1 and support, laid out as scikit-learn and seqeval print them.

    An average with only an ``f1-score`` leaves the first two columns empty (scikit-learn's accuracy line).
    """
    names = [*rows, *averages]
    first = min(max((width(name) for name in names), default=0), LABEL_COLUMNS)
    heads = [say("precision", "精确率"), say("recall", "召回率"), "F1", say("support", "支持数")]

    def line(name: str, row: Mapping[str, float]) -> str:
        cells = [f"{row[key]:.3f}" if key in row else "" for key in ("precision", "recall", "f1-score")]
        cells.append(str(row["support"]))
        return fit(name, first, right=True) + "".join(fit(cell, 11, right=True) for cell in cells)

    lines = [" " * first + "".join(fit(head, 11, right=True) for head in heads), ""]
    lines += [line(name, row) for name, row in rows.items()]
    lines += ["", *(line(name, row) for name, row in averages.items())]
    return "\n".join(lines)


def headline(report: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The scores in ``names`` (score -> what people call it), each with its interval and its baseline."""
    first = max(width(name) for name in names.values())
    lines = []
    for score, name in names.items():
        if score not in report["scores"]:
            continue
        line = f"{fit(name, first)}  {report['scores'][score]:.3f}"
        if interval := report["intervals"].get(score):
            line += say("  95% interval ", "  95% 区间 ") + f"{interval[0]:.3f} – {interval[1]:.3f}"
        if score in report["baseline"]:
            line += say("  baseline ", "  基线 ") + f"{report['baseline'][score]:.3f}"
        lines.append(line)
    return "\n".join(lines)


def footer(report: Mapping[str, Any]) -> str:
    """What the baseline answers, the worst slice, and the notes: a line each."""
    lines = []
    if answer := report["baseline"].get("answer"):
        lines.append(say("The baseline always answers: ", "基线始终回答：") + str(answer))
    if worst := report.get("worst_slice"):
        low, high = worst["interval"] or (worst["score"], worst["score"])
        place = say(
            f"Worst slice: {worst['name']} ({worst['rows']} rows): ",
            f"最差切片：{worst['name']}（{worst['rows']} 行）：",
        )
        lines.append(f"{place}{worst['score']:.3f} ({low:.3f} – {high:.3f})")
    lines += report.get("notes", [])
    return "\n".join(wrap(line) for line in lines)


def sections(*parts: str) -> str:
    """Blocks of text with an empty line between them; empty ones fall out."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())
