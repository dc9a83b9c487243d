"""The pictures and tables of a search: every trial, what mattered, and how each setting relates to the score.

They show what ``tune.json`` holds (see ``stages.tune``).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from weitiao.core.messages import say, width
from weitiao.reporting.card import _code, _plain, _table
from weitiao.reporting.page import document, header
from weitiao.reporting.pictures import _Frame, svg, svg_text
from weitiao.reporting.sections import section
from weitiao.reporting.terminal import COLUMNS
from weitiao.reporting.text import (
    SCORES,
    SHARES,
    TASKS,
    both,
    duration,
    escape,
    interval,
    name_of,
    number,
    shorten,
)

Search = Mapping[str, Any]
STATES = {"complete": ("complete", "完成"), "pruned": ("given up", "提前放弃"), "failed": ("failed", "失败")}
SHOWN = 10  # trials in the terminal's table
BAR_WIDTH, BAR_PITCH = 720, 30


def value_text(value: Any) -> str:
    """A setting's value for people."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def ordered(result: Search) -> list[Mapping[str, Any]]:
    """The trials, best first; those that have no score last."""

    def key(row: Mapping[str, Any]) -> tuple[int, float, int]:
        place = ("complete", "pruned", "failed").index(row["state"])
        return place, -(row["score"] if row["score"] is not None else -math.inf), row["place"]

    return sorted(result["trials"], key=key)


def heads(result: Search) -> list[tuple[str, str]]:
    """What the columns are called, in both languages."""
    monitor = SCORES.get(result["monitor"], (result["monitor"],) * 2)
    names = [(axis["name"],) * 2 for axis in result["space"]]
    dev = (f"{monitor[0]} (dev)", f"{monitor[1]}（验证集）")
    return [("trial", "试验"), dev, ("time", "时间"), *names]


def cells(result: Search, row: Mapping[str, Any]) -> list[str]:
    """A trial's row."""
    score = "–" if row["score"] is None else number(result["monitor"], row["score"])
    if row["state"] != "complete":
        score += f" ({say(*STATES[row['state']])})"
    seconds = "–" if row["seconds"] is None else duration(row["seconds"])
    settings = (row["settings"].get(axis["name"]) for axis in result["space"])
    shown = ["–" if value is None else value_text(value) for value in settings]
    return [str(row["place"] + 1), score, seconds, *shown]


def table_text(result: Search) -> str:
    """The best trials for a terminal, within 100 columns, and the best one's test score."""
    rows = [[say(*names) for names in heads(result)]]
    rows += [cells(result, row) for row in ordered(result)[:SHOWN]]
    widths = [min(max(width(row[place]) for row in rows), 26) for place in range(len(rows[0]))]
    while sum(widths) + 2 * (len(widths) - 1) > COLUMNS and len(widths) > 3:
        widths.pop()  # too many settings: the last ones are in the report
    lines = []
    for row in rows:
        parts = []
        for cell, wide in zip(row, widths, strict=False):
            cut = shorten(cell, wide) if width(cell) > wide else cell
            parts.append(cut + " " * (wide - width(cut)))
        lines.append("  ".join(parts).rstrip())
    hidden = len(result["trials"]) - SHOWN
    if hidden > 0:
        lines.append(say(f"... and {hidden} more in the report", f"……另有 {hidden} 次见报告"))
    return "\n".join([*lines, say(*test_line(result))])


def test_line(result: Search) -> tuple[str, str]:
    """The best trial's score on the rows that no trial was chosen by, in both languages."""
    test, monitor = result["test"], result["monitor"]
    if not test:
        return (
            "There is no test part: only the dev part, by which the best was chosen.",
            "没有测试集，只有用于选择的验证集。",
        )
    name = SCORES.get(monitor, (monitor,) * 2)
    score, bounds = number(monitor, test["score"]), interval(monitor, test["interval"])
    base = "–" if test["baseline"] is None else number(monitor, test["baseline"])
    en = f"Test, scored once, for the best trial: {name[0]} {score} ({bounds}; baseline {base})"
    zh = f"测试集（只对最佳试验评估一次）：{name[1]} {score}（{bounds}；基线 {base}）"
    if "ensemble" in result and "test" in result["ensemble"]["scores"]:
        count, also = len(result["ensemble"]["members"]), result["ensemble"]["scores"]["test"][monitor]
        en += f"; the best {count} averaged: {number(monitor, also)}"
        zh += f"；最好的 {count} 个取平均：{number(monitor, also)}"
    return en, zh


