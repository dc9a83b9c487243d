"""Alert rules written out as a rule file for a Prometheus server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weitiao.core.runs import atomic_file
from weitiao.service.alert_rules import Rule


def prometheus_rules(rules: Sequence[Rule], group: str = "weitiao") -> dict[str, Any]:
    """The rules as the content of a Prometheus rule file.

    Prometheus has no second threshold to end an alert at: ``keep_firing_for`` takes the place of ``clear``.
    """
    found = []
    for rule in rules:
        entry: dict[str, Any] = {"alert": rule.name, "expr": rule.promql()}
        if rule.hold_seconds:
            entry["for"] = _duration(rule.hold_seconds)
        entry["keep_firing_for"] = "1m"
        entry["labels"] = {"severity": rule.severity}
        where = f" ({rule.model})" if rule.model else ""
        entry["annotations"] = {
            "summary": f"{rule.value}{where} {rule.operator} {rule.threshold:g}, now {{{{ $value }}}}"
        }
        found.append(entry)
    return {"groups": [{"name": group, "rules": found}]}


def write_prometheus_rules(rules: Sequence[Rule], path: str | Path) -> None:
    """Write the rules as a Prometheus rule file (YAML), whole or not at all."""
    import yaml

    with atomic_file(path) as file:
        yaml.safe_dump(prometheus_rules(rules), file, sort_keys=False, allow_unicode=True, width=110)


def _duration(seconds: float) -> str:
    return f"{seconds:g}s" if seconds == int(seconds) else f"{int(seconds * 1000)}ms"
