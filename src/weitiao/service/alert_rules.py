"""Alert rules, read from a small YAML file.

A rule compares one value with one number: ``p95_latency_seconds > 0.5 for 60s``. Nothing of a rule is ever run as
code; ``VALUES`` is all that it can name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from weitiao.core.config import read_yaml
from weitiao.core.errors import WeitiaoError, unknown_name
from weitiao.core.messages import say
from weitiao.service.drift import SIGNALS

# What an alert can name, and the same in PromQL; {model} becomes a matcher.
_RATE = "sum(rate(weitiao_{name}{{{{{extra}{{model}}}}}}[1m]))"
_REQUESTS = _RATE.format(name="requests_total", extra="")
_LATENCY = (
    "histogram_quantile({share}, sum by (le) (rate(weitiao_request_seconds_bucket{{{{{{model}}}}}}[1m])))"
)
VALUES: dict[str, str] = {
    "request_rate": _REQUESTS,
    "token_rate": _RATE.format(name="tokens_total", extra=""),
    "error_share": _RATE.format(name="requests_total", extra='status=~"500|501|502|504",')
    + " / "
    + _REQUESTS,
    "refused_share": _RATE.format(name="requests_total", extra='status=~"429|503",') + " / " + _REQUESTS,
    **{f"p{share}_latency_seconds": _LATENCY.format(share=share / 100) for share in (50, 95, 99)},
    "confidence_mean": _RATE.format(name="confidence_sum", extra="")
    + " / "
    + _RATE.format(name="confidence_count", extra=""),
    "queue_depth": "max(weitiao_queue_depth)",
    "memory_bytes": "max(weitiao_memory_bytes)",
    **{f"drift.{signal}": f'max(weitiao_drift{{{{signal="{signal}",{{model}}}}}})' for signal in SIGNALS},
}
SEVERITIES = ("info", "warning", "critical")
ACTIONS = ("log", "webhook", "command")
UNITS = {"s": 1, "m": 60, "h": 3600}
FIELDS = ("name", "when", "model", "severity", "action", "url", "command", "clear", "cooldown")
WHEN = re.compile(r"\s*([\w.]+)\s*(>=|<=|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(?:for\s+(\S+)\s*)?")
DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh])")
NAME = re.compile(r"\w[\w -]{0,63}")
HYSTERESIS = 0.1  # an alert ends when the value is this share of the threshold on the good side of it
COOLDOWN_SECONDS = 600.0


@dataclass(frozen=True)
class Rule:
    """One alert: it fires when ``value operator threshold`` has held for ``hold_seconds``.

    Attributes:
        clear: the value at which a firing alert ends, on the good side of the threshold.
        cooldown_seconds: the action is not taken again so soon after it was taken.
    """

    name: str
    value: str
    operator: str
    threshold: float
    clear: float
    hold_seconds: float = 0.0
    model: str = ""
    severity: str = "warning"
    action: str = "log"
    url: str = ""
    command: tuple[str, ...] = ()
    cooldown_seconds: float = COOLDOWN_SECONDS

    def holds(self, value: float) -> bool:
        """Whether a value is on the bad side of the threshold."""
        return _compare(value, self.operator, self.threshold)

    def is_clear(self, value: float) -> bool:
        """Whether a value is so far on the good side that a firing alert ends."""
        return value <= self.clear if self.operator.startswith(">") else value >= self.clear

    def promql(self) -> str:
        """The comparison in PromQL; requests without a model (health, metrics) are left out."""
        matcher = f'model="{_quoted(self.model)}"' if self.model else 'model!=""'
        return f"{VALUES[self.value].format(model=matcher)} {self.operator} {self.threshold:g}"


@dataclass
class _Entry:
    """One mapping of the file, with its errors' place."""

    file: str
    number: int
    cells: dict[str, Any] = field(default_factory=dict)

    def bad(self, key: str, reason: str) -> WeitiaoError:
        name = self.cells.get("name") or f"#{self.number}"
        return WeitiaoError(
            say(
                f"{self.file}, alert '{name}', '{key}': {reason}",
                f"{self.file}，告警“{name}”，“{key}”：{reason}",
            )
        )

    def one_of(self, key: str, value: str, known: Sequence[str]) -> str:
        """``value``, which must be one of ``known``; else the error names the near miss."""
        if value in known:
            return value
        raise self.bad(key, str(unknown_name(key, value, known)))

    def text(self, key: str, default: str = "") -> str:
        value = self.cells.get(key, default)
        if not isinstance(value, str):
            raise self.bad(key, say(f"{value!r} is not text", f"{value!r} 不是文本"))
        return value

    def seconds(self, key: str, value: Any) -> float:
        match = DURATION.fullmatch(value) if isinstance(value, str) else None
        if not match:
            way = say(
                f"{value!r} is not a duration such as 30s, 5m or 1h", f"{value!r} 不是 30s、5m、1h 这样的时长"
            )
            raise self.bad(key, way)
        return float(match[1]) * UNITS[match[2]]


