"""Pictures as inline SVG: sharp at any size, in the page's own colours and fonts, Chinese included.

Colours come from classes that the page's style sheet defines (``line``, ``faint``, ``grid`` ...), so a
picture follows the reader's light or dark theme. Lengths are in units of the ``viewBox``, about a pixel each.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from weitiao.core.messages import width
from weitiao.reporting.text import LOWER_IS_BETTER, SHARES, escape, number, shorten

MOST_POINTS = 500  # of a raw loss curve; more can't be seen
MOST_CLASSES = 30  # of a whole confusion matrix
CLASSES_SHOWN = 20  # of a larger one
Number = float | int


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * index, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def smoothed(values: Sequence[float]) -> list[float]:
    """An exponential moving average over a thirtieth of the run, without a start-up bias (as in Adam)."""
    keep = 1 - 1 / max(1.0, len(values) / 30)
    average, weight, found = 0.0, 0.0, []
    for value in values:
        average = keep * average + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        found.append(average / weight)
    return found


def thinned(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """A curve of at most ``MOST_POINTS`` points: means over neighbours."""
    parts = np.array_split(np.arange(len(steps)), min(len(steps), MOST_POINTS))
    means = [
        (float(np.mean([steps[i] for i in part])), float(np.mean([values[i] for i in part])))
        for part in parts
    ]
    return [mean[0] for mean in means], [mean[1] for mean in means]


def loss_curve(events: Sequence[Mapping[str, Any]]) -> str:
    """Training loss over steps, raw (faint) and smoothed; empty where no step was recorded."""
    found = _in_order([event for event in events if event["event"] == "step" and _finite(event.get("loss"))])
    if not found:
        return ""
    steps, losses = [event["step"] for event in found], [event["loss"] for event in found]
    # A single spike does not press the whole curve flat: it runs along the upper edge instead.
    top = max(float(np.quantile(losses, 0.99)), max(smoothed(losses))) * 1.05
    last = max(int(found[-1].get("total_steps") or 0), steps[-1])
    frame = _Frame(x=(0, last), y=(0.0, top or 1.0), y_text=lambda value: f"{value:g}")
    raw = frame.path(*thinned(steps, losses), "faint")
    return frame.svg(raw + frame.path(*thinned(steps, smoothed(losses)), "line"))


def score_curve(
    events: Sequence[Mapping[str, Any]], monitor: str, ngram: Mapping[str, Any] | None = None
) -> str:
    """The held-out score over steps, its best value marked; empty where there was no evaluation.

    ``ngram`` (``order``, ``tracked``, ``passed``) is drawn as a level, with the minute at which it was passed.
    """
    found = [
        each for each in events if each["event"] == "evaluation" and _finite(each["scores"].get(monitor))
    ]
    if found:  # the test set is evaluated once, at the end; the curve is of the split evaluated most often
        split, _ = Counter(each.get("split") for each in found).most_common(1)[0]
        found = _in_order([each for each in found if each.get("split") == split])
    if not found:
        return ""
    steps, scores = [event["step"] for event in found], [float(event["scores"][monitor]) for event in found]
    last = max([steps[-1], *(event.get("total_steps") or 0 for event in events if event["event"] == "step")])
    top = min(scores) if monitor in LOWER_IS_BETTER else max(scores)
    shown = [*scores, *([float(ngram["tracked"])] if ngram else [])]
    low, high = min(shown), max(shown)
    room = max(high - low, 0.02) * 0.18

    def tick_text(value: float) -> str:
        return f"{100 * value:g}%" if monitor in SHARES else f"{value:g}"

    frame = _Frame(x=(0, last), y=(low - room, high + 1.6 * room), y_text=tick_text)
    best = scores.index(top)
    x, y = frame.at(steps[best], top)
    anchor = "end" if x > frame.width - 120 else "start" if x < frame.left + 120 else "middle"
    words = both_texts(
        x,
        y - 12,
        f"best {number(monitor, top)}, step {steps[best]}",
        f"最佳 {number(monitor, top)}，第 {steps[best]} 步",
        f'class="strong" text-anchor="{anchor}"',
    )
    dots = "".join(
        '<circle cx="{:.1f}" cy="{:.1f}" r="2.5" class="dot"/>'.format(*frame.at(*pair))
        for pair in zip(steps, scores, strict=True)
    )
    mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" class="mark"/>'
    beside = _level(frame, ngram) if ngram else ""
    return frame.svg(beside + frame.path(steps, scores, "line") + dots + mark + words)


def _level(frame: "_Frame", ngram: Mapping[str, Any]) -> str:
    """A line across at what an n-gram is worth, its words on the side where the curve does not end."""
    level, when, order = float(ngram["tracked"]), ngram["passed"], ngram["order"]
    line = frame.path(frame.x, (level, level), "level")
    x, y = frame.at(frame.x[1], level)
    en, zh = f"{order}-gram {level:.3g}", f"{order} 元模型 {level:.3g}"
    if when:
        minute = when["seconds"] / 60
        en, zh = f"{en}, passed at minute {minute:.1f}", f"{zh}，第 {minute:.1f} 分钟超过"
    return line + both_texts(x, y - 6 if when else y + 15, en, zh, 'class="axis" text-anchor="end"')


def scale(score: float, bounds: Sequence[float] | None, baseline: float | None) -> str:
    """The score on a line from 0 to 1: its interval as a band, the baseline as a tick."""
    width, middle = 560, 26
    low, high = bounds or (score, score)

    def at(value: float) -> float:
        return 6 + (width - 12) * min(max(value, 0.0), 1.0)

    parts = [
        f'<line x1="6" x2="{width - 6}" y1="{middle}" y2="{middle}" class="rail"/>',
        f'<line x1="6" x2="{at(score):.1f}" y1="{middle}" y2="{middle}" class="railed"/>',
        f'<rect x="{at(low):.1f}" y="{middle - 9}" width="{max(at(high) - at(low), 2):.1f}" height="18" '
        'rx="9" class="band"/>',
        f'<circle cx="{at(score):.1f}" cy="{middle}" r="6" class="mark"/>',
    ]
    if baseline is not None:
        x = at(baseline)
        anchor = "start" if x < 60 else "end" if x > width - 60 else "middle"
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 12}" y2="{middle + 12}" class="tick"/>')
        parts.append(both_texts(x, middle + 29, "baseline", "基线", f'class="axis" text-anchor="{anchor}"'))
    return svg(width, 60, "".join(parts), "scale")


def whisker(score: float, bounds: Sequence[float] | None, overall: float) -> str:
    """One slice on a line from 0 to 1: interval, score, and the score of all rows as a tick."""
    low, high = bounds or (score, score)
    at = [4 + 192 * min(max(value, 0.0), 1.0) for value in (low, high, score, overall)]
    return svg(
        200,
        20,
        '<line x1="4" x2="196" y1="10" y2="10" class="rail thin"/>'
        f'<line x1="{at[3]:.1f}" x2="{at[3]:.1f}" y1="2" y2="18" class="tick"/>'
        f'<line x1="{at[0]:.1f}" x2="{at[1]:.1f}" y1="10" y2="10" class="whisker"/>'
        f'<circle cx="{at[2]:.1f}" cy="10" r="4" class="mark"/>',
        "whisk",
    )


def reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """Accuracy against confidence: bars on the dashed diagonal mean what they say; answers per bin below."""
    frame = _Frame(
        x=(0, 1),
        y=(0, 1),
        width=420,
        height=360,
        below=66,
        x_text=lambda value: f"{value:g}",
        y_text=lambda value: f"{value:g}",
    )
    most = max((entry["count"] for entry in bins), default=1)
    parts = []
    for entry in bins:
        (left, top), (right, bottom) = frame.at(entry["low"], entry["accuracy"]), frame.at(entry["high"], 0)
        inner = f'x="{left + 1:.1f}" width="{right - left - 2:.1f}"'
        title = (
            f"<title>{entry['low']:.2f}–{entry['high']:.2f}: n = {entry['count']}, "
            f"{entry['confidence']:.3f} → {entry['accuracy']:.3f}</title>"
        )
        parts.append(
            f'<rect {inner} y="{top:.1f}" height="{bottom - top:.1f}" rx="2" class="fill">{title}</rect>'
        )
        tall = 26 * entry["count"] / most
        parts.append(
            f'<rect {inner} y="{frame.height - 2 - tall:.1f}" height="{tall:.1f}" rx="1" class="quiet">'
            f"{title}</rect>"
        )
    (x1, y1), (x2, y2) = frame.at(0, 0), frame.at(1, 1)
    parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="diagonal"/>')
    return frame.svg("".join(parts), "square")


def confusion(labels: Sequence[str], cells: Sequence[Sequence[int]]) -> tuple[str, list[str]]:
    """The heat map of a confusion matrix, and the labels it shows: all, or the most confused of many.

    Colour is the share of a row (of all true examples of a label): right answers in the accent colour, wrong
    ones in the colour of ink, so that what is dark off the diagonal is what to look at.
    """
    table = np.asarray(cells)
    chosen = list(range(len(labels)))
    if len(labels) > MOST_CLASSES:
        wrong = table.sum(axis=0) + table.sum(axis=1) - 2 * np.diag(table)
        chosen = sorted(np.argsort(-wrong, kind="stable")[:CLASSES_SHOWN].tolist())
    shown = [labels[place] for place in chosen]
    names = [shorten(label, 14) for label in shown]
    pitch = 34 if len(chosen) <= 15 else 28
    wide = max((width(name) for name in names), default=0) * 7.2
    left, top = wide + 16, wide * 0.72 + 18
    parts = []
    for row, place in enumerate(chosen):
        y = top + row * pitch
        total = max(int(table[place].sum()), 1)
        parts.append(
            svg_text(left - 8, y + pitch / 2 + 4, escape(names[row]), 'class="label" text-anchor="end"')
        )
        turned = f'class="label" transform="rotate(-42 {left + (row + 0.5) * pitch:.1f} {top - 8:.1f})"'
        parts.append(svg_text(left + (row + 0.5) * pitch, top - 8, escape(names[row]), turned))
        for column, other in enumerate(chosen):
            parts.append(
                _cell(
                    left + column * pitch,
                    y,
                    pitch,
                    int(table[place, other]),
                    total,
                    place == other,
                    f"{shown[row]} → {shown[column]}",
                )
            )
    across = left + len(chosen) * pitch + wide * 0.72
    return svg(across, top + len(chosen) * pitch + 4, "".join(parts), "matrix"), shown


def top_confusions(
    labels: Sequence[str], cells: Sequence[Sequence[int]], n: int = 8
) -> list[tuple[str, str, int, int]]:
    """The most frequent confusions: (true, predicted, how often, true examples), most frequent first."""
    table = np.array(cells)
    support = table.sum(axis=1)
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:n]
    pairs = [divmod(int(place), len(labels)) for place in order]
    return [(labels[g], labels[p], int(table[g, p]), int(support[g])) for g, p in pairs if table[g, p]]


def _cell(x: float, y: float, pitch: float, count: int, total: int, right: bool, title: str) -> str:
    """One square of the heat map."""
    share = count / total
    kind, edge = ("hit" if right else "miss"), pitch - 2
    square = f'<rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{edge}" height="{edge}" rx="3"'
    found = f'{square} class="empty"/>'
    if not count:
        return found
    words = f"<title>{escape(title)}: {count} ({100 * share:.0f}%)</title>"
    found += f'{square} class="{kind}" fill-opacity="{0.08 + 0.87 * share:.2f}">{words}</rect>'
    tone = "over" if share > 0.5 else "count"
    return found + svg_text(
        x + pitch / 2, y + pitch / 2 + 4, str(count), f'class="{tone}" text-anchor="middle"'
    )


class _Frame:
    """Axes with a grid: turns values into places."""

    def __init__(
        self,
        x: tuple[Number, Number],
        y: tuple[Number, Number],
        *,
        width: int = 520,
        height: int = 260,
        below: int = 30,
        x_text: Callable[[float], str] = lambda value: f"{value:,.0f}",
        y_text: Callable[[float], str] = str,
    ) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height
        self.left, self.bottom, self.x_text, self.y_text = 52, height - below, x_text, y_text

    def at(self, x: Number, y: Number) -> tuple[float, float]:
        """Where a value lies in the picture; values off the scale lie on its edge."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return self.left + (self.width - 14 - self.left) * across, self.bottom - (self.bottom - 12) * min(
            up, 1.0
        )

    def path(self, x: Sequence[Number], y: Sequence[Number], kind: str) -> str:
        """A line through points."""
        points = " ".join("{:.1f},{:.1f}".format(*self.at(*pair)) for pair in zip(x, y, strict=True))
        return f'<polyline points="{points}" class="{kind}"/>'

    def svg(self, inside: str, kind: str = "chart") -> str:
        """The picture: grid and numbers below what is ``inside``."""
        parts = []
        for value in ticks(*self.y):
            _, y = self.at(self.x[0], value)
            parts.append(
                f'<line x1="{self.left}" x2="{self.width - 14}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            )
            parts.append(svg_text(self.left - 8, y + 4, self.y_text(value), 'class="axis" text-anchor="end"'))
        for value in ticks(*self.x, about=5):
            x, _ = self.at(value, self.y[0])
            parts.append(
                svg_text(x, self.bottom + 18, self.x_text(value), 'class="axis" text-anchor="middle"')
            )
        return svg(self.width, self.height, "".join(parts) + inside, kind)


def both_texts(x: float, y: float, en: str, zh: str, rest: str) -> str:
    """One label in both languages; ``rest`` are attributes with a class."""
    return "".join(
        svg_text(x, y, escape(words), rest.replace('class="', f'class="{tongue} '))
        for tongue, words in (("en", en), ("zh", zh))
    )


def svg_text(x: float, y: float, words: str, rest: str) -> str:
    """Words in a picture, at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {rest}>{words}</text>'


def svg(width: float, height: float, inside: str, kind: str) -> str:
    """A picture, so many units wide and high, that a screen reader passes over."""
    return f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" aria-hidden="true">{inside}</svg>'


def _in_order(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One event a step, in order: a resumed run takes some steps again, and the later record counts."""
    latest = {event["step"]: event for event in events}
    return [latest[step] for step in sorted(latest)]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
