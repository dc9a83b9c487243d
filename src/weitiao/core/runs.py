"""The run folder, and writing files so that a crash never leaves half of one.

``config.yaml`` (reproduces the run alone), ``events.jsonl``, ``metrics.json``, ``errors.csv``, ``model/``,
``report.html``, ``README.md`` (the model card), ``checkpoints/``.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event
from weitiao.core.messages import say

# Temporary names of what a run writes, and of what it replaces.
LEFTOVER = re.compile(
    r"\.(model|corpus|config\.yaml|metrics\.json|errors\.csv|report\.html|README\.md|step-\d+)\.(old-\d+|[a-z0-9_]{8})"
)


CURRENT = "current"  # in a run folder: which of its updates answers, as ``updates/2``


def promoted(folder: Path) -> Path:
    """The folder of the update that answers for a run: the run's own, unless ``weitiao update`` promoted one.

    Raises:
        WeitiaoError: the file ``current`` names no update that is there.
    """
    file = folder / CURRENT
    if not file.is_file():
        return folder
    name = file.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(r"updates/\d+", name) or not (folder / name).is_dir():
        raise WeitiaoError(
            say(
                f"{file} names '{name[:40]}', which is no update of this run: write updates/N into it, or remove it",
                f"{file} 的内容“{name[:40]}”不是本次运行的更新：请写入 updates/N，或删除该文件",
            )
        )
    return folder / name


@contextlib.contextmanager
def atomic_file(path: str | Path, mode: str = "w") -> Iterator[Any]:
    """Open a temporary file beside ``path``; on success it is flushed and takes the name, else it is removed.

    Half a surrogate pair, which UTF-8 cannot hold, is written as its JSON escape, so that no text is refused.
    """
    path = Path(path)
    as_text: dict[str, Any] = {"encoding": "utf-8", "newline": "", "errors": "backslashreplace"}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, mode, **({} if "b" in mode else as_text)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder that takes the name ``path`` once whole and on the disk; on failure nothing is left.

    A folder already at ``path`` is replaced only then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                os.chmod(file, 0o644)  # some libraries write for the owner alone
                sync_file(file)
        os.chmod(temporary, 0o755)
        old = None
        if path.exists():
            old = path.with_name(f".{path.name}.old-{os.getpid()}")
            os.replace(path, old)
        os.replace(temporary, path)
        sync_folder(path.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill in the middle of ``atomic_file`` or ``atomic_folder`` left in a run folder."""
    for path in folder.glob(".*"):
        if LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync_file(path: Path) -> None:
    """Flush one file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        sync_file(path)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON for people (UTF-8, indented), atomically."""
    with atomic_file(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2, default=str)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        WeitiaoError: it is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeitiaoError(say(f"No such file: {path}", f"找不到文件：{path}")) from None
    except (ValueError, OSError) as error:
        raise WeitiaoError(
            say(f"{path} is not readable JSON: {error}", f"{path} 不是可读的 JSON：{error}")
        ) from None


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Recorder:
    """Appends events to ``events.jsonl``, one JSON object a line."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "events.jsonl"
        # A crash may have cut the last line short: the next one must not be joined to it.
        cut = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self.file = open(path, "a", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
        if cut:
            self.file.write("\n")

    def __call__(self, event: Event) -> None:
        self.file.write(json.dumps(event.as_json(), ensure_ascii=False, default=str) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def read_events(folder: str | Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first. A last line cut short by a crash is left out."""
    path = Path(folder) / "events.jsonl"
    events = []
    # Not splitlines(), which also breaks at U+2028 and other marks that a text may hold. A crash can cut a
    # character in two, hence "replace".
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []:
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return events
