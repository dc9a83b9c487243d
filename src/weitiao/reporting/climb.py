"""``report.html`` of a climb: one page that a learner can follow, rung by rung, in both languages."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, read_events
from weitiao.reporting import pictures
from weitiao.reporting.climb_words import WORDS
from weitiao.reporting.formulas import FORMULAS
from weitiao.reporting.page import document, header
from weitiao.reporting.sections import section
from weitiao.reporting.text import SCORES, both, duration, escape, interval, name_of, number, shorten, size

Found = Mapping[str, Any]
TITLE = "From digits to language · 从数字到语言"


def write_page(folder: Path, climbed: Found) -> Path:
    """Write ``report.html`` from what ``stages._climb_shown`` gathered and the runs' own events."""
    events = {run["folder"]: read_events(folder / run["folder"]) for run in _runs(climbed)}
    path = folder / "report.html"
    with atomic_file(path) as file:
        file.write(render(climbed, events))
    return path


def render(climbed: Found, events: Mapping[str, Sequence[Found]]) -> str:
    """The whole page as HTML.

    Args:
        events: of each run, by its folder.
    """
    seconds = duration(sum(run["seconds"] for run in _runs(climbed)))
    count = len(climbed["rungs"])
    said = [both(f"{count} rungs", f"{count} 级"), both(f"{seconds} of training", f"训练共 {seconds}")]
    parts = [header(TITLE, said), _overview(climbed)]
    parts += [_rung(place, rung, events) for place, rung in enumerate(climbed["rungs"], 1)]
    return document(TITLE, "\n".join(parts))


def table_text(climbed: Found) -> str:
    """What each run scored and cost, for a terminal: at most 100 columns."""
    lines = []
    for place, rung in enumerate(climbed["rungs"], 1):
        for run in rung["runs"]:
            score = number(run["monitor"], run["score"])
            base = "" if run["baseline"] is None else number(run["monitor"], run["baseline"])
            beside = say(f"baseline {base}", f"基线 {base}") if base else ""
            monitor = say(*SCORES.get(run["monitor"], (run["monitor"], run["monitor"])))
            lines.append(
                f"{place}  {say(*run['title'])}: {monitor} {score}  {beside}  {duration(run['seconds'])}"
            )
    return "\n".join(lines)


def _runs(climbed: Found) -> list[Found]:
    return [run for rung in climbed["rungs"] for run in rung["runs"]]


def _overview(climbed: Found) -> str:
    """One line a run: what it scored and what it cost."""
    heads = (
        both("rung", "台阶"), both("score", "得分"), both("95% interval", "95% 区间"), both("baseline", "基线"),
        both("training", "训练用时"), both("trained", "训练的参数"), both("file", "文件"),
    )  # fmt: skip
    lines = []
    for place, rung in enumerate(climbed["rungs"], 1):
        for run in rung["runs"]:
            monitor = run["monitor"]
            title = f"{place}. {both(*WORDS[rung['name']].title)} · {both(*map(escape, run['title']))}"
            cells = (
                title,
                f"{name_of(monitor, SCORES)} {number(monitor, run['score'])}",
                interval(monitor, run["interval"]),
                "" if run["baseline"] is None else number(monitor, run["baseline"]), duration(run["seconds"]),
                f"{run['trained_parameters']:,}", size(run["weights_bytes"]),
            )  # fmt: skip
            lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    top = "<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"
    hint = both(
        "Scores are those of the saved models on rows that none of them has seen. The baseline answers "
        "always the same.",
        "得分由保存后的模型在从未见过的数据上测得。基线是始终给出同一个回答。",
    )
    table = f'<div class="scroll"><table>{top}{"".join(lines)}</table></div>'
    return section(both("What each rung scored and cost", "每一级的得分与代价"), table, hint)


