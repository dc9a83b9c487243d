"""The models that are served: each a name, the version that answers now, and those that answered before.

A request holds the version it started with. A version that was replaced is closed when its last request is done.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.service.batching import Batcher
from weitiao.service.errors import unknown_model
from weitiao.service.folders import scan
from weitiao.service.limits import Refused
from weitiao.service.streams import Streams
from weitiao.service.work import Work

LOG = logging.getLogger("weitiao.service")
MOST_PAST = 8  # versions of a model that a rollback can go back to


@dataclass(eq=False)
class Version:
    """One loaded version of a model and the thread that serves it."""

    model: str
    version: str
    folder: Path
    predictor: Any
    worker: Batcher | Streams
    work: Work | None
    loaded: float = field(default_factory=time.time)
    requests: int = 0
    retired: bool = False

    @property
    def kind(self) -> str:
        """``predictor`` or ``decoder``."""
        return str(self.predictor.bundle.manifest["kind"])

    def close(self) -> None:
        """Finish what waits, end the thread, let go of the graph."""
        self.worker.close()
        self.predictor.close()


Open = Callable[[str, Path], Version]


class Models:
    """The models of a folder by name. Safe to use from several threads; what loads a model takes seconds.

    Args:
        folder: one bundle, or a folder of bundles (``service.folders``).
        open_version: loads a bundle's folder under a model's name.
        changed: told of a version that answers from now on, or of a name and None where a model was unloaded.

    Raises:
        WeitiaoError: the folder holds no bundle, or one that cannot be loaded.
    """

    def __init__(
        self,
        folder: Path,
        open_version: Open,
        changed: Callable[[str, Version | None], None] = lambda *_: None,
    ) -> None:
        self.folder, self._open, self._changed = folder, open_version, changed
        self._current: dict[str, Version] = {}
        self._past: dict[str, list[tuple[str, Path]]] = {}
        self._lock = threading.Lock()  # held for moments
        self._loading = threading.Lock()  # held while a model loads
        found = scan(folder)
        if not found:
            raise WeitiaoError(
                say(
                    f"{folder} holds no bundle. Make one: weitiao export RUN --output {folder / 'NAME'}",
                    f"{folder} 中没有部署包。可用 weitiao export 运行目录 --output {folder / '名称'} 生成",
                )
            )
        try:
            for name, bundles in found.items():
                self._load(name, bundles[-1])
        except BaseException:
            self.close()
            raise

    def names(self) -> list[str]:
        """The names of the loaded models, sorted."""
        return sorted(self._current)

    def get(self, name: str, version: str = "") -> Version:
        """The version that answers now.

        Raises:
            Refused: 404, there is no such model, or another version of it answers.
        """
        found = self._current.get(name)
        if found is None or (version and version != found.version):
            raise unknown_model(name, version)
        return found

    def depth(self) -> int:
        """Items that wait, over all models."""
        return sum(version.worker.depth for version in list(self._current.values()))

    def past(self, name: str) -> list[str]:
        """The versions that a rollback would go back to, the next one last."""
        return [version for version, _ in self._past.get(name, ())]

    @contextmanager
    def use(self, name: str, version: str = "") -> Iterator[Version]:
        """Hold the version that answers now until the request is done.

        Raises:
            Refused: 404, there is no such model, or another version of it answers.
        """
        with self._lock:
            held = self.get(name, version)
            held.requests += 1
        try:
            yield held
        finally:
            with self._lock:
                held.requests -= 1
                done = held.retired and not held.requests
            if done:
                _close(held)

    def load(self, name: str, folder_name: str = "") -> Version:
        """Load a model, or another version of it, from the served folder; the newest one unless it is named.

        Args:
            folder_name: the name of a version's own folder, ``name/<folder_name>/``.

        Raises:
            Refused: 404, the folder has no such model or version.
            WeitiaoError: it cannot be loaded; what answered before goes on.
        """
        with self._loading:
            bundles = scan(self.folder).get(name, [])
            chosen = [path for path in bundles if not folder_name or path.name == folder_name]
            if not chosen:
                raise unknown_model(name, folder_name)
            return self._load(name, chosen[-1])

    def rollback(self, name: str) -> Version:
        """Go back to the version that answered before.

        Raises:
            Refused: 404, no such model; 409, none answered before, or its files have been replaced since.
        """
        with self._loading:
            self.get(name)
            past = self._past.get(name, [])
            if not past:
                raise Refused(409, "no_earlier_version", say("no earlier version", "没有更早的版本"))
            version, folder = past[-1]
            loaded = self._opened(name, folder) if folder.is_dir() else None
            if loaded is None or loaded.version != version:
                if loaded is not None:
                    loaded.close()
                gone = say(
                    f"the files of version {version} are no longer there: load a version by its folder",
                    f"版本 {version} 的文件已不在：请按文件夹加载某个版本",
                )
                raise Refused(409, "version_replaced", gone)
            past.pop()
            return self._take_over(name, loaded, remember=False)

    def unload(self, name: str) -> None:
        """Serve a model no more; requests that hold it are finished.

        Raises:
            Refused: 404, no such model.
        """
        with self._loading:
            with self._lock:
                old = self.get(name)
                del self._current[name]
                self._past.pop(name, None)
            self._changed(name, None)
            self._retire(old)

    def close(self) -> None:
        """Close every model; waits for what is queued."""
        with self._loading:
            for name in self.names():
                self._current.pop(name).close()

    def _load(self, name: str, folder: Path) -> Version:
        return self._take_over(name, self._opened(name, folder), remember=True)

    def _opened(self, name: str, folder: Path) -> Version:
        try:
            return self._open(name, folder)
        except WeitiaoError:
            raise
        except Exception as error:  # a library's own, for a graph that it cannot read
            first = " ".join(str(error).split())[:200]
            raise WeitiaoError(
                say(f"{folder} cannot be loaded: {first}", f"{folder} 无法加载：{first}")
            ) from error

    def _take_over(self, name: str, new: Version, remember: bool) -> Version:
        with self._lock:
            old = self._current.get(name)
            self._current[name] = new
            if old is not None and remember and old.version != new.version:
                past = self._past.setdefault(name, [])
                past.append((old.version, old.folder))
                del past[:-MOST_PAST]
        self._changed(name, new)
        LOG.info("model %s: version %s answers", name, new.version)
        if old is not None:
            self._retire(old)
        return new

    def _retire(self, old: Version) -> None:
        with self._lock:
            old.retired = True
            done = not old.requests
        if done:
            _close(old)


def _close(version: Version) -> None:
    """On a thread of its own: nobody has to wait for it."""
    threading.Thread(target=version.close, name=f"closing {version.model}", daemon=True).start()


def labels_of(version: Version) -> list[str]:
    """The classes that a version can decide for."""
    if version.kind != "predictor":
        return []
    names = list(version.predictor.answers.names)
    # Tags name classes twice, as B- and I-; spans are counted by the class.
    by_token = version.predictor.bundle.manifest["head"]["type"] == "token"
    return sorted({name.partition("-")[2] for name in names} - {""}) if by_token else names


def reference_of(version: Version) -> dict[str, Any] | None:
    """The bundle's ``reference.json``, where it has one."""
    name = version.predictor.bundle.manifest.get("reference")
    return json.loads((version.folder / name).read_text(encoding="utf-8")) if name else None
