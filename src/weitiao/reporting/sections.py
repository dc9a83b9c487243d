"""The sheets of a report that show how good a model is: each from one evaluation report, or nothing.

Every function returns HTML, and an empty string where there is nothing to show.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from weitiao.reporting import pictures
from weitiao.reporting.text import (
    SCORES,
    SHARES,
    SLICE_VALUES,
    SLICES,
    SPLITS,
    both,
    duration,
    escape,
    interval,
    name_of,
    number,
    shorten,
)

ROWS_OPEN = 20  # of a per-class table; the others are one click away
TEXT_MARKS = 280  # of a text among the errors
Report = Mapping[str, Any]


def section(title: str, inside: str, hint: str = "") -> str:
    """A sheet of the page; empty where there is nothing inside."""
    hint = f'<p class="hint">{hint}</p>' if hint else ""
    return f"<section><h2>{title}</h2>{hint}{inside}</section>" if inside else ""


def pair(left: str, right: str) -> str:
    """Two sheets side by side where both have something to show."""
    return f'<div class="two">{left}{right}</div>' if left and right else left + right


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """A list of names and values (HTML)."""
    if not rows:
        return ""
    return (
        '<dl class="facts">' + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"
    )


def plain(value: Any) -> str:
    """A recorded value as HTML: lists cut after some entries, numbers shortened."""
    if isinstance(value, bool):
        return both("yes", "是") if value else both("no", "否")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(key)} {plain(entry)}" for key, entry in list(value.items())[:8])
    if isinstance(value, list | tuple):
        return ", ".join(plain(entry) for entry in value[:5]) + (
            f" … ({len(value)})" if len(value) > 5 else ""
        )
    return escape(shorten(value, 200))


def hero(report: Report, split: str, metrics: Report) -> str:
    """The score that matters, its interval, and what answering always the same would have scored."""
    monitor = report["monitor"]
    score, bounds = report["scores"][monitor], report["intervals"].get(monitor)
    baseline = report["baseline"].get(monitor)
    beside = []
    if bounds:
        beside.append(both("95% interval", "95% 区间") + f" <b>{interval(monitor, bounds)}</b>")
    if baseline is not None:
        answer = escape(shorten(report["baseline"].get("answer", ""), 30))
        always = both(f"always answering “{answer}”", f"始终回答“{answer}”")
        if report.get("kind") == "language_model":
            always = both("frequencies alone", "仅按频率猜")
        beside.append(f"{always} <b>{number(monitor, baseline)}</b>")
    if ngram := report.get("ngram"):
        words = both(f"{ngram['order']}-gram", f"{ngram['order']} 元模型")
        beside.append(f"{words} <b>{number(monitor, ngram['bits_per_byte'])}</b>")
    rows = f"{report['rows']:,}"
    title = f"{name_of(monitor, SCORES)} · {name_of(split, SPLITS)} · " + both(f"{rows} rows", f"{rows} 行")
    line = pictures.scale(score, bounds, baseline) if monitor in SHARES or 0 <= score <= 1 else ""
    tiles = [_tile(key, report) for key in report["scores"] if key != monitor and key != "log_loss"][:4]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in report.get("notes", []))
    return (
        f'<section class="hero"><div><div class="soft">{title}</div>'
        f'<div class="big">{number(monitor, score)}</div><div class="beside">{" · ".join(beside)}</div>'
        f'{line}{notes}</div><dl class="tiles">{"".join(tiles)}{_cost_tiles(metrics)}</dl></section>'
    )


def _tile(key: str, report: Report) -> str:
    """One of the other scores, small, with what stands beside it."""
    said = [interval(key, report["intervals"].get(key))]
    if key in report["baseline"]:
        known = number(key, report["baseline"][key])
        said.append(both(f"baseline {known}", f"基线 {known}"))
    small = " · ".join(part for part in said if part)
    value = number(key, report["scores"][key])
    return f"<div><dt>{name_of(key, SCORES)}</dt><dd>{value}<small>{small}</small></dd></div>"


def _cost_tiles(metrics: Report) -> str:
    cost, model = metrics.get("cost") or {}, metrics.get("model") or {}
    tiles = ""
    if cost.get("actual_seconds"):
        speed = cost.get("tokens_per_second")
        small = both(f"{speed:,.0f} tokens/s", f"{speed:,.0f} 词元/秒") if speed else ""
        if pictures := cost.get("pictures_per_second"):
            small = both(f"{pictures:,.0f} pictures/s", f"{pictures:,.0f} 张/秒")
        spent = duration(cost["actual_seconds"])
        tiles += (
            f"<div><dt>{both('Training time', '训练用时')}</dt><dd>{spent}<small>{small}</small></dd></div>"
        )
    if model.get("trained_parameters") and model.get("parameters"):
        share = 100 * model["trained_parameters"] / model["parameters"]
        small = both(
            f"{share:.3g}% of {model['parameters']:,}", f"占 {model['parameters']:,} 的 {share:.3g}%"
        )
        title = both("Trained parameters", "训练的参数")
        tiles += f"<div><dt>{title}</dt><dd>{model['trained_parameters']:,}<small>{small}</small></dd></div>"
    return tiles


def others(metrics: Report, split: str) -> str:
    """The headline of every other split that was evaluated."""
    rows = []
    for other, report in metrics["evaluation"].items():
        if other != split:
            monitor = report["monitor"]
            bounds = interval(monitor, report["intervals"].get(monitor))
            value = f"{name_of(monitor, SCORES)} {number(monitor, report['scores'][monitor])}"
            rows.append((name_of(other, SPLITS), f'{value} <span class="soft">{bounds}</span>'))
    return section(both("Other splits", "其他数据集"), facts(rows))


def curves(events: Sequence[Report], monitor: str, ngram: Report | None = None) -> str:
    """The training loss and the held-out score, by step; beside a language model's, what an n-gram is worth."""
    loss, score = pictures.loss_curve(events), pictures.score_curve(events, monitor, ngram)
    panels = []
    if loss:
        panels.append(f"<div><h3>{both('Training loss', '训练损失')}</h3>{loss}</div>")
    if score:
        title = both("held-out", "留出集")
        panels.append(f"<div><h3>{name_of(monitor, SCORES)} · {title}</h3>{score}</div>")
    hint = both(
        "By optimizer step. The faint line is each step's loss, the strong one its running mean.",
        "横轴为优化步数。浅线是每一步的损失，深线是其滑动平均。",
    )
    return section(
        both("Learning curve", "学习曲线"),
        f'<div class="inside">{"".join(panels)}</div>' if panels else "",
        hint,
    )


