"""Which models lie in a folder: one bundle, or ``name/`` bundles, or ``name/<version>/`` bundles."""

import re
from pathlib import Path

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.runtime.bundle import MANIFEST, is_bundle

NAME = re.compile(r"\w[\w.-]{0,63}")
Stamp = tuple[str, int, int]


def scan(folder: Path) -> dict[str, list[Path]]:
    """The bundles of each model, by name; of several versions the newest is the last.

    Versions are ordered as people count: ``v2`` before ``v10``. Hidden folders are passed over: a bundle that is
    still being written lies in one.

    Raises:
        WeitiaoError: no such folder.
    """
    if not folder.is_dir():
        raise WeitiaoError(say(f"No such folder: {folder}", f"找不到文件夹：{folder}"))
    if is_bundle(folder):
        return {_name(folder.resolve()): [folder]}
    found = {}
    for path in _folders(folder):
        bundles = [path] if is_bundle(path) else [one for one in _folders(path) if is_bundle(one)]
        if bundles:
            found[_name(path)] = sorted(bundles, key=lambda one: counting(one.name))
    return found


def stamps(folder: Path) -> dict[str, tuple[Stamp, ...]]:
    """What changes for a model when a bundle of its comes, goes or is replaced."""
    return {name: tuple(_stamp(path) for path in bundles) for name, bundles in scan(folder).items()}


def counting(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names with their numbers in order."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _name(path: Path) -> str:
    if not NAME.fullmatch(path.name):
        raise WeitiaoError(
            say(
                f"'{path.name}' cannot be a model's name: letters, digits, '.', '_' and '-', at most 64. Rename {path}",
                f"“{path.name}”不能作模型名：只能用文字、数字、“.”、“_”、“-”，最多 64 个字符。请重命名 {path}",
            )
        )
    return path.name


def _stamp(path: Path) -> Stamp:
    found = (path / MANIFEST).stat()
    return str(path), found.st_mtime_ns, found.st_ino
