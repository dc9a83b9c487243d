"""The picture and table of a compression: size, latency and score of each candidate."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from weitiao.core.messages import language, say
from weitiao.reporting.pictures import _Frame
from weitiao.reporting.style import STYLE
from weitiao.reporting.text import SCORES, both, escape, number, size

Candidate = Mapping[str, Any]


def best(points: Sequence[Candidate]) -> list[bool]:
    """Which points no other one beats: smaller or equal, as fast or faster, as good or better, and one of them more."""
    keys = [(point["bytes"], point["latency_ms"], -point["score"]) for point in points]
    return [
        not any(all(a <= b for a, b in zip(other, key, strict=True)) and other != key for other in keys)
        for key in keys
    ]


def picture(points: Sequence[Candidate]) -> str:
    """Size across, latency up, both on logarithmic scales; the score beside each point, the unbeaten ones filled."""
    across = [math.log10(point["bytes"] / 1e6) for point in points]
    up = [math.log10(point["latency_ms"]) for point in points]
    frame = _Frame(
        x=(min(across) - 0.12, max(across) + 0.25),
        y=(min(up) - 0.08, max(up) + 0.12),
        width=640,
        height=330,
        x_text=lambda value: f"{10**value:.3g} MB",
        y_text=lambda value: f"{10**value:.3g} ms",
    )
    parts = []
    front = best(points)
    for point, x, y, unbeaten in zip(points, across, up, front, strict=True):
        left, top = frame.at(x, y)
        right = left < frame.width - 190
        shown = f"{point['name']} · {number(point['monitor'], point['score'])}"
        parts.append(
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="5.5" class="{"mark" if unbeaten else "quiet"}">'
            f"<title>{escape(shown)}</title></circle>"
        )
        place = f'x="{left + (10 if right else -10):.1f}" y="{top + 4:.1f}" text-anchor="{"start" if right else "end"}"'
        parts.append(f'<text {place} class="{"strong" if unbeaten else "axis"}">{escape(shown)}</text>')
    return frame.svg("".join(parts))


def table_text(points: Sequence[Candidate]) -> str:
    """The candidates as a Markdown table, in the reader's language."""
    monitor = say(*SCORES.get(points[0]["monitor"], (points[0]["monitor"],) * 2))
    heads = [
        say("steps", "步骤"), say("size", "体积"), say("one text", "单条延迟"), say("texts/s", "条/秒"), monitor,
        say("calibration error", "校准误差"), say("same decisions", "决策一致"),
    ]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(cells(point)) + " |" for point in points]
    return "\n".join(lines)


def cells(point: Candidate) -> list[str]:
    """One row of the table."""
    error = point["calibration_error"]
    return [
        str(point["name"]),
        size(point["bytes"]),
        f"{point['latency_ms']:.1f} ms",
        f"{point['texts_per_second']:,.0f}",
        number(point["monitor"], point["score"]),
        "–" if error is None else f"{error:.3f}",
        f"{100 * point['agreement']:.2f} %",
    ]


def page(title: str, points: Sequence[Candidate]) -> str:
    """Both as one HTML file that loads nothing."""
    names = [
        both("steps", "步骤"), both("size", "体积"), both("one text", "单条延迟"), both("texts/s", "条/秒"),
        both(*SCORES.get(points[0]["monitor"], (points[0]["monitor"],) * 2)),
        both("calibration error", "校准误差"), both("same decisions", "决策一致"),
    ]  # fmt: skip
    tongue = language()
    radios = "".join(
        f'<input type="radio" name="tongue" class="tongue" id="{each}"{" checked" if each == tongue else ""}>'
        for each in ("zh", "en")
    )
    toggle = '<div class="toggle"><label for="zh">中文</label><label for="en">English</label></div>'
    head = "<tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(point)) + "</tr>" for point in points
    )
    hint = both(
        "Size and latency on logarithmic scales; down and left is better. Filled: no other point beats it.",
        "体积与延迟为对数刻度，越靠左下越好。实心点：没有其他点全面优于它。",
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="{tongue}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · Weitiao</title><style>{STYLE}</style></head>\n<body>{radios}<main>"
        f'<header><div><div class="brand">微调 Weitiao</div><h1>{escape(title)}</h1></div>{toggle}</header>'
        f'<section><p class="hint">{hint}</p>{picture(points)}</section>'
        f'<section><div class="scroll"><table>{head}{rows}</table></div></section></main></body></html>\n'
    )
