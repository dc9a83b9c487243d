"""What a search may try: ranges and choices for settings, read from a recipe and checked before anything is trained.

``learning_rate: 1e-5..1e-3 log``, ``batch_size: 8|16|32`` (or a list), ``dropout: {low: 0, high: 0.3}``. A setting that
only some members have (``lora_rank``) is drawn in the trials that chose such a member.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from weitiao.core import catalogue
from weitiao.core.config import build, member_options, options, several, unweighted
from weitiao.core.errors import WeitiaoError, nearest
from weitiao.core.messages import say
from weitiao.stages import finetune

# Every trial is trained and scored on the same rows, in a folder and with a seed of its own.
FIXED = frozenset(
    {"data", "task", "output", "test_data", "dev_data", "columns", "skip_bad_rows", "test_fraction", "dev_fraction",
     "split_seed", "trackers", "threads", "seed", "resume", "overwrite"}
)  # fmt: skip
RANGE = re.compile(r"\s*(\S+?)\s*\.\.\s*(\S+)(\s+log)?\s*")


@dataclass(frozen=True)
class Axis:
    """One setting that is searched: ``choices``, or a range of whole (``whole``) or real numbers."""

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def draw(self, trial: Any) -> Any:
        """The value that an ``optuna.Trial`` chooses."""
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the report."""
        if self.choices:
            return {"name": self.name, "choices": list(self.choices)}
        return {"name": self.name, "low": self.low, "high": self.high, "log": self.log}


def read_space(search: Mapping[str, Any], base: Mapping[str, Any]) -> list[Axis]:
    """The axes of a ``search`` section; those that choose a family's member come first.

    Args:
        base: the settings of the recipe, which hold where nothing is searched.

    Raises:
        WeitiaoError: a setting is unknown (the near miss is named) or cannot be searched, a value it cannot take.
    """
    if not search:
        raise WeitiaoError(
            say(
                "Nothing to search: give a recipe with a 'search:' section, or --search 'learning_rate=1e-5..1e-3 log'",
                "没有要搜索的内容：请在配置文件中写 search: 一节，或用 --search 'learning_rate=1e-5..1e-3 log'",
            )
        )
    own = options(finetune.Config)
    named = {str(key).replace("-", "_"): value for key, value in search.items()}
    homes: dict[str, dict[str, str]] = {name: {} for name in own} | dict(_members(named, base))
    axes = []
    for name, wish in sorted(named.items(), key=lambda pair: not _family(pair[0])):
        if name in FIXED:
            raise WeitiaoError(
                say(
                    f"search: {name} is the same for every trial; it cannot be searched",
                    f"search：{name} 在各次试验中必须相同，不能搜索",
                )
            )
        if name not in homes:
            close = nearest(name, [key for key in homes if key not in FIXED])
            hint = say(f" Did you mean '{close}'?", f"是不是“{close}”？") if close else ""
            raise WeitiaoError(
                say(f"search: unknown setting '{name}'.{hint}", f"search：没有名为“{name}”的设置。{hint}")
            )
        axes.append(_axis(name, wish, homes[name]))
    return axes


def draw(axes: list[Axis], trial: Any, base: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's values: of the members' settings, those that its own members have."""
    values: dict[str, Any] = {}
    for axis in axes:
        known = options(finetune.Config)
        if axis.name in known or axis.name in member_options(finetune.Config, {**base, **values}):
            values[axis.name] = axis.draw(trial)
    return values


def _family(name: str) -> str:
    field = options(finetune.Config).get(name)
    return field.metadata["family"] if field else ""


def _members(search: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """The settings of every member that a trial may choose, with what has to be chosen for each."""
    for field, wish in [*search.items(), *base.items()]:
        family = _family(field)
        for choice in (_choices(wish) if field in search else [wish]) if family and wish else ():
            for part in several(choice):
                part = unweighted(part) if family == "objectives" else part
                for name in options(catalogue.member(family, part)):
                    yield name, {field: str(choice)}


def _choices(wish: Any) -> list[Any]:
    if isinstance(wish, str):
        return [part.strip() for part in wish.split("|")]
    return list(wish) if isinstance(wish, list | tuple) else [wish]


def _axis(name: str, wish: Any, home: dict[str, str]) -> Axis:
    """One axis; its values are checked as the setting's own would be."""
    found = _range(name, wish)
    if found is None:
        values = [_checked(name, value, home) for value in _choices(wish)]
        if any(values.count(value) > 1 for value in values):
            raise WeitiaoError(say(f"search: {name} names a choice twice", f"search：{name} 中有重复的选项"))
        if not values or not all(value is None or isinstance(value, str | int | float) for value in values):
            raise _unreadable(name, wish)
        return Axis(name, tuple(values))
    low, high = (_checked(name, end, home) for end in found[:2])
    if isinstance(low, bool) or not isinstance(low, int | float) or not isinstance(high, int | float):
        raise _unreadable(name, wish)
    if low >= high or (found[2] and low <= 0):
        raise WeitiaoError(
            say(
                f"search: {name} runs from {low:g} to {high:g}: the first must be smaller, and above 0 for a log scale",
                f"search：{name} 的范围为 {low:g} 到 {high:g}：前者应较小，取对数时须大于 0",
            )
        )
    return Axis(name, (), low, high, found[2], isinstance(low, int))


def _range(name: str, wish: Any) -> tuple[Any, Any, bool] | None:
    """(low, high, logarithmic) where a range was written, else None."""
    if isinstance(wish, Mapping):
        if not {"low", "high"} <= wish.keys() <= {"low", "high", "log"}:
            raise _unreadable(name, wish)
        return wish["low"], wish["high"], bool(wish.get("log", False))
    match = RANGE.fullmatch(wish) if isinstance(wish, str) else None
    return (match[1], match[2], bool(match[3])) if match else None


def _checked(name: str, value: Any, home: dict[str, str]) -> Any:
    """The value in the setting's own type."""
    built = build(finetune.Config, {**home, name: value})
    return built.member_values[name] if name in built.member_values else getattr(built, name)


def _unreadable(name: str, wish: Any) -> WeitiaoError:
    return WeitiaoError(
        say(
            f"search: {name} is {wish!r}; write a range (1e-5..1e-3 log, or low:, high:, log:) or choices (8|16, or a "
            "list)",
            f"search：{name} 为 {wish!r}；请写成范围（1e-5..1e-3 log，或 low:、high:、log:）或选项（8|16，或列表）",
        )
    )
