"""The bundle: a folder that predicts without torch. ``bundle.json`` says what is in it and hashes every file.

    bundle.json       format, kind, task, answers, head, graph, recipe, base, files {name: {sha256, bytes}}, and its
                      own manifest_sha256 over all of that
    model.onnx        the graph (its large tensors beside it, in model.onnx.data)
    tokenizer.json
    certificate.json  what export compared, and what it found
    reference.json    statistics of the training data, for drift
    README.md         the card

A folder is opened only if it holds just what the manifest lists, byte for byte, and the manifest itself is as it was
sealed (one written before manifests were has no hash of its own, and is read all the same). Nothing in it can run code.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.home import home
from weitiao.core.messages import say
from weitiao.core.runs import sha256, write_json
from weitiao.core.version import __version__

MANIFEST = "bundle.json"
FORMAT, VERSION = "weitiao-bundle", 1
KINDS = ("predictor", "decoder")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".dill")
COMMON = ("kind", "name", "max_length", "graph", "files", "code_version")
PARTS = {
    "predictor": (*COMMON, "task", "task_options", "answers", "head"),
    "decoder": (*COMMON, "chat_template", "eos_token_ids"),
}
LARGEST_MANIFEST = 16 << 20
SEAL = "manifest_sha256"
VOLATILE = ("created", "code_version", SEAL)  # says nothing about what the bundle answers


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. ``version``: 12 hex digits that change with any byte of any file and with what the manifest
    says, but for when and by which version of Weitiao it was written."""

    folder: Path
    manifest: dict[str, Any]
    version: str

    @property
    def name(self) -> str:
        """What the bundle is called."""
        return self.manifest["name"]

    @property
    def graph(self) -> Path:
        """The graph's file."""
        return self.folder / self.manifest["graph"]["file"]

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file."""
        return self.folder / "tokenizer.json"


def is_bundle(folder: str | Path) -> bool:
    """Whether a folder has a bundle's manifest, or a file is an archive, which may hold one."""
    if Path(folder).is_file():
        from weitiao.core.archives import is_archive

        return is_archive(folder)
    return (Path(folder) / MANIFEST).is_file()


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write ``bundle.json`` over the files that lie in ``folder``: the last step of making a bundle.

    Args:
        manifest: everything but ``format``, ``version``, ``files``, ``code_version``, ``created`` and its hash; where
            it has those, they are written anew.
    """
    files = {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    whole = {"format": FORMAT, "version": VERSION, **manifest, "code_version": __version__}
    whole |= {"created": datetime.now(UTC).isoformat(timespec="seconds"), "files": files}
    whole = json.loads(json.dumps(whole, default=str))  # as it will be read
    write_json(folder / MANIFEST, whole | {SEAL: digest(whole)})


def digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content: canonical JSON without what is volatile."""
    kept = {key: value for key, value in manifest.items() if key not in VOLATILE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def open_bundle(folder: str | Path) -> Bundle:
    """Read a bundle's manifest and verify its files. An archive is unpacked into the cache first, once.

    Raises:
        WeitiaoError: no bundle, an unknown format, a manifest or a file that was changed, a file that is missing or
            added, a pickle or a link, a graph that reads other files or needs another library.
    """
    folder = _unpacked(Path(folder)) if Path(folder).is_file() else Path(folder)
    manifest = _read_manifest(folder)
    files: dict[str, Any] = manifest["files"]
    _check_listing(folder, files)
    content = digest(manifest)
    known = _remembered(folder)
    for name, entry in files.items():
        if known.get(name) != [entry["sha256"], *_stamp(folder / name)]:
            _verify(folder / name, entry)
    stamps: dict[str, Any] = {
        name: [entry["sha256"], *_stamp(folder / name)] for name, entry in files.items()
    }
    stamps[MANIFEST] = content  # it names the graph to look at
    if stamps != known:
        from weitiao.core.safe_files import check_onnx  # a cold start pays for each import

        check_onnx(folder / manifest["graph"]["file"])
        _remember(folder, stamps)
    return Bundle(folder, manifest, content[:12])


def _unpacked(archive: Path) -> Path:
    """The folder of an archive's content, which may be a folder alone at its top."""
    from weitiao.core.archives import unpack
    from weitiao.core.sources import home

    folder = home() / "archives" / sha256(archive)[:16]
    if not folder.is_dir():
        unpack(archive, folder)
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir() or not path.is_file() or path.is_symlink():
        raise WeitiaoError(
            say(
                f"{folder} is not a bundle: it has no {MANIFEST}. Make one: weitiao export RUN --output {folder}",
                f"{folder} 不是部署包：没有 {MANIFEST}。可用 weitiao export 运行目录 --output {folder} 生成",
            )
        )
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise ValueError(f"{path.stat().st_size} bytes")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError("not an object")
        found = manifest.get("format"), manifest.get("version")
        if found != (FORMAT, VERSION):
            raise _unknown(path, found)
        if manifest.get("kind") not in KINDS:
            raise ValueError(f"kind {manifest.get('kind')!r}")
        if missing := [part for part in PARTS[manifest["kind"]] if part not in manifest]:
            raise ValueError(f"no {missing[0]!r}")
        _check_types(manifest)
        content = digest(manifest)
    except (ValueError, OSError, RecursionError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeitiaoError(
            say(
                f"{path} is damaged ({reason}). Export or copy the bundle again",
                f"{path} 已损坏（{reason}）。请重新导出或复制",
            )
        ) from None
    if manifest.get(SEAL, content) != content:
        raise _wrong(path, say("has been changed since it was sealed", "在封存之后被改动过"))
    return manifest


def _unknown(path: Path, found: tuple[Any, Any]) -> WeitiaoError:
    shown = f"{str(found[0])[:40]} {str(found[1])[:10]}"
    return WeitiaoError(
        say(
            f"{path}: format {shown} is not one that this version reads ({FORMAT} {VERSION})",
            f"{path}：格式 {shown} 不是本版本能读取的（{FORMAT} {VERSION}）",
        )
    )


def _check_types(manifest: dict[str, Any]) -> None:
    """What the rest relies on; raises ValueError, KeyError, TypeError or AttributeError."""
    files, graph = manifest["files"], manifest["graph"]
    for name, entry in files.items():
        if (
            name != os.path.basename(name)
            or name in ("", ".", "..", MANIFEST)
            or "\\" in name
            or "\0" in name
        ):
            raise ValueError(f"file name {name!r}")
        if not isinstance(entry["bytes"], int) or not isinstance(entry["sha256"], str):
            raise ValueError(f"entry of {name!r}")
    for needed in (graph["file"], "tokenizer.json"):
        if needed not in files:
            raise ValueError(f"{needed!r} is not among its files")
    if not isinstance(manifest["name"], str) or not isinstance(manifest["max_length"], int):
        raise ValueError("name or max_length")
    for part in ("task_options", "answers", "head") if manifest["kind"] == "predictor" else ():
        if not isinstance(manifest[part], dict):
            raise ValueError(f"{part} of another kind")


def _check_listing(folder: Path, files: dict[str, Any]) -> None:
    """The folder must hold the manifest's files and nothing else (hidden files are passed over)."""
    there = {path.name: path for path in folder.iterdir() if not path.name.startswith(".")}
    there.pop(MANIFEST, None)
    for name in sorted({*there, *files}):
        if name.lower().endswith(PICKLES):
            raise WeitiaoError(
                say(
                    f"{folder} holds {name}: refused unread, because opening a pickle can run any code",
                    f"{folder} 中有 {name}：未读取即拒绝，因为打开 pickle 可能执行任意代码",
                )
            )
        if name not in there or not there[name].is_file() or there[name].is_symlink():
            raise _wrong(folder / name, say("is missing or not a plain file", "缺失，或不是普通文件"))
        if name not in files:
            raise _wrong(folder / name, say("is not in the bundle's manifest", "不在部署包的清单中"))


def _verify(path: Path, entry: dict[str, Any]) -> None:
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise _wrong(
            path,
            say(f"has {size:,} bytes, not {entry['bytes']:,}", f"为 {size:,} 字节，应为 {entry['bytes']:,}"),
        )
    if (found := sha256(path)) != entry["sha256"]:
        short = found[:12], entry["sha256"][:12]
        raise _wrong(
            path, say(f"has sha256 {short[0]}, not {short[1]}", f"的 sha256 为 {short[0]}，应为 {short[1]}")
        )


def _wrong(path: Path, what: str) -> WeitiaoError:
    way = say("Export or copy the bundle again", "请重新导出或复制")
    return WeitiaoError(f"{path} {what}. {way}")


# --- files verified before are not hashed again while the system says that they have not changed


def _stamp(path: Path) -> list[int]:
    """What changes when a file is written to; the time of the last change of its inode cannot be set by hand."""
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _memory(folder: Path) -> Path:
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return home() / "bundles" / f"{place}.json"


def _remembered(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(_memory(folder).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def forget(folder: Path) -> None:
    """Drop what is remembered of a folder that goes away."""
    _memory(folder).unlink(missing_ok=True)


def _remember(folder: Path, stamps: dict[str, Any]) -> None:
    with suppress(OSError):  # a read-only home only costs the time to hash again
        write_json(_memory(folder), stamps)
