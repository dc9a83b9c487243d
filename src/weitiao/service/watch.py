"""Looks at the served folder now and then, and loads what is new there."""

import asyncio
import contextlib
import logging

from weitiao.core.errors import WeitiaoError
from weitiao.service.folders import stamps
from weitiao.service.limits import Refused
from weitiao.service.models import Models

LOG = logging.getLogger("weitiao.service")


class FolderWatch:
    """A task that loads a model when a bundle of its appears or is replaced, and unloads it when all are gone.

    Only changes count: after a rollback, the version that was rolled back is not loaded again.

    Args:
        seconds: between two looks; 0: never.
    """

    def __init__(self, models: Models, seconds: float) -> None:
        self.models, self.seconds = models, seconds
        self._seen = stamps(models.folder) if seconds else {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running event loop."""
        if self.seconds:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def look(self) -> None:
        """Load and unload what has changed since the last look. What fails is logged and tried at its next change."""
        try:
            found = stamps(self.models.folder)
        except (WeitiaoError, OSError) as error:
            LOG.warning("%s", error)
            return
        before, self._seen = self._seen, found
        for name in sorted({*before, *found}):
            if before.get(name) == found.get(name):
                continue
            try:
                self.models.load(name) if name in found else self.models.unload(name)
            except (WeitiaoError, Refused) as error:
                LOG.warning("model %s: %s", name, error)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.seconds)
            await asyncio.to_thread(self.look)