def _rung(place: int, rung: Found, events: Mapping[str, Sequence[Found]]) -> str:
    """The sheet of one rung: words, formulas with their check, pictures, curves."""
    words = WORDS[rung["name"]]
    parts = [f"<p>{both(*paragraph)}</p>" for paragraph in words.before]
    parts += FORMULAS[rung["name"]]
    parts += [f"<p>{both(*paragraph)}</p>" for paragraph in words.after]
    parts += [SHOWN[key](rung[key]) for key in SHOWN if rung.get(key)]
    parts += [_curves(run, events.get(run["folder"], ())) for run in rung["runs"]]
    return section(f"{place}. {both(*words.title)}", "".join(parts))


def _curves(run: Found, events: Sequence[Found]) -> str:
    loss, score = pictures.loss_curve(events), pictures.score_curve(events, run["monitor"])
    titled = [(both("training loss", "训练损失"), loss), (name_of(run["monitor"], SCORES), score)]
    title = both(*map(escape, run["title"]))
    panels = "".join(f"<div><h3>{title} · {what}</h3>{picture}</div>" for what, picture in titled if picture)
    return f'<div class="inside">{panels}</div>' if panels else ""


# --- what a rung shows beside its curves


def _digits(digits: Sequence[Found]) -> str:
    title = both("What it says of digits that it has never seen", "它对从未见过的数字的回答")
    return f'<h3>{title}</h3><div class="pictures">{"".join(map(_digit, digits))}</div><br>'


def _errors(errors: Sequence[Found]) -> str:
    title = both("Its most confident errors", "它最自信的错误")
    return f'<h3>{title}</h3><div class="pictures">{"".join(map(_digit, errors))}</div><br>'


def _digit(digit: Found) -> str:
    sure = "" if digit["score"] is None else f" {100 * digit['score']:.0f}%"
    right = str(digit["said"]) == str(digit["gold"])
    truth = "" if right else f"<br>{both('is', '实为')} <b>{escape(digit['gold'])}</b>"
    said = f"{both('says', '回答')} <b>{escape(digit['said'])}</b>{sure}{truth}"
    alt = escape(digit["gold"])
    return (
        f'<figure><img src="{escape(digit["picture"])}" alt="{alt}"><figcaption>{said}</figcaption></figure>'
    )


def _gradient(check: Found) -> str:
    """The formula on one digit, number by number, beside automatic differentiation."""
    heads = ("k", "z", "p", both("p − [k = y]", "p − [k = y]"), both("autograd", "自动求导"))
    columns = (check["logits"], check["probabilities"], check["formula"], check["autograd"])
    rows = "".join(
        f"<tr><td>{escape(name)}{' ✓' if name == check['gold'] else ''}</td>"
        + "".join(f"<td>{value:.4f}</td>" for value in values)
        + "</tr>"
        for name, *values in zip(check["names"], *columns, strict=True)
    )
    top = "<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"
    title = both("The formula on one digit", "用一个数字验算公式")
    loss = f"{check['loss_formula']:.6f}"
    said = both(
        f"Its loss: −log p<sub>y</sub> = {loss}; the objective in the program says {check['loss']:.6f}. "
        f"The two gradients "
        f"differ by at most {check['difference']:.1e}.",
        f"它的损失：−log p<sub>y</sub> = {loss}；程序中的训练目标给出 {check['loss']:.6f}。两种梯度最多相差 "
        f"{check['difference']:.1e}。",
    )
    picture = f'<figure><img src="{escape(check["picture"])}" alt=""></figure>'
    figure = f'<div class="pictures">{picture}</div><p>{said}</p>'
    table = f'<div class="scroll"><table>{top}{rows}</table></div>'
    return f'<h3>{title}</h3><div class="wide">{table}<div>{figure}</div></div><br>'


def _texts(texts: Sequence[Found]) -> str:
    """Texts with what a model says of them, and what is true."""
    said, true = (f"<em>{both(*pair)}</em>" for pair in (("said", "回答"), ("true", "真实")))
    items = ""
    for place, text in enumerate(texts, 1):
        sure = f" <em>{100 * text['score']:.0f}%</em>" if "score" in text else ""
        words = [
            escape(shorten(text[key], most)) for key, most in (("text", 200), ("said", 60), ("gold", 40))
        ]
        items += (
            f'<li><span class="row">{place}</span><span class="words">{words[0]}</span><span class="answer">'
        )
        items += f"{said} <b>{words[1]}</b>{sure} · {true} <b>{words[2]}</b></span></li>"
    title = both("What it says of new texts", "它对新文本的回答")
    return f'<h3>{title}</h3><ol class="errors">{items}</ol><br>'


