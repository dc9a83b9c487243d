"""Alerts in the process itself: rules are looked at every few seconds, and their actions taken.

An alert fires when its comparison has held for the rule's time; it ends when the value has come back past a second
threshold (hysteresis), so that a value that wavers about the first does not ring again and again; and an action is not
repeated within the rule's cool-down.
"""

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from weitiao.core.messages import say
from weitiao.service.alert_rules import Rule, as_mapping, read_rules
from weitiao.service.metrics import Metrics
from weitiao.service.prometheus_rules import write_prometheus_rules

__all__ = ["Notice", "Rule", "Watch", "read_rules", "write_prometheus_rules"]

LOG = logging.getLogger("weitiao.alerts")
PERIOD_SECONDS = 5.0
ACTION_SECONDS = 10.0  # a webhook or a command that takes longer has failed
TRIES = 2


@dataclass(frozen=True)
class Notice:
    """Something to tell: ``state`` is ``firing`` or ``resolved``; ``value`` None: nothing is seen any more."""

    rule: Rule
    state: str
    value: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the webhook and the command: numbers and names of the rule file, never a text."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {**as_mapping(self.rule), "state": self.state, "value": self.value, "time": now}


@dataclass
class _State:
    """What is remembered of a rule."""

    since: float | None = None
    firing: bool = False
    told: float | None = None
    told_firing: bool = False


@dataclass
class Watch:
    """Looks at the rules and takes their actions.

    Args:
        metrics: gives the values (``Metrics.values``) and shows which alerts fire.
        clock: seconds; a test may pass its own.
    """

    rules: Sequence[Rule]
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    period_seconds: float = PERIOD_SECONDS
    _states: dict[str, _State] = field(default_factory=dict)
    _task: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        for rule in self.rules:
            self._states[rule.name] = _State()
            self.metrics.firing.labels(rule.name, rule.severity).set(0)
            self.metrics.failures.labels(rule.name)

    @property
    def firing(self) -> list[str]:
        """The names of the alerts that fire now."""
        return [name for name, state in self._states.items() if state.firing]

    def look(self) -> list[Notice]:
        """Evaluate every rule once; what has to be told. Takes no action."""
        now, values = self.clock(), {}
        notices = []
        for rule in self.rules:
            if rule.model not in values:
                values[rule.model] = self.metrics.values(rule.model)
            notice = self._step(rule, self._states[rule.name], values[rule.model].get(rule.value), now)
            if notice:
                notices.append(notice)
        return notices

    def _step(self, rule: Rule, state: _State, value: float | None, now: float) -> Notice | None:
        """Move one rule's state on. A value that is absent (no traffic, too few texts) ends an alert."""
        if state.firing:
            if value is None or rule.is_clear(value):
                state.firing, state.since = False, None
        elif value is None or not rule.holds(value):
            state.since = None
        else:
            state.since = now if state.since is None else state.since
            state.firing = now - state.since >= rule.hold_seconds
        self.metrics.firing.labels(rule.name, rule.severity).set(state.firing)
        if state.firing == state.told_firing:
            return None
        # The end of what was told is told at once; a new beginning waits for the cool-down, and if it is over by then,
        # was never told.
        if state.firing and state.told is not None and now - state.told < rule.cooldown_seconds:
            return None
        if state.firing:
            state.told = now
        state.told_firing = state.firing
        return Notice(rule, "firing" if state.firing else "resolved", value)

    def tell(self, notice: Notice) -> bool:
        """Take a rule's action, and log it in any case. Returns whether it succeeded; it never raises."""
        rule, line = notice.rule, json.dumps(notice.as_json(), ensure_ascii=False)
        LOG.log(logging.WARNING if notice.state == "firing" else logging.INFO, "alert %s", line)
        if rule.action == "log":
            return True
        problem = ""
        for _ in range(TRIES):
            try:
                _post(rule.url, line) if rule.action == "webhook" else _execute(rule.command, line)
                return True
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                problem = str(error)[:200]
        self.metrics.failures.labels(rule.name).inc()
        LOG.error(
            say("alert '%s': its %s failed: %s", "告警“%s”：%s 执行失败：%s"), rule.name, rule.action, problem
        )
        return False

    async def start(self) -> None:
        """Begin to look, in the running event loop; to be called when the application starts."""
        if self.rules and self._task is None:
            self._task = asyncio.create_task(self._run(), name="weitiao-alerts")

    async def stop(self) -> None:
        """Stop looking; to be called when the application ends."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        telling: set[asyncio.Task[Any]] = set()
        while True:
            try:
                # In threads: drift takes milliseconds, an action seconds, and requests must not wait for either.
                for notice in await asyncio.to_thread(self.look):
                    task = asyncio.create_task(asyncio.to_thread(self.tell, notice))
                    telling.add(task)
                    task.add_done_callback(telling.discard)
            except Exception:  # an alert that can't be evaluated must not end all the others
                LOG.exception(say("the alerts could not be evaluated", "无法评估告警"))
            await asyncio.sleep(self.period_seconds)


def _post(url: str, body: str) -> None:
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=ACTION_SECONDS) as answer:
        answer.read(1024)


def _execute(command: Sequence[str], line: str) -> None:
    """Run a program without a shell; it reads the notice from its standard input and gets no secrets of ours."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "HOME", "TZ") if key in os.environ}
    subprocess.run(
        list(command),
        input=line.encode(),
        env=kept,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=ACTION_SECONDS,
        check=True,
    )
