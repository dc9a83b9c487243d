"""Archives from strangers, unpacked so that nothing lands outside the folder and nothing fills the disk.

zip, tar and tar.gz. Every name is judged before the first byte is written; sizes are counted as they come out, whatever
the archive says of itself. The folder appears whole, or not at all.
"""

import gzip
import io
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import atomic_folder

START = 262  # bytes that tell the format
BLOCK = 1 << 16
LONGEST_READ = 1 << 20  # one read inside tarfile: a longer one would be a header that claims gigabytes
RESERVED = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")


@dataclass(frozen=True)
class Limits:
    """What an archive may become. ``ratio``: bytes out for each byte in, where more than ``ratio_from`` come out."""

    files: int = 2000
    total_bytes: int = 16 << 30
    file_bytes: int = 8 << 30
    ratio: int = 100
    ratio_from: int = 1 << 20
    depth: int = 8


@dataclass(frozen=True)
class _Entry:
    name: str
    is_folder: bool
    size: int
    packed: int
    open: Any


def unpack(archive: str | Path, folder: str | Path, limits: Limits | None = None) -> Path:
    """Unpack an archive into a new ``folder``; returns it.

    Raises:
        WeitiaoError: no such archive, another format, damage, something unsafe in it, or more than ``limits``; or the
            folder is there already. Then nothing was written.
    """
    archive, folder, limits = Path(archive), Path(folder), limits or Limits()
    if folder.exists():
        raise WeitiaoError(
            say(f"{folder} is there already: name another folder", f"{folder} 已存在：请换一个目录")
        )
    try:
        with _entries(archive, limits) as entries, atomic_folder(folder) as new:
            _write(entries, new, archive.stat().st_size, limits)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, ValueError, OverflowError,
            NotImplementedError, RuntimeError, UnicodeError, OSError) as error:  # fmt: skip
        raise _refused(archive, error) from None
    return folder


def is_archive(path: str | Path) -> bool:
    """Whether a file begins like a zip, tar or tar.gz."""
    path = Path(path)
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return _format(file.read(START)) != ""


def _format(start: bytes) -> str:
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if start[:2] == b"\x1f\x8b":
        return "tar.gz"
    return "tar" if start[257:262] == b"ustar" else ""


@contextmanager
def _entries(archive: Path, limits: Limits) -> Iterator[Iterator[_Entry]]:
    """What an archive holds, by the first bytes of the file and not by its name."""
    with open(archive, "rb") as file:
        kind = _format(file.read(START))
        file.seek(0)
        if kind == "zip":
            with zipfile.ZipFile(file) as opened:
                yield _from_zip(opened, limits)
        elif kind == "tar.gz":
            with gzip.GzipFile(fileobj=file) as inner:
                yield from _from_tar(inner, archive.stat().st_size, limits)
        elif kind == "tar":
            yield from _from_tar(file, archive.stat().st_size, limits)
        else:
            raise ValueError(say("it is no zip, tar or tar.gz", "不是 zip、tar 或 tar.gz"))


def _from_zip(opened: zipfile.ZipFile, limits: Limits) -> Iterator[_Entry]:
    infos = opened.infolist()
    if len(infos) > limits.files:
        raise _too_many(limits)
    for info in infos:  # all judged before the first is unpacked
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _bad(info.filename, say("a link or a device", "链接或设备文件"))
        if info.flag_bits & 1:
            raise _bad(info.filename, say("encrypted", "已加密"))
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _bad(info.filename, say("packed in an unusual way", "压缩方式不常见"))
        if info.orig_filename != info.filename:
            raise _bad(info.orig_filename, say("an unusual name", "名称异常"))
    for info in infos:
        yield _Entry(
            info.filename,
            info.filename.endswith("/"),
            info.file_size,
            info.compress_size,
            lambda info=info: opened.open(info),
        )


def _from_tar(file: Any, packed: int, limits: Limits) -> Iterator[Iterator[_Entry]]:
    """Members come one by one, since a packed tar can only be read forwards."""
    counted: Any = _Forward(file, limits.total_bytes + limits.files * 4096, packed, limits)
    with tarfile.open(fileobj=counted, mode="r:") as opened:

        def members() -> Iterator[_Entry]:
            for member in opened:
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.sparse:
                    raise _bad(member.name, say("a link or a device", "链接或设备文件"))
                yield _Entry(
                    member.name,
                    member.isdir(),
                    member.size,
                    member.size,
                    lambda member=member: opened.extractfile(member),
                )

        yield members()


