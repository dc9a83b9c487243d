"""What the replicas of one service tell each other: their metrics, and which version of a model is to answer.

They meet at a ``Board``. A replica looks there every few seconds, so that a version loaded, rolled back or unloaded at
one is so at all of them, also at one that starts later, and whichever is asked for metrics tells of all.
"""

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from weitiao.core.errors import WeitiaoError
from weitiao.service.limits import Refused

if TYPE_CHECKING:
    from weitiao.service.app import Service
    from weitiao.service.models import Models, Version

LOG = logging.getLogger("weitiao.service")
LOOK_SECONDS = 2.0
STALE_SECONDS = 15.0  # a replica that has told nothing for so long is gone


@dataclass(frozen=True)
class Order:
    """Which version of a model is to answer. ``folder`` empty: none, it is unloaded."""

    number: int
    folder: str
    version: str


@dataclass(frozen=True)
class News:
    """What lies on the board: the metrics page of each living replica, the last order for each model."""

    pages: dict[str, str]
    orders: dict[str, Order]


class Meeting(Protocol):
    """A board as a replica sees it, wherever it is."""

    def swap(self, name: str, page: str) -> News:
        """Leave a replica's page, take the news."""
        ...

    def order(self, model: str, folder: str, version: str) -> int:
        """Leave an order; its number."""
        ...


class Board:
    """Keeps the pages and orders."""

    def __init__(self) -> None:
        self._pages: dict[str, tuple[float, str]] = {}
        self._orders: dict[str, Order] = {}
        self._count = 0

    def swap(self, name: str, page: str) -> News:
        """Keep a replica's page, give those of all that are alive, and the orders."""
        now = time.monotonic()
        self._pages[name] = now, page
        self._pages = {who: kept for who, kept in self._pages.items() if now - kept[0] < STALE_SECONDS}
        return News({who: text for who, (_, text) in self._pages.items()}, dict(self._orders))

    def order(self, model: str, folder: str, version: str) -> int:
        """Keep the last order for a model."""
        self._count += 1
        self._orders[model] = Order(self._count, folder, version)
        return self._count


class Replica:
    """One replica's part: shares its metrics, passes changes of models on, and follows those of others.

    Args:
        name: of this replica.
        service: the application's ``Service``; its ``models`` will tell of changes from now on.
    """

    def __init__(self, name: str, service: "Service", board: Meeting) -> None:
        self.name, self.board = name, board
        self.models, self.metrics = service.models, service.metrics
        self._pages: dict[str, str] = {}
        self._done: dict[str, int] = {}
        self._load, self._unload = self.models.load, self.models.unload
        self.metrics.share(name, lambda: self._pages)
        self._announce(self.models)

    def start(self) -> None:
        """Do now what was ordered before this replica came, then look again and again, on a thread."""
        first = threading.Thread(target=self.look)  # a thread: the caller may be an event loop
        first.start()
        first.join(60)
        threading.Thread(target=self._run, name="weitiao-replica", daemon=True).start()

    def look(self) -> None:
        """Leave the metrics, take the news, follow the orders. A board that can't be reached is passed over."""
        try:
            news = self.board.swap(self.name, self.metrics.page())
        except Exception as error:  # a board that restarts must not end a replica
            LOG.warning("the other replicas cannot be reached: %s", type(error).__name__)
            return
        self._pages = news.pages
        for model, order in sorted(news.orders.items()):
            if self._done.get(model, 0) < order.number:
                self._done[model] = order.number
                self._follow(model, order)

    def _follow(self, model: str, order: Order) -> None:
        current = self.models.get(model).version if model in self.models.names() else ""
        if current == order.version:
            return
        try:
            self._load(model, order.folder) if order.folder else self._unload(model)
        except (WeitiaoError, Refused) as error:
            LOG.warning("model %s: an order of another replica failed: %s", model, error)

    def _announce(self, models: "Models") -> None:
        """Put a word to the others behind each change that is made here."""
        load, rollback, unload = models.load, models.rollback, models.unload

        def told(version: "Version") -> "Version":
            # A single bundle lies in the served folder itself, which has no versions to choose by name.
            self._tell(version.model, version.folder.name, version.version)
            return version

        def unload_and_tell(name: str) -> None:
            unload(name)
            self._tell(name, "", "")

        changed: dict[str, Any] = {
            "load": lambda name, folder_name="": told(load(name, folder_name)),
            "rollback": lambda name: told(rollback(name)),
            "unload": unload_and_tell,
        }
        for method, value in changed.items():
            setattr(models, method, value)

    def _tell(self, model: str, folder: str, version: str) -> None:
        try:
            self._done[model] = self.board.order(model, folder, version)
        except Exception as error:
            LOG.error(
                "model %s: the other replicas do not know of its change: %s", model, type(error).__name__
            )

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            self.look()