def _low_rank(layer: Found) -> str:
    rank, inputs = layer["a"]
    outputs = layer["b"][0]
    whole, thin = inputs * outputs, rank * (inputs + outputs)
    name = escape(layer["layer"])
    said = both(
        f"The layer <b>{name}</b>: its change has {outputs} × {inputs} = {whole:,} places, but is kept as A "
        f"({rank} × {inputs}) and B ({outputs} × {rank}), {thin:,} numbers. The trained product has rank "
        f"{layer['rank']}. "
        f"All {layer['layers']} layers together: {layer['numbers']:,} numbers.",
        f"以 <b>{name}</b> 层为例：它的改变有 {outputs} × {inputs} = {whole:,} 个位置，却只保存为 A（{rank} × {inputs}）"
        f"与 B（{outputs} × {rank}），共 {thin:,} 个数。训练后乘积的秩为 {layer['rank']}。全部 {layer['layers']} 层合计 "
        f"{layer['numbers']:,} 个数。",
    )
    return f'<p class="note">{said}</p><br>'


def _asked(asked: Sequence[Found]) -> str:
    title = both("Questions about pictures", "看图提问")
    items = "".join(
        _digit(each).replace("<figcaption>", f"<figcaption>{escape(each['question'])}<br>") for each in asked
    )
    return f'<h3>{title}</h3><div class="pictures">{items}</div><br>'


def _spelled(check: Found) -> str:
    """The formula on one text, token by token."""
    rows = "".join(
        f"<tr><td>{escape(piece)}</td><td>{100 * p:.2f}%</td><td>{-math.log2(p):.2f}</td></tr>"
        for piece, p in zip(check["pieces"], check["probabilities"], strict=True)
    )
    heads = (escape(check["first"]) + " …", "p", both("bits, −log₂ p", "比特 −log₂ p"))
    top = "<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"
    ours, theirs, choices = (
        f"{check['loss_formula']:.6f}", f"{check['loss']:.6f}", f"{math.exp(check['loss']):.0f}"
    )  # fmt: skip
    said = both(
        f"A text that it has never read, token by token: L = {ours} by the formula, {theirs} by the "
        f"objective in the "
        f"program; as if it hesitated between e<sup>L</sup> = {choices} tokens. "
        f"{check['bits_per_byte']:.2f} bits per byte.",
        f"一段从未读过的文本，逐个词元来看：按公式 L = {ours}，程序中的训练目标给出 {theirs}；相当于在 e<sup>L</sup> = "
        f"{choices} 个词元之间犹豫。每字节 {check['bits_per_byte']:.2f} 比特。",
    )
    title = both("The formula on one text", "用一段文本验算公式")
    table = f'<div class="scroll"><table>{top}{rows}</table></div>'
    return f'<h3>{title}</h3><div class="wide">{table}<div><p>{said}</p></div></div><br>'


def _temperatures(found: Found) -> str:
    top = "<tr><th>τ</th>" + "".join(f"<th>{escape(token)}</th>" for token in found["tokens"]) + "</tr>"
    rows = "".join(
        f"<tr><td>{temperature:g}</td>" + "".join(f"<td>{100 * p:.1f}%</td>" for p in shares) + "</tr>"
        for temperature, shares in found["rows"]
    )
    title = both("How the first answer may begin, by temperature", "第一个回答的开头，随温度变化")
    return f'<h3>{title}</h3><div class="scroll"><table>{top}{rows}</table></div><br>'


SHOWN: dict[str, Callable[[Any], str]] = {
    "digits": _digits, "gradient": _gradient, "errors": _errors, "spelled": _spelled, "texts": _texts,
    "low_rank": _low_rank, "asked": _asked, "temperatures": _temperatures,
}  # fmt: skip
