"""Who asked for what, written to the audit log in the background: one transaction for all that has gathered.

An entry holds names of routes, models and keys, and never a text.
"""

import logging
import threading
from collections import deque
from pathlib import Path
from typing import Any

from weitiao.core.audit import AuditLog
from weitiao.core.errors import WeitiaoError

LOG = logging.getLogger("weitiao.service")
MOST_WAITING = 20_000
KEPT_ROLES = ("predict", "admin")  # probes and metrics are asked for all day long
NOT_KEPT = (429, 503)  # under overload the log would grow by what was never done


class Trail:
    """Appends events to an audit log on a thread of its own; an empty ``path`` keeps none.

    The log is opened at once, so that one that cannot be written is an error at the start.

    Raises:
        WeitiaoError: the log cannot be written, or its chain does not end as its head says.
    """

    def __init__(self, path: str | Path, key: bytes = b"") -> None:
        self._events: deque[dict[str, Any]] = deque()
        self._wake, self._closing, self._lost = threading.Condition(), False, 0
        self._thread: threading.Thread | None = None
        if path:
            self._log = AuditLog(path, key)
            self._log.append({"action": "start"})
            self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
            self._thread.start()

    def put(self, event: dict[str, Any]) -> None:
        """Have an event written soon. Never waits; events that a slow disk leaves no room for are counted there."""
        if self._thread is None:
            return
        with self._wake:
            if len(self._events) < MOST_WAITING:
                self._events.append(event)
            else:
                self._lost += 1
            self._wake.notify()

    def close(self) -> None:
        """Write what waits, and end."""
        if self._thread is None:
            return
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._thread = None
        self._log.close()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._events and not self._closing:
                    self._wake.wait()
                events, lost = list(self._events), self._lost
                self._events.clear()
                self._lost = 0
            if not events:
                return
            if lost:
                events.append({"action": "events lost", "count": lost})
            try:
                self._log.append_all(events)
            except WeitiaoError as error:
                LOG.error("audit: %d events not written: %s", len(events), error)
