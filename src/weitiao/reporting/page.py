"""``report.html``: one file that shows a run to people, in Chinese and English.

The page holds no script and loads nothing, and its content policy forbids both, so that texts from a data set
stay texts. The language toggle is two radio buttons and a style rule.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from weitiao.core.messages import language
from weitiao.core.runs import atomic_file, read_events, read_json
from weitiao.reporting import sections
from weitiao.reporting.sections import Report, facts, pair, plain, section
from weitiao.reporting.style import STYLE
from weitiao.reporting.text import SPLITS, TASKS, both, duration, escape, name_of, size


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run folder from its metrics, events and settings, and nothing else.

    Returns:
        The path of the page.

    Raises:
        WeitiaoError: ``metrics.json`` is missing or broken.
    """
    folder = Path(folder)
    metrics = read_json(folder / "metrics.json")
    path = folder / "report.html"
    with atomic_file(path) as file:
        file.write(render(folder.resolve().name, metrics, read_events(folder), read_config(folder)))
    return path


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a run; empty where they were not kept."""
    path = folder / "config.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    return found if isinstance(found, dict) else {}


def main_split(metrics: Report) -> str:
    """The split whose scores are the headline: the test set, else the last; empty if none was evaluated."""
    splits = list(metrics.get("evaluation") or {})
    return "test" if "test" in splits else splits[-1] if splits else ""


def render(name: str, metrics: Report, events: Sequence[Report], config: Report) -> str:
    """The whole page as HTML."""
    split = main_split(metrics)
    report = metrics["evaluation"][split] if split else {}
    parts = [_head(name, metrics)]
    if report:
        parts += [sections.hero(report, split, metrics), sections.others(metrics, split)]
    parts.append(
        sections.curves(events, metrics.get("monitor") or report.get("monitor", ""), report.get("ngram"))
    )
    if report:
        parts += [sections.confusion(report), sections.classes(report)]
        parts.append(pair(sections.calibration(report), sections.slices(report)))
        parts.append(sections.errors(report))
    parts.append(pair(_data(metrics), _training(metrics)))
    parts.append(pair(_settings(config), _environment(metrics)))
    return document(name, "\n".join(part for part in parts if part))


def document(title: str, inside: str) -> str:
    """A whole page in two languages, around HTML: loads nothing, runs nothing."""
    tongue = language()
    radios = "".join(
        f'<input type="radio" name="tongue" class="tongue" id="{each}"{" checked" if each == tongue else ""}>'
        for each in ("zh", "en")
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        f'<!doctype html>\n<html lang="{tongue}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · Weitiao</title><style>{STYLE}</style></head>\n"
        f"<body>{radios}<main>\n{inside}\n</main></body></html>\n"
    )


def _head(name: str, metrics: Report) -> str:
    model = metrics.get("model") or {}
    said = [name_of(metrics["task"], TASKS)] if "task" in metrics else []
    said += [escape(model[key]) for key in ("name", "tuning") if model.get(key)]
    return header(name, said)


def header(name: str, said: Sequence[str]) -> str:
    """The head of a page: its name, some facts (HTML), and the choice of the language."""
    toggle = '<div class="toggle"><label for="zh">中文</label><label for="en">English</label></div>'
    return (
        f'<header><div><div class="brand">微调 Weitiao</div><h1>{escape(name)}</h1>'
        f'<div class="soft">{" · ".join(said)}</div></div>{toggle}</header>'
    )


def _data(metrics: Report) -> str:
    rows = []
    for split, data in (metrics.get("data") or {}).items():
        if isinstance(data, dict):
            count = f"{data.get('rows', 0):,}"
            mark = f'<br><span class="soft">sha256 {escape(str(data.get("sha256") or "–")[:16])}</span>'
            value = f"{escape(data.get('name', ''))} · {both(f'{count} rows', f'{count} 行')}{mark}"
            rows.append((name_of(split, SPLITS), value))
    findings = "".join(
        f"<li><span>{escape(found.get('message', found.get('code', '')))}</span>"
        f'<span class="n">{escape(found.get("count", ""))}</span></li>'
        for found in metrics.get("data_findings") or []
    )
    clean = both("Nothing found wrong with the data.", "没有发现数据问题。")
    found = f'<ul class="plain">{findings}</ul>' if findings else f'<p class="soft">{clean}</p>'
    return section(
        both("Data", "数据"),
        facts(rows) + f"<br><h3>{both('Findings', '数据检查')}</h3>{found}" if rows else "",
    )


def _training(metrics: Report) -> str:
    """What the run was to cost and did cost, and whether what should have been trained was."""
    cost = metrics.get("cost") or {}
    rows = []
    for name, key, shown in (
        (both("Time", "时间"), "seconds", duration),
        (both("Memory", "内存"), "memory_bytes", size),
    ):
        guess, actual = cost.get(f"estimated_{key}"), cost.get(f"actual_{key}")
        if actual:
            said = shown(actual)
            if guess:
                off = f"{100 * (guess - actual) / actual:+.0f}%"
                said += (
                    ' <span class="soft">'
                    + both(f"estimated {shown(guess)}, {off}", f"预估 {shown(guess)}，{off}")
                    + "</span>"
                )
            rows.append((name, said))
    inside = facts(rows)
    if engagement := metrics.get("engagement"):
        found = facts([(escape(key.replace("_", " ")), plain(value)) for key, value in engagement.items()])
        inside += ("<br>" if rows else "") + f"<h3>{both('What moved', '参数变化')}</h3>{found}"
    return section(both("Training", "训练"), inside)


def _settings(config: Report) -> str:
    said = facts(
        [(escape(key), plain(value)) for key, value in config.items() if value not in (None, "", [], {})]
    )
    return section(
        both("Settings", "设置"), said, both("config.yaml repeats this run.", "config.yaml 可重现本次运行。")
    )


def _environment(metrics: Report) -> str:
    rows = [(escape(key), plain(value)) for key, value in (metrics.get("environment") or {}).items()]
    if "seed" in metrics:
        rows.append((both("seed", "随机种子"), escape(metrics["seed"])))
    if opens := (metrics.get("model") or {}).get("opens_in_transformers"):
        rows.append(("transformers", escape(opens)))
    return section(both("Environment", "环境"), facts(rows))
