"""``suspects.html``: the labels that are likely wrong, the most suspicious first. One file that loads nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from weitiao.reporting.page import document, header
from weitiao.reporting.sections import section
from weitiao.reporting.text import both, escape, shorten

MARKS = 400  # of a text


def page(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The page.

    Args:
        facts: ``data``, ``model``, ``rows``, ``estimated_wrong``, ``marked``.
        rows: of ``suspects.csv``, those to show.
    """
    data, model, count = escape(facts["data"]), escape(facts["model"]), f"{facts['rows']:,}"
    wrong, marked = f"{facts['estimated_wrong']:,}", f"{facts['marked']:,}"
    how = both(
        f"About {wrong} of {count} labels look wrong, {marked} of them for sure enough to be marked ●. Each row was "
        "judged by a head that never saw its label. Read them and decide: a hard text looks wrong, too.",
        f"{count} 个标签中约有 {wrong} 个可能有误，其中 {marked} 个较为确定，以 ● 标出。判断每一行的分类头都没有见过该行的标签。"
        "请逐条核对：较难的文本也会显得可疑。",
    )
    items = "".join(_row(row) for row in rows)
    shown = both(
        f"The first {len(rows):,}; suspects.csv has all.", f"前 {len(rows):,} 条，全部见 suspects.csv。"
    )
    sheet = section(
        both("Suspicious labels", "可疑的标签"), f'<ol class="errors">{items}</ol>', f"{how} {shown}"
    )
    return document(facts["data"], "\n".join([header(facts["data"], [data, model]), sheet]))


def _row(row: Mapping[str, Any]) -> str:
    mark = " ●" if row["marked"] else ""
    percent = {key: f"{100 * row[key]:.0f}%" for key in ("probability_label", "probability_suggested")}
    given = f"<b>{escape(row['label'])}</b> <em>{percent['probability_label']}</em>"
    if row["suggested"] != row["label"]:
        given += f" → <b>{escape(row['suggested'])}</b> <em>{percent['probability_suggested']}</em>"
    place = f'<span class="row">{row["row_number"]:,}{mark}</span>'
    text = f'<span class="words">{escape(shorten(row["text"], MARKS))}</span>'
    return f'<li>{place}{text}<span class="answer">{given}</span></li>'
