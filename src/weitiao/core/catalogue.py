"""Families and their members: a file in a family's folder is a member, and its name is the member's name.

Names are listed by looking at file names, so ``--help`` imports nothing heavy; a member is imported when
it is used. Packages outside Weitiao add members through entry points in the group ``weitiao.<family>``.
"""

import importlib
from functools import cache
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError, unknown_name
from weitiao.core.messages import say

PACKAGE = Path(__file__).resolve().parent.parent
FAMILIES = (
    "tasks", "tuning", "objectives", "evaluation", "augmentation", "few_shot", "selection", "continual", "pretraining",
    "compression", "engines", "stages",
)  # fmt: skip


def canonical(name: str) -> str:
    """``text-classification`` and ``Text_Classification`` name the same file."""
    return name.strip().lower().replace("-", "_")


@cache
def members(family: str) -> tuple[str, ...]:
    """The names in a family, sorted: its files and what entry points add. Imports none of them."""
    files = (path.stem for path in (PACKAGE / family).glob("*.py"))
    own = {stem for stem in files if stem not in ("__init__", "base") and not stem.startswith("_")}
    return tuple(sorted(own | {point.name for point in _outside(family)}))


def is_own(family: str, name: str) -> bool:
    """Whether a canonical name is a file of ours in the family's folder: known without reading any metadata."""
    plain = name.isidentifier() and not name.startswith("_") and name != "base"
    return plain and (PACKAGE / family / f"{name}.py").is_file()


def _outside(family: str) -> Any:
    # Imported on use: reading every package's metadata is a good part of a cold start.
    from importlib.metadata import entry_points

    return entry_points(group=f"weitiao.{family}")


@cache
def member(family: str, name: str) -> Any:
    """The member's class: the one class in its file that derives from the family's base.

    Raises:
        WeitiaoError: the name is unknown (the near miss is named), or the file breaks the contract.
    """
    name = canonical(name)
    own = is_own(family, name)
    if not own and name not in members(family):
        raise unknown_name(family, name, members(family))
    base = _contract(family)
    for point in () if own else _outside(family):
        if point.name == name:
            outside = point.load()
            if not (isinstance(outside, type) and issubclass(outside, base)):
                raise WeitiaoError(
                    say(f"{point.value} is not a {base.__name__}", f"{point.value} 不是 {base.__name__}")
                )
            return outside
    module = importlib.import_module(f"weitiao.{family}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        file, kind = f"{family}/{name}.py", base.__name__
        raise WeitiaoError(
            say(
                f"{file} must define exactly one {kind}; it defines {len(found)}.",
                f"{file} 应恰好定义一个 {kind}，实际有 {len(found)} 个。",
            )
        )
    return found[0]


def summary(family: str, name: str) -> str:
    """The first line of a member's docstring, read from the file without importing it."""
    path = PACKAGE / family / f"{canonical(name)}.py"
    if not path.exists():
        return ""
    first = path.read_text(encoding="utf-8").lstrip().removeprefix('"""')
    return first.split("\n", 1)[0].strip().removesuffix('"""').rstrip(".")


def _contract(family: str) -> type:
    """A family's base class: the class in ``base.py`` named like the family's singular."""
    singular = {
        "tasks": "Task",
        "tuning": "Tuning",
        "objectives": "Objective",
        "evaluation": "Evaluation",
        "augmentation": "Augmentation",
        "few_shot": "FewShot",
        "selection": "Selection",
        "continual": "Continual",
        "pretraining": "Pretraining",
        "compression": "Compression",
        "engines": "Engine",
    }
    return getattr(importlib.import_module(f"weitiao.{family}.base"), singular[family])