def read_rules(path: str | Path, models: Sequence[str] = ()) -> list[Rule]:
    """The rules in a file.

    Args:
        models: the names that a rule's ``model`` may have; empty: any.

    Raises:
        WeitiaoError: one line that names the file, the alert, the field, and the near miss where there is one.
    """
    content = read_yaml(path)
    file = Path(path).name
    rows = content.get("alerts")
    if set(content) != {"alerts"} or not isinstance(rows, list):
        raise WeitiaoError(
            say(
                f"{path}: it must hold a list 'alerts:', and nothing beside it; found: {', '.join(map(str, content))}",
                f"{path}：其中应只有一个列表“alerts:”，实际有：{', '.join(map(str, content))}",
            )
        )
    rules: list[Rule] = []
    for number, cells in enumerate(rows, 1):
        entry = _Entry(file, number)
        if not isinstance(cells, dict):
            raise entry.bad("name", say(f"{cells!r} is not a mapping", f"{cells!r} 不是映射"))
        entry.cells = cells
        rule = _rule(entry, models)
        if rule.name in {other.name for other in rules}:
            raise entry.bad("name", say("used twice", "重复使用"))
        rules.append(rule)
    return rules


def _rule(entry: _Entry, models: Sequence[str]) -> Rule:
    for key in entry.cells:
        entry.one_of(str(key), str(key), FIELDS)
    name = entry.text("name")
    if not NAME.fullmatch(name):
        way = say(
            "letters, digits, spaces, - and _, at most 64", "只能用字母、数字、空格、- 和 _，最多 64 个字符"
        )
        raise entry.bad("name", f"{name!r}: {way}")
    model = entry.text("model")
    if model and models:
        entry.one_of("model", model, models)
    value, operator, threshold, hold = _when(entry)
    action = entry.one_of("action", entry.text("action", "log"), ACTIONS)
    return Rule(
        name,
        value,
        operator,
        threshold,
        _clear(entry, operator, threshold),
        hold,
        model,
        entry.one_of("severity", entry.text("severity", "warning"), SEVERITIES),
        action,
        *_target(entry, action),
        entry.seconds("cooldown", entry.cells.get("cooldown", f"{COOLDOWN_SECONDS:g}s")),
    )


def _when(entry: _Entry) -> tuple[str, str, float, float]:
    """``value operator number [for duration]``."""
    text = entry.text("when")
    match = WHEN.fullmatch(text)
    try:
        threshold = float(match[3]) if match else None
    except ValueError:
        threshold = None
    if match is None or threshold is None:
        way = "p95_latency_seconds > 0.5 for 60s"
        raise entry.bad("when", say(f"{text!r} does not read as '{way}'", f"{text!r} 不符合“{way}”的写法"))
    value = entry.one_of("when", match[1], tuple(VALUES))
    return value, match[2], threshold, entry.seconds("when", match[4]) if match[4] else 0.0


def _clear(entry: _Entry, operator: str, threshold: float) -> float:
    """Where a firing alert ends: as given, else a tenth of the threshold on the good side."""
    down = operator.startswith(">")
    value = entry.cells.get("clear", threshold + (-1 if down else 1) * HYSTERESIS * abs(threshold))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise entry.bad("clear", say(f"{value!r} is not a number", f"{value!r} 不是数字"))
    if (value > threshold) if down else (value < threshold):
        side = say("below" if down else "above", "小于" if down else "大于")
        raise entry.bad(
            "clear",
            say(
                f"{value:g} must be {side} the threshold {threshold:g}",
                f"{value:g} 应{side}阈值 {threshold:g}",
            ),
        )
    return float(value)


def _target(entry: _Entry, action: str) -> tuple[str, tuple[str, ...]]:
    """The webhook's address and the command's words, of which an action has one at most."""
    for key, needed in (("url", "webhook"), ("command", "command")):
        if key in entry.cells and action != needed:
            raise entry.bad(
                key, say(f"it goes with 'action: {needed}' only", f"只能与“action: {needed}”一起使用")
            )
    return _url(entry) if action == "webhook" else "", _command(entry) if action == "command" else ()


def _url(entry: _Entry) -> str:
    url = entry.text("url")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise entry.bad("url", say(f"{url!r} is not an http(s) address", f"{url!r} 不是 http(s) 地址"))
    return url


def _command(entry: _Entry) -> tuple[str, ...]:
    parts = entry.cells.get("command")
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) and part for part in parts):
        way = say(
            "a list of words: [program, argument]; no shell is used", "应为列表：[程序, 参数]；不经过 shell"
        )
        raise entry.bad("command", f"{parts!r}: {way}")
    return tuple(parts)


def _compare(value: float, operator: str, threshold: float) -> bool:
    return {
        ">": value > threshold,
        "<": value < threshold,
        ">=": value >= threshold,
        "<=": value <= threshold,
    }[operator]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def as_mapping(rule: Rule) -> Mapping[str, Any]:
    """What an action is told about its rule, in plain values."""
    return {
        "alert": rule.name,
        "severity": rule.severity,
        "model": rule.model,
        "when": f"{rule.value} {rule.operator} {rule.threshold:g}",
    }