def confusion(report: Report) -> str:
    """The confusion matrix with the most frequent confusions."""
    if "confusion" not in report:
        return ""
    picture, shown = pictures.confusion(report["labels"], report["confusion"])
    items = "".join(
        f'<li><span>{escape(shorten(gold, 24))} → {escape(shorten(predicted, 24))}</span><span class="n">'
        + both(f"{count} of {support}", f"{support} 中的 {count}")
        + "</span></li>"
        for gold, predicted, count, support in pictures.top_confusions(report["labels"], report["confusion"])
    )
    hint = both(
        "Rows are the true labels, columns the predicted ones. Green is right, grey is confused; "
        "the stronger the colour, the larger the share of its row.",
        "行是真实标签，列是预测标签。绿色为预测正确，灰色为混淆，颜色越重，在该行中占比越高。",
    )
    if len(shown) < len(report["labels"]):
        hint += " " + both(
            f"The {len(shown)} most confused of {len(report['labels'])} labels.",
            f"仅显示 {len(report['labels'])} 个标签中混淆最多的 {len(shown)} 个。",
        )
    title = both("Most frequent confusions", "最常见的混淆")
    listed = f'<div><h3>{title}</h3><ul class="plain">{items}</ul></div>'
    inside = f'<div class="wide"><div class="scroll">{picture}</div>{listed if items else ""}</div>'
    return section(both("Confusion matrix", "混淆矩阵"), inside, hint)


def classes(report: Report) -> str:
    """Precision, recall, F1 and support of each class, the worst first."""
    classes = report.get("per_class") or {}
    if not classes:
        return ""
    ordered = sorted(classes.items(), key=lambda item: (item[1]["f1-score"], item[0]))
    heads = (
        both("label", "标签"),
        both("precision", "精确率"),
        both("recall", "召回率"),
        "F1",
        "",
        both("support", "支持数"),
    )
    top = "<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"
    rows = [_class_row(escape(name), row) for name, row in ordered]
    averages = {name: row for name, row in (report.get("averages") or {}).items() if "precision" in row}
    summary = [_class_row(name_of(name, SCORES), row, "sum") for name, row in averages.items()]
    shown = "".join(rows[:ROWS_OPEN] + summary)
    table = f'<div class="scroll"><table>{top}{shown}</table></div>'
    if rest := rows[ROWS_OPEN:]:
        title = both(f"{len(rest)} more labels", f"其余 {len(rest)} 个标签")
        table += f'<details><summary>{title}</summary><div class="scroll"><table>{top}{"".join(rest)}'
        table += "</table></div></details>"
    return section(both("Per class", "各类别"), table, both("Lowest F1 first.", "按 F1 从低到高排列。"))


