"""Rules about texts and their labels, in a YAML file.

- if: {contains: [退款, refund]}   # one of these words (a word, or a list)
  then: {not: praise}             # none of these labels (a label, or a list)
  weight: 2                       # 1 where there is none
- if: {matches: "\\d+ ?(元|USD)"}   # a regular expression
  then: {label: [price, refund]}  # one of these labels
- if: {label: refund}             # with several labels a text: where this one is true
  then: {label: service}
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from weitiao.core.errors import WeitiaoError, nearest
from weitiao.core.messages import say

CONDITIONS, CONSEQUENCES, KEYS = ("contains", "matches", "label"), ("label", "not"), ("if", "then", "weight")


@dataclass(frozen=True)
class Rule:
    """One rule: ``wanted`` says whether one of ``labels`` must be true, or none; ``label`` is its condition's."""

    number: int
    patterns: tuple[re.Pattern[str], ...]
    label: str
    labels: tuple[str, ...]
    wanted: bool
    weight: float

    def applies(self, text: str) -> bool:
        """Whether what it asks of a text is true."""
        return all(pattern.search(text) for pattern in self.patterns)

    def check_labels(self, path: str, names: Sequence[str]) -> None:
        """Refuse labels that the training table has not.

        Raises:
            WeitiaoError: naming the nearest one.
        """
        for name in (*self.labels, *([self.label] if self.label else [])):
            if name not in names:
                close = nearest(name, names)
                hint = say(f" Did you mean '{close}'?", f"是不是“{close}”？") if close else ""
                _refuse(path, self.number, f"the training table has no label '{name}'.{hint}",
                        f"训练表中没有标签“{name}”。{hint}")  # fmt: skip


def read_rules(path: str) -> list[Rule]:
    """The rules in a file.

    Raises:
        WeitiaoError: no file was named, it cannot be read, or a rule is not one.
    """
    import yaml

    if not path:
        raise WeitiaoError(
            say(
                "The objective rules needs a file of them: --rules FILE, with lines such as "
                "- {if: {contains: [refund]}, then: {not: praise}}",
                "目标 rules 需要规则文件：--rules 文件，每行形如 - {if: {contains: [退款]}, then: {not: 表扬}}",
            )
        )
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:150]
        raise WeitiaoError(
            say(f"--rules: {path} cannot be read: {why}", f"--rules：无法读取 {path}：{why}")
        ) from None
    if not isinstance(found, list) or not found:
        raise WeitiaoError(
            say(
                f"--rules: {path} must hold a list of rules, '- if: ...'",
                f"--rules：{path} 的内容应是规则列表，“- if: ...”",
            )
        )
    return [_rule(path, number, rule) for number, rule in enumerate(found, 1)]


def _rule(path: str, number: int, rule: Any) -> Rule:
    if not isinstance(rule, dict) or not {"then"} <= set(rule) <= set(KEYS):
        _refuse(path, number, "it has 'if' (optional), 'then' and 'weight' (optional), nothing else",
                "应有 if（可省略）、then 与 weight（可省略），且无其他内容")  # fmt: skip
    asked = _mapping(path, number, "if", rule.get("if") or {}, CONDITIONS)
    then = _mapping(path, number, "then", rule["then"], CONSEQUENCES)
    if len(then) != 1:
        _refuse(path, number, "'then' holds either 'label' or 'not'", "then 应为 label 或 not 之一")
    weight = rule.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
        _refuse(
            path,
            number,
            f"weight is {weight!r}; it must be a number above 0",
            f"weight 为 {weight!r}，应大于 0",
        )
    patterns = [_any_of(asked["contains"])] if "contains" in asked else []
    for text in asked.get("matches", ()):
        try:
            patterns.append(re.compile(text))
        except re.error as error:
            _refuse(
                path,
                number,
                f"'{text}' is no regular expression: {error}",
                f"“{text}”不是正则表达式：{error}",
            )
    labels = asked.get("label", ("",))
    if len(labels) != 1:
        _refuse(path, number, "'if' takes one label", "if 只能有一个 label")
    ((kind, wanted),) = then.items()
    return Rule(number, tuple(patterns), labels[0], wanted, kind == "label", float(weight))


def _mapping(
    path: str, number: int, key: str, value: Any, known: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Texts by one of the known keys; a lone text counts as a list of one."""
    whole = isinstance(value, dict) and set(value) <= set(known)
    found = {k: tuple(map(str, v if isinstance(v, list) else [v])) for k, v in value.items()} if whole else {}
    if not whole or any(not texts or not all(text.strip() for text in texts) for texts in found.values()):
        keys = ", ".join(known)
        _refuse(
            path,
            number,
            f"'{key}' takes these keys, with texts: {keys}",
            f"{key} 可用的键（值为文本）：{keys}",
        )
    return found


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    """One of the words, in any case; in Latin script as a whole word."""
    parts = []
    for word in words:
        left, right = (r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])")
        latin = re.match(r"[A-Za-z0-9]", word), re.search(r"[A-Za-z0-9]$", word)
        parts.append((left if latin[0] else "") + re.escape(word) + (right if latin[1] else ""))
    return re.compile("|".join(parts), re.IGNORECASE)


def _refuse(path: str, number: int, en: str, zh: str) -> NoReturn:
    raise WeitiaoError(
        say(f"--rules: {path}, rule {number}: {en}", f"--rules：{path} 第 {number} 条规则：{zh}")
    )
