"""The picture and the tables of a comparison: each method's score with its interval over seeds, and what it cost.

They show what ``comparison.json`` holds (see ``stages.compare``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from weitiao.core.messages import say, width
from weitiao.reporting.card import _code, _plain, _table
from weitiao.reporting.page import document, header
from weitiao.reporting.pictures import both_texts, svg, svg_text, ticks
from weitiao.reporting.sections import section
from weitiao.reporting.terminal import COLUMNS
from weitiao.reporting.text import (
    SCORES,
    SHARES,
    SPLITS,
    TASKS,
    both,
    duration,
    escape,
    interval,
    name_of,
    number,
    shorten,
    size,
)

Comparison = Mapping[str, Any]
BASELINE = ("majority baseline", "多数类基线")
GAP = "  "
NAME_MARKS = 26  # of a method's name in the picture
WIDTH, PITCH = 720, 34  # of the picture, and of one method in it


def heads(result: Comparison) -> list[tuple[str, str]]:
    """What the columns are called, in both languages."""
    monitor = result["monitor"]
    return [
        ("method", "方法"), SCORES.get(monitor, (monitor, monitor)), ("95% interval", "95% 区间"),
        ("trained", "训练参数"), ("on disk", "磁盘占用"), ("time", "时间"), ("memory", "内存"),
    ]  # fmt: skip


def cells(result: Comparison) -> list[list[str]]:
    """A row for each method, and one for the majority baseline."""
    monitor = result["monitor"]
    rows = [
        [
            method["name"],
            number(monitor, method["score"]),
            interval(monitor, method["interval"]) or "–",
            f"{method['trained_parameters']:,}",
            size(method["weights_bytes"]),
            duration(method["seconds"]),
            "–" if method["memory_bytes"] is None else size(method["memory_bytes"]),
        ]
        for method in result["methods"]
    ]
    if result["baseline"] is not None:
        rows.append([say(*BASELINE), number(monitor, result["baseline"]), *["–"] * 5])
    return rows


def table_text(result: Comparison) -> str:
    """The table for a terminal, within 100 columns: long names of methods are cut."""
    rows = [[say(*names) for names in heads(result)], *cells(result)]
    widths = [max(width(row[place]) for row in rows) for place in range(len(rows[0]))]
    widths[0] = min(widths[0], COLUMNS - sum(widths[1:]) - len(GAP) * (len(widths) - 1))
    lines = []
    for row in rows:
        first = shorten(row[0], widths[0]) if width(row[0]) > widths[0] else row[0]
        filled = [" " * (wide - width(cell)) + cell for cell, wide in zip(row[1:], widths[1:], strict=True)]
        lines.append(GAP.join([first + " " * (widths[0] - width(first)), *filled]))
    return "\n".join(lines)


def how_to_read(result: Comparison) -> tuple[str, str]:
    """What the figures are, in both languages."""
    seeds, rows = len(result["seeds"]), result["data"][result["split"]]["rows"]
    split = SPLITS.get(result["split"], (result["split"],) * 2)
    en = (
        f"Mean over {seeds} seeds on the same {rows:,} rows ({split[0]}); every method and seed was trained on the "
        "same rows. The interval is Student's t over the seeds, so it covers chance in training, not what other "
        "test rows would change. Time: the steps of training. Memory: the most the process "
        "held in a run; what earlier runs in the process left may add to it."
    )
    zh = (
        f"在同样的 {rows:,} 行（{split[1]}）上对 {seeds} 个随机种子取平均；所有方法与种子的训练数据相同。区间为各种子间的"
        "学生 t 区间，反映训练的随机性，不含换一批测试数据的变化。时间：训练各步之和。内存：该次运行中进程的峰值占用，可能含同一进程中先前运行的残留。"
    )
    if seeds == 1:
        en += " With one seed there is no interval: pass --seeds 3."
        zh += "只有一个种子时没有区间：请用 --seeds 3。"
    return en, zh


def markdown(title: str, result: Comparison) -> str:
    """``README.md``: the table, what it means, and each run."""
    monitor = result["monitor"]
    rows = [tuple(_plain(cell) for cell in row) for row in cells(result)]
    runs = [
        (_code(run["folder"]), str(run["seed"]), number(monitor, run["score"]), duration(run["seconds"]))
        for method in result["methods"]
        for run in method["runs"]
    ]
    names = (say("run", "运行"), say("seed", "种子"), say(*heads(result)[1]), say("time", "时间"))
    task = say(*TASKS.get(result["task"], (result["task"],) * 2))
    model, data = _code(result["model"]), _code(result["data"]["train"]["name"])
    facts = say(f"{task}, model {model}, data {data}.", f"{task}，模型 {model}，数据 {data}。")
    parts = [
        f"# {_plain(title)}",
        facts,
        _table(tuple(say(*names) for names in heads(result)), rows),
        say(*how_to_read(result)),
        f"## {say('Runs', '各次运行')}",
        _table(names, runs),
        say(
            "`config.yaml` holds the settings; `comparison.json` all figures; `compare.html` the picture.",
            "设置见 `config.yaml`，全部数据见 `comparison.json`，图见 `compare.html`。",
        ),
    ]
    return "\n\n".join(parts) + "\n"


def page(title: str, result: Comparison) -> str:
    """``compare.html``: the picture and the table, one file that loads nothing."""
    head = "<tr>" + "".join(f"<th>{both(*names)}</th>" for names in heads(result)) + "</tr>"
    shown = [[escape(cell) for cell in row] for row in cells(result)]
    if result["baseline"] is not None:
        shown[-1][0] = both(*BASELINE)
    rows = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in shown)
    data = result["data"]["train"]["name"]
    score = both(*SCORES.get(result["monitor"], (result["monitor"],) * 2))
    legend = both(
        "Large dot: mean; band: its interval; small dots: the single runs.",
        "大点：均值；色带：区间；小点：各次运行。",
    )
    parts = [
        header(title, [name_of(result["task"], TASKS), escape(result["model"]), escape(data)]),
        section(score, picture(result), legend),
        section(both("What it cost", "代价"), f'<div class="scroll"><table>{head}{rows}</table></div>',
                both(*how_to_read(result))),
    ]  # fmt: skip
    return document(title, "\n".join(parts))


def picture(result: Comparison) -> str:
    """A line for each method: mean, interval, single runs; the baseline where it lies between them."""
    monitor, methods, baseline = result["monitor"], result["methods"], result["baseline"]
    low, high = _span(methods)
    names = [shorten(method["name"], NAME_MARKS) for method in methods]
    left = max(width(name) for name in names) * 7.2 + 20
    bottom = 12 + PITCH * len(methods)
    marked = baseline is not None and low <= baseline <= high

    def at(value: float) -> float:
        return left + (WIDTH - 40 - left) * (value - low) / (high - low)

    parts = []
    for value in ticks(low, high, about=5):
        shown = f"{100 * value:g}%" if monitor in SHARES else f"{value:g}"
        parts.append(f'<line x1="{at(value):.1f}" x2="{at(value):.1f}" y1="8" y2="{bottom}" class="grid"/>')
        parts.append(svg_text(at(value), bottom + 18, shown, 'class="axis" text-anchor="middle"'))
    if marked:
        x = at(baseline)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{bottom}" class="diagonal"/>')
        parts.append(both_texts(x, bottom + 34, "baseline", "基线", 'class="axis" text-anchor="middle"'))
    for place, (method, name) in enumerate(zip(methods, names, strict=True)):
        parts.append(_line(method, name, 12 + PITCH * (place + 0.5), left, at, monitor))
    return svg(WIDTH, bottom + (40 if marked else 24), "".join(parts), "chart")


def _line(method: Mapping[str, Any], name: str, y: float, left: float, at: Any, monitor: str) -> str:
    """One method: its name, band, dots and mean, in figures too."""
    shown = number(monitor, method["score"])
    bounds = interval(monitor, method["interval"])
    title = escape(f"{method['name']}: {shown}" + (f" ({bounds})" if bounds else ""))
    parts = [svg_text(left - 12, y + 4, escape(name), 'class="label" text-anchor="end"')]
    if method["interval"]:
        first, last = (at(bound) for bound in method["interval"])
        parts.append(f'<line x1="{first:.1f}" x2="{last:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="whisker"/>')
    parts += [
        f'<circle cx="{at(run["score"]):.1f}" cy="{y:.1f}" r="2.5" class="dot"/>' for run in method["runs"]
    ]
    x = at(method["score"])
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" class="mark"><title>{title}</title></circle>')
    parts.append(svg_text(x, y - 9, shown, 'class="strong" text-anchor="middle"'))
    return "".join(parts)


def _span(methods: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """What the axis reaches: all intervals and runs, with some room."""
    values = [run["score"] for method in methods for run in method["runs"]]
    values += [bound for method in methods for bound in method["interval"] or ()]
    room = max(0.06 * (max(values) - min(values)), 0.005)
    return min(values) - room, max(values) + room