def markdown(title: str, result: Search) -> str:
    """``README.md``: all trials and what mattered."""
    task = say(*TASKS.get(result["task"], (result["task"],) * 2))
    model, data = _code(result["model"]), _code(result["data"]["train"]["name"])
    rows = [tuple(_plain(cell) for cell in cells(result, row)) for row in ordered(result)]
    parts = [
        f"# {_plain(title)}",
        say(f"{task}, model {model}, data {data}.", f"{task}，模型 {model}，数据 {data}。"),
        say(*test_line(result)),
        _table(tuple(_plain(say(*names)) for names in heads(result)), rows),
    ]
    if result["importance"]:
        shares = [(_plain(name), f"{100 * share:.0f}%") for name, share in result["importance"].items()]
        parts += [f"## {say('What mattered', '哪些设置重要')}", say(*ABOUT_IMPORTANCE),
                  _table((say("setting", "设置"), say("share", "占比")), shares)]  # fmt: skip
    parts.append(
        say(
            "`best` leads to the best trial's run folder, whose `config.yaml` is its recipe; `tune.json` holds all "
            "figures; `report.html` the pictures.",
            "`best` 指向最佳试验的运行目录，其中 `config.yaml` 即其配置；全部数据见 `tune.json`，图见 `report.html`。",
        )
    )
    return "\n\n".join(parts) + "\n"


ABOUT_IMPORTANCE = (
    "The share of the variance of the complete trials' scores that each setting explains, within the ranges searched "
    "(fANOVA). It needs some dozens of trials to be steady.",
    "在所搜索的范围内，各设置对已完成试验得分方差的解释比例（fANOVA）。试验达到几十次后才较稳定。",
)


def page(title: str, result: Search) -> str:
    """``report.html``: the pictures and the table, one file that loads nothing."""
    head = "".join(f"<th>{both(*(escape(part) for part in names))}</th>" for names in heads(result))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(result, row)) + "</tr>"
        for row in ordered(result)
    )
    data = result["data"]["train"]["name"]
    legend = both(
        "A dot for each trial; filled: trained to the end, faint: given up early; the large one is the best.",
        "每点为一次试验；实心：训练完成，浅色：提前放弃；大点为最佳。",
    )
    scored = both(*test_line(result))
    parts = [
        header(title, [name_of(result["task"], TASKS), escape(result["model"]), escape(data)]),
        section(both("Best trial", "最佳试验"), f"<p>{scored}</p>" + history(result), legend),
        section(both("What mattered", "哪些设置重要"), importance(result), both(*ABOUT_IMPORTANCE)),
        section(both("Each setting against the score", "各设置与得分"), scatters(result), legend),
        section(
            both("All trials", "全部试验"), f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
        ),
    ]
    return document(title, "\n".join(part for part in parts if part))


def importance(result: Search) -> str:
    """A bar for each setting; empty where there were too few trials."""
    shares = result["importance"]
    if not shares:
        return ""
    left = max(width(name) for name in shares) * 7.2 + 20
    parts = []
    for place, (name, share) in enumerate(shares.items()):
        y = 8 + BAR_PITCH * place
        wide = max((BAR_WIDTH - 70 - left) * share, 1)
        parts.append(svg_text(left - 10, y + 15, escape(name), 'class="label" text-anchor="end"'))
        parts.append(f'<rect x="{left:.1f}" y="{y}" width="{wide:.1f}" height="20" rx="3" class="fill"/>')
        parts.append(svg_text(left + wide + 8, y + 15, f"{100 * share:.0f}%", 'class="strong"'))
    return svg(BAR_WIDTH, 12 + BAR_PITCH * len(shares), "".join(parts), "chart")


def history(result: Search) -> str:
    """The scores in the order of the trials, and the best so far as a line."""
    scored = [row for row in result["trials"] if row["score"] is not None]
    frame = _Frame(
        x=(0.5, len(result["trials"]) + 0.5), y=_span(scored), width=640, y_text=_score_text(result)
    )
    best, steps = -math.inf, []
    for row in scored:
        best = max(best, row["score"]) if row["state"] == "complete" else best
        if best > -math.inf:
            steps.append((row["place"] + 1, best))
    line = frame.path([x for x, _ in steps], [y for _, y in steps], "faint")
    dots = "".join(_dot(frame, row, row["place"] + 1, result) for row in scored)
    return frame.svg(line + dots)