class _Forward(io.RawIOBase):
    """A file that is read forwards only, and stops where more comes out than is allowed."""

    def __init__(self, file: Any, most: int, packed: int, limits: Limits) -> None:
        self.file, self.most, self.place = file, most, 0
        self.most_for_its_size = max(limits.ratio_from, limits.ratio * packed)

    def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        if not 0 <= size <= LONGEST_READ:
            raise ValueError(say("a header that claims too much", "文件头声称的长度过大"))
        content = self.file.read(size)
        self.place += len(content)
        if self.place > min(self.most, self.most_for_its_size):
            raise _too_large()
        return content

    def tell(self) -> int:
        return self.place

    def seek(self, place: int, whence: int = 0) -> int:
        if whence or place < self.place:
            raise ValueError(say("an unusual tar", "tar 结构异常"))
        while self.place < place and self.read(min(BLOCK, place - self.place)):
            pass
        return self.place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _write(entries: Iterator[_Entry], folder: Path, packed: int, limits: Limits) -> None:
    """Write entries below ``folder``: each name once, each size counted."""
    total, seen = 0, dict[str, bool]()
    room = min(limits.total_bytes, shutil.disk_usage(folder).free)
    for entry in entries:
        if entry.is_folder and entry.name in (".", "./"):
            continue  # `tar -cf archive.tar .` begins with the folder itself, and every name with ./
        parts = safe_parts(entry.name.removeprefix("./"), limits.depth)
        _claim(parts, entry.is_folder, seen)
        if len(seen) > limits.files:
            raise _too_many(limits)
        target = folder.joinpath(*parts)
        if entry.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        most = min(
            limits.file_bytes, room - total, max(limits.ratio_from, limits.ratio * max(entry.packed, 1))
        )
        if entry.size > most:
            raise _too_large()
        total += _copy(entry, target, most)
        if total > max(limits.ratio_from, limits.ratio * packed):
            raise _too_large()


def _copy(entry: _Entry, target: Path, most: int) -> int:
    """Write one file, at most ``most`` bytes of it, whatever it declared. Returns its bytes."""
    written = 0
    with entry.open() as inside, open(target, "xb") as outside:
        while block := inside.read(BLOCK):
            written += len(block)
            if written > most:
                raise _too_large()
            outside.write(block)
    if written != entry.size:
        raise _bad(entry.name, say("cut short", "不完整"))
    return written


def safe_parts(name: str, depth: int = Limits.depth) -> tuple[str, ...]:
    """The parts of a name in an archive, if it means the same harmless place on every system.

    Raises:
        ValueError: an absolute path, ``..``, a backslash, a colon, invisible characters, a reserved name, too deep.
    """
    parts = tuple(name.removesuffix("/").split("/"))
    for part in parts:
        strange = any(
            unicodedata.category(mark) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") or mark in '\\:*?"<>|'
            for mark in part
        )
        if (
            part in ("", ".", "..")
            or strange
            or part[-1] in ". "
            or part[0] == " "
            or RESERVED.fullmatch(part)
        ):
            raise _bad(name, say("an unsafe name", "名称不安全"))
        if len(part.encode()) > 200:
            raise _bad(name, say("a name too long", "名称过长"))
    if len(parts) > depth:
        raise _bad(name, say("too deep", "层次过深"))
    return parts


def _claim(parts: tuple[str, ...], is_folder: bool, seen: dict[str, bool]) -> None:
    """Each file once, also where a system takes two spellings for one; no file where a folder is."""
    key = ""
    for place, part in enumerate(parts):
        key += "/" + unicodedata.normalize("NFKC", part).casefold()
        last = place == len(parts) - 1
        folder = is_folder or not last
        if key in seen and not (folder and seen[key]):
            raise _bad("/".join(parts), say("the name occurs twice", "名称重复"))
        seen[key] = folder


def _bad(name: str, why: str) -> ValueError:
    return ValueError(f"{name[:80]!a}: {why}")


def _too_many(limits: Limits) -> ValueError:
    return ValueError(say(f"more than {limits.files:,} files", f"超过 {limits.files:,} 个文件"))


def _too_large() -> ValueError:
    return ValueError(
        say("unpacked it is too large, or suspiciously larger than packed", "解压后过大，或压缩比异常")
    )


def _refused(archive: Path, error: BaseException) -> WeitiaoError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return WeitiaoError(say(f"{archive} is refused: {reason}", f"{archive} 已被拒绝：{reason}"))
