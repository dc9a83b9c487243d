"""``README.md`` in a run folder: the model card, with what a stranger must know before using the model."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, read_json
from weitiao.reporting.page import main_split, read_config
from weitiao.reporting.text import SCORES, SPLITS, TASKS, interval, number, shorten

PIPELINE_TAGS = {
    "text_classification": "text-classification",
    "token_classification": "token-classification",
    "relation_extraction": "text-classification",
    "text_matching": "sentence-similarity",
    "image_classification": "image-classification",
    "image_text_matching": "zero-shot-image-classification",
    "image_to_text": "visual-question-answering",
    "chat": "text-generation",
    "summarization": "summarization",
    "text_generation": "text-generation",
    "masked_lm": "fill-mask",
    "causal_lm": "text-generation",
}
PRETRAINED = ("masked_lm", "causal_lm")  # what other models begin with
LANGUAGE_SHARE = 0.05  # of the evaluated texts, from which on a language is named
Metrics = Mapping[str, Any]


def write_card(folder: str | Path) -> Path:
    """Write the model card of a run folder from its metrics and settings, in the user's language.

    Returns:
        The path of ``README.md``.

    Raises:
        WeitiaoError: ``metrics.json`` is missing or broken.
    """
    folder = Path(folder)
    metrics = read_json(folder / "metrics.json")
    parts = [
        _front_matter(metrics),
        _what(folder, metrics),
        _scores(metrics),
        _data(metrics),
        _training(metrics, read_config(folder)),
        _loading(folder, metrics),
        _limits(metrics),
        _version(metrics),
    ]
    path = folder / "README.md"
    with atomic_file(path) as file:
        text = "\n\n".join(part for part in parts if part) + "\n"
        file.write(text.encode("utf-8", "replace").decode("utf-8"))
    return path


def languages(metrics: Metrics) -> list[str]:
    """The languages of the evaluated texts, ``zh`` and ``en``; both where nothing was evaluated."""
    found: Counter[str] = Counter()
    for report in (metrics.get("evaluation") or {}).values():
        for name, count in report.get("languages", {}).items():
            for each in ("zh", "en") if name == "mixed" else (name,):
                found[each] += count
    total = sum(found.values())
    return [each for each in ("zh", "en") if found[each] > LANGUAGE_SHARE * total] or ["zh", "en"]


def _front_matter(metrics: Metrics) -> str:
    """What a model hub reads: plain YAML between two lines of dashes."""
    model, task = metrics.get("model") or {}, metrics.get("task", "")
    split = main_split(metrics)
    said = {
        "language": None if task == "image_classification" else languages(metrics),
        "license": model.get("license") or "unknown",
        "base_model": model.get("hub_id") or model.get("name"),
        "pipeline_tag": PIPELINE_TAGS.get(task),
        "tags": ["weitiao", *([model["tuning"]] if model.get("tuning") else [])],
        "metrics": list(metrics["evaluation"][split]["scores"]) if split else None,
    }
    kept = {key: value for key, value in said.items() if value}
    return "---\n" + yaml.safe_dump(kept, allow_unicode=True, sort_keys=False) + "---"


def _what(folder: Path, metrics: Metrics) -> str:
    model = metrics.get("model") or {}
    name, tuning = _code(model.get("name", "?")), _plain(model.get("tuning", "?"))
    task = say(*TASKS.get(metrics.get("task", ""), (metrics.get("task", ""),) * 2))
    title = f"# {_plain(folder.resolve().name)}"
    said = (
        say(f"{task}: {name} pretrained with Weitiao.", f"{task}：由 Weitiao 在 {name} 上预训练得到。")
        if metrics.get("task") in PRETRAINED
        else say(
            f"{task}: {name} fine-tuned ({tuning}) with Weitiao.",
            f"{task}模型：由 Weitiao 在 {name} 上微调（{tuning}）得到。",
        )
    )
    split = main_split(metrics)
    labels = metrics["evaluation"][split].get("labels", []) if split else []
    if labels:
        few = ", ".join(_code(label) for label in labels[:30]) + (" …" if len(labels) > 30 else "")
        said += say(f" It knows {len(labels)} labels: {few}.", f"共 {len(labels)} 个标签：{few}。")
    return f"{title}\n\n{said}"


def _scores(metrics: Metrics) -> str:
    """A table for each evaluated split: the score, its interval, the baseline."""
    parts = []
    for split, report in (metrics.get("evaluation") or {}).items():
        place = say(*SPLITS.get(split, (split, split)))
        rows = [
            (
                say(*SCORES.get(score, (score, score))),
                number(score, value),
                interval(score, report["intervals"].get(score)) or "–",
                number(score, report["baseline"][score]) if score in report["baseline"] else "–",
            )
            for score, value in report["scores"].items()
        ]
        heads = (
            say("score", "指标"),
            say("value", "值"),
            say("95% interval", "95% 区间"),
            say("baseline", "基线"),
        )
        parts.append(say(f"On the {place}, {report['rows']:,} rows:", f"{place}，{report['rows']:,} 行："))
        parts.append(_table(heads, rows))
        if answer := report["baseline"].get("answer"):
            parts.append(say("The baseline always answers ", "基线始终回答 ") + f"{_code(answer)}.")
    return _chapter(say("Scores", "成绩"), *parts)


def _data(metrics: Metrics) -> str:
    rows = [
        (
            say(*SPLITS.get(split, (split, split))),
            _plain(data.get("name", "–")),
            f"{data.get('rows', 0):,}",
            f"`{data.get('sha256') or '–'}`",
        )
        for split, data in (metrics.get("data") or {}).items()
        if isinstance(data, dict)
    ]
    if not rows:
        return ""
    heads = (say("split", "数据集"), say("name", "名称"), say("rows", "行数"), "sha256")
    findings = "\n".join(
        f"- {_plain(found.get('message', ''), 300)}" for found in metrics.get("data_findings") or []
    )
    return _chapter(say("Data", "数据"), _table(heads, rows), findings)


def _training(metrics: Metrics, config: Mapping[str, Any]) -> str:
    model = metrics.get("model") or {}
    parts = []
    if model.get("parameters") and model.get("trained_parameters") is not None:
        trained, every = f"{model['trained_parameters']:,}", f"{model['parameters']:,}"
        parts.append(
            say(
                f"{trained} of {every} parameters were trained.",
                f"共 {every} 个参数，训练了其中 {trained} 个。",
            )
        )
    if config:
        parts.append(say("`config.yaml` repeats the run:", "用 `config.yaml` 即可重现："))
        settings = yaml.safe_dump(dict(config), allow_unicode=True, sort_keys=False).rstrip()
        fence = "`" * 3 if "```" not in settings else "`" * 8
        parts.append(f"{fence}yaml\n{settings}\n{fence}")
    return _chapter(say("How it was trained", "如何训练"), *parts)


def _loading(folder: Path, metrics: Metrics) -> str:
    name = folder.resolve().name
    example = say("The screen died after a week.", "物流很快，包装也好")
    asked, command = "", "predict"
    if metrics.get("task") in ("chat", "text_generation"):
        command, example = "generate", say("What is a digit?", "用一句话介绍机器学习")
    if str(metrics.get("task", "")).startswith("image_"):
        example = "picture.png"
    if metrics.get("task") == "image_to_text":
        asked = say(' --ask "Which digit is this?"', ' --ask "这是数字几？"')
    item = (example, say("a red heart", "红心")) if metrics.get("task") == "image_text_matching" else example
    if metrics.get("task") in PRETRAINED:
        parts = [
            f"```\nweitiao finetune --data reviews.csv --model {shlex.quote(name)} --output runs/reviews\n```"
        ]
        return _chapter(say("How to load it", "如何加载"), *parts, _opens(metrics))
    parts = [
        f"```python\nimport weitiao\n\nrun = weitiao.load({name!r})\nrun.predict([{item!r}])\n```",
        f'```\nweitiao {command} {shlex.quote(name)} "{example}"{asked}\n```',
    ]
    return _chapter(say("How to load it", "如何加载"), *parts, _opens(metrics))


def _opens(metrics: Metrics) -> str:
    opens = (metrics.get("model") or {}).get("opens_in_transformers")
    return f"transformers: {_plain(opens, 2000)}" if opens else ""


def _limits(metrics: Metrics) -> str:
    """What the evaluation itself says about where the model should not be trusted."""
    said = [
        say(
            "The scores hold for data like those evaluated; other sources, times or topics may do worse.",
            "以上成绩只适用于与评估数据相似的数据；来源、时间或主题不同时，效果可能更差。",
        )
    ]
    split = main_split(metrics)
    report = metrics["evaluation"][split] if split else {}
    if worst := report.get("worst_slice"):
        value = number(report["monitor"], worst["score"])
        bounds = interval(report["monitor"], worst["interval"])
        place, rows = _code(worst["name"]), worst["rows"]
        said.append(
            say(
                f"Worst slice: {place} ({rows} rows), {value} ({bounds}).",
                f"最差切片：{place}（{rows} 行），{value}（{bounds}）。",
            )
        )
    weak = [_code(name) for name, row in report.get("per_class", {}).items() if row["f1-score"] < 0.5]
    if weak:
        few = ", ".join(weak[:15]) + (" …" if len(weak) > 15 else "")
        said.append(say(f"F1 is below 0.5 for: {few}.", f"F1 低于 0.5 的标签：{few}。"))
    error = report.get("scores", {}).get("expected_calibration_error")
    if error is not None:
        said.append(
            say(
                f"A probability is off by {100 * error:.1f} points on average (expected calibration error).",
                f"概率与实际准确率平均相差 {100 * error:.1f} 个百分点（期望校准误差）。",
            )
        )
    said += [_plain(note, 300) for note in report.get("notes", [])]
    return _chapter(say("Limits", "局限"), "\n".join(f"- {line}" for line in said))


def _version(metrics: Metrics) -> str:
    rows = [f"- {_plain(key)}: {_plain(value)}" for key, value in (metrics.get("environment") or {}).items()]
    if "seed" in metrics:
        rows.append(f"- {say('seed', '随机种子')}: {metrics['seed']}")
    return _chapter(say("Code version", "代码版本"), "\n".join(rows))


def _chapter(title: str, *parts: str) -> str:
    """A heading and what stands under it; empty where nothing does."""
    kept = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *kept]) if kept else ""


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [heads, ("---",) * len(heads), *rows]]
    return "\n".join(lines)


def _code(value: Any, marks: int = 80) -> str:
    """A value from outside as Markdown code, in which nothing is markup but the back tick that ends it."""
    return "`" + shorten(value, marks).replace("`", "'") + "`"


def _plain(value: Any, marks: int = 80) -> str:
    """A value from outside as one line of Markdown that can't become markup, a table cell or code."""
    text = shorten(value, marks).replace("`", "'").replace("|", "\\|")
    return text.replace("<", "&lt;").replace(">", "&gt;")