def _class_row(name: str, row: Report, kind: str = "") -> str:
    """One line of the per-class table; ``name`` is HTML."""
    bar = f'<td class="bar"><i><i style="width:{100 * row["f1-score"]:.1f}%"></i></i></td>'
    cells = "".join(f"<td>{row[key]:.3f}</td>" for key in ("precision", "recall", "f1-score"))
    return f'<tr class="{kind}"><td>{name}</td>{cells}{bar}<td>{int(row["support"]):,}</td></tr>'


def calibration(report: Report) -> str:
    """The reliability diagram."""
    if not report.get("reliability"):
        return ""
    error = report["scores"].get("expected_calibration_error", 0.0)
    hint = both(
        "Accuracy against the probability given. A bar that ends on the diagonal means what it says. "
        f"Expected calibration error {error:.3f}. Grey: how many answers.",
        "横轴为给出的概率，纵轴为实际准确率；柱顶落在对角线上，概率就名副其实。"
        f"期望校准误差 {error:.3f}。灰色为答案数量。",
    )
    return section(both("Calibration", "校准"), pictures.reliability(report["reliability"]), hint)


def slices(report: Report) -> str:
    """Scores by slice, the worst first."""
    slices = report.get("slices") or []
    if not slices:
        return ""
    monitor = report["monitor"]
    overall = report["scores"][monitor]
    lines = []
    for entry in slices:
        known = SLICE_VALUES if entry["by"] in ("language", "digits") else {}
        name = f'<span class="soft">{name_of(entry["by"], SLICES)}</span> {name_of(entry["value"], known)}'
        lines.append(
            f"<tr><td>{name}</td><td>{entry['rows']:,}</td>"
            f"<td>{pictures.whisker(entry['score'], entry['interval'], overall)}</td>"
            f"<td>{number(monitor, entry['score'])}</td></tr>"
        )
    heads = (both("slice", "切片"), both("rows", "行数"), "", name_of(monitor, SCORES))
    top = "<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"
    hint = both(
        "With 95% intervals; the tick is the score of all rows. Slices under 20 rows or 2% are left out.",
        "附 95% 区间；竖线为全部数据的得分。少于 20 行或 2% 的切片不列出。",
    )
    return section(
        both("Slices, worst first", "切片表现，最差在前"),
        f'<div class="scroll"><table>{top}{"".join(lines)}</table></div>',
        hint,
    )


def errors(report: Report) -> str:
    """The errors to read first."""
    errors = report.get("worst_errors") or []
    if errors and "picture" in errors[0]:
        return _pictures(errors)
    items = "".join(
        f'<li><span class="row">{escape(entry["row_number"])}</span>'
        f'<span class="words">{escape(shorten(entry["text"], TEXT_MARKS))}</span>'
        f'<span class="answer">{_answer(entry)}</span></li>'
        for entry in errors
    )
    hint = both(
        "The most confidently wrong first, by row number. errors.csv has more of them.",
        "把握最大的错误在前，左侧为行号。更多错误见 errors.csv。",
    )
    return section(
        both("Worst errors", "最严重的错误"), f'<ol class="errors">{items}</ol>' if items else "", hint
    )


def _pictures(errors: Sequence[Report]) -> str:
    """The errors as pictures, each with what was said of it and what is true."""
    items = "".join(
        f'<figure><img src="{escape(entry["picture"])}" alt="{escape(shorten(entry["text"], 60))}">'
        f'<figcaption><span class="row">{escape(shorten(entry["text"], 24))}</span><br>{_answer(entry)}</figcaption>'
        "</figure>"
        for entry in errors
    )
    hint = both(
        "The most confidently wrong first. Would you have known better? errors.csv lists them by row number.",
        "把握最大的错误在前。换作你能认对吗？errors.csv 按行号列出。",
    )
    return section(both("Worst errors", "最严重的错误"), f'<div class="pictures">{items}</div>', hint)


def _answer(entry: Report) -> str:
    """What was true and what was said instead, with what is known of how sure the model was."""
    if "missed" in entry:
        sides = [(both("missed", "漏掉"), entry["missed"]), (both("spurious", "多报"), entry["spurious"])]
        return "<br>".join(f"<em>{name}</em> {escape(shorten(value, 160))}" for name, value in sides)

    def side(name: str, key: str) -> str:
        value = entry[key]
        said = f"{value:.3g}" if isinstance(value, float) else shorten(value, 60)
        sure = entry.get(f"probability_{key}")
        return f"<em>{name}</em> <b>{escape(said)}</b>" + (
            "" if sure is None else f" <em>{100 * sure:.0f}%</em>"
        )

    return f"{side(both('said', '预测'), 'predicted')} · {side(both('true', '真实'), 'gold')}"