def scatters(result: Search) -> str:
    """A small picture for each setting: its value across, the score up."""
    scored = [row for row in result["trials"] if row["score"] is not None]
    parts = []
    for axis in result["space"]:
        rows = [row for row in scored if axis["name"] in row["settings"]]
        if rows:
            parts.append(f"<h3>{escape(axis['name'])}</h3>{_scatter(result, axis, rows, _span(scored))}")
    return "".join(parts)


def _scatter(
    result: Search, axis: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], span: tuple[float, float]
) -> str:
    name, y_text = axis["name"], _score_text(result)
    if "choices" in axis:
        places = {str(choice): float(place) for place, choice in enumerate(axis["choices"])}
        labels = [shorten(choice, 16) for choice in places]
        frame = _Frame(x=(-0.5, len(places) - 0.5), y=span, height=220, y_text=y_text, x_text=_named(labels))
        return frame.svg(
            "".join(_dot(frame, row, places[str(row["settings"][name])], result) for row in rows)
        )
    change = math.log10 if axis["log"] else float
    back = (lambda value: f"{10**value:.3g}") if axis["log"] else (lambda value: f"{value:.3g}")
    ends = (change(axis["low"]), change(axis["high"]))
    frame = _Frame(x=ends, y=span, height=220, y_text=y_text, x_text=back)
    return frame.svg("".join(_dot(frame, row, change(row["settings"][name]), result) for row in rows))


def _named(labels: Sequence[str]) -> Any:
    def text(value: float) -> str:
        return escape(labels[int(value)]) if float(value).is_integer() and 0 <= value < len(labels) else ""

    return text


def _dot(frame: _Frame, row: Mapping[str, Any], x: float, result: Search) -> str:
    left, top = frame.at(x, row["score"])
    kind, radius = ("dot", 3.5) if row["state"] == "complete" else ("quiet", 3)
    if row["place"] == result["best"]:
        kind, radius = "mark", 6
    settings = ", ".join(f"{key} {value_text(value)}" for key, value in row["settings"].items())
    title = escape(f"{row['place'] + 1}: {number(result['monitor'], row['score'])} · {settings}")
    return (
        f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{radius}" class="{kind}"><title>{title}</title></circle>'
    )


def _span(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """What the axis of scores reaches, with some room."""
    values = [row["score"] for row in rows]
    room = max(0.08 * (max(values) - min(values)), 0.005)
    return min(values) - room, max(values) + room


def _score_text(result: Search) -> Any:
    share = result["monitor"] in SHARES
    return lambda value: f"{100 * value:g}%" if share else f"{value:g}"


def rate_page(title: str, result: Mapping[str, Any]) -> str:
    """``learning-rate.html``: the losses of a range test by the rate, and the rate suggested."""
    rates, losses, smooth = (result[name] for name in ("rates", "losses", "smoothed"))
    across = [math.log10(rate) for rate in rates]
    low, high = min(smooth), max(smooth[0], losses[0])
    room = max(0.15 * (high - low), 1e-3)
    frame = _Frame(
        x=(across[0], across[-1]),
        y=(low - room, high + 2 * room),
        width=640,
        x_text=lambda value: f"{10**value:.0e}",
        y_text=lambda value: f"{value:g}",
    )
    x, top = frame.at(math.log10(result["suggestion"]), high + 2 * room)
    shown = f"{result['suggestion']:.1e}"
    inside = [
        frame.path(across, losses, "faint"),
        frame.path(across, smooth, "line"),
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{frame.bottom}" class="diagonal"/>',
        svg_text(x + 8, top + 14, shown, 'class="strong"'),
    ]
    legend = both(
        "Faint: the loss of each step; line: smoothed. The rate rises by the same factor each step; suggested is where "
        "the loss falls most steeply, at most a tenth of the rate at its lowest point.",
        "浅色：每步损失；粗线：平滑后。学习率每步乘以同一倍数；建议值取损失下降最快处，且不超过最低点学习率的十分之一。",
    )
    name = both("Learning-rate range test", "学习率范围测试")
    said = [escape(result["model"]), escape(result["tuning"])]
    return document(title, header(title, said) + section(name, frame.svg("".join(inside)), legend))
