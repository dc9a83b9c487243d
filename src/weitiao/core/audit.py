"""The audit log: what was asked of the service and changed in it, in SQLite, chained so that changes show.

Each row's hash covers its number, time, event and the hash before it. The newest hash stands in a file beside the
database as well, so that a missing end shows too. With a key the hashes are HMACs: then who can write both files
still cannot make a chain that fits. Personal data is masked before it is written.
"""

import contextlib
import datetime
import hashlib
import hmac
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.privacy import mask_value
from weitiao.core.runs import atomic_file

FIRST = "0" * 64  # stands for the hash before the first row
TABLE = "CREATE TABLE entries (number INTEGER PRIMARY KEY, time TEXT, event TEXT, previous TEXT, hash TEXT)"
COLUMNS = "number, time, event, previous, hash"
WAIT_SECONDS = 30


@dataclass(frozen=True)
class Problem:
    """What is wrong at a row: ``number`` is the row's, or that of the row that should be there."""

    number: int
    message: str


@dataclass(frozen=True)
class Head:
    """The end of the log: the newest row, and the one that is being written (0 and "" where none is)."""

    number: int
    hash: str
    next_number: int = 0
    next_hash: str = ""


class AuditLog:
    """An audit log that several threads and processes may append to.

    Args:
        path: the database; the newest hash goes to ``<path>.head``. Both are made at the first append.
        key: a secret for HMAC; without one the hashes are SHA-256.
    """

    def __init__(self, path: str | Path, key: bytes = b"") -> None:
        self.path, self.head_path, self._key = Path(path), Path(f"{path}.head"), key
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def append(self, event: dict[str, Any]) -> int:
        """Write one event, masked. Returns its row's number; by then it is on the disk.

        Raises:
            WeitiaoError: the log cannot be written, or its end is not what the head says.
        """
        return self.append_all([event])

    def append_all(self, events: Iterable[dict[str, Any]]) -> int:
        """Write several events in one go, which costs hardly more than one. Returns the last row's number."""
        masked = [canonical(mask_value(event)) for event in events]
        with self._lock, self._reported():
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")  # other processes wait here
            try:
                rows = self._rows(connection, masked)
                last = self._last(connection)
                if rows:
                    # The head first says what is coming, so that a crash at any moment leaves a log that fits it.
                    self._write_head(Head(*last, rows[-1][0], rows[-1][4]))
                    connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            if not rows:
                return last[0]
            self._settle(connection, Head(rows[-1][0], rows[-1][4]))
            return int(rows[-1][0])

    def entries(self, newest: int = 0) -> Iterator[dict[str, Any]]:
        """``{"number", "time", "event"}`` of every row, oldest first; or of the ``newest`` ones only.

        Raises:
            WeitiaoError: there is no log, or it cannot be read.
        """
        with self._reading() as connection:
            query = "SELECT number, time, event FROM entries ORDER BY number DESC LIMIT ?"
            for number, time, event in reversed(connection.execute(query, (newest or -1,)).fetchall()):
                try:
                    content = json.loads(event)
                except (ValueError, TypeError, RecursionError):
                    content = {"unreadable": str(event)}
                yield {"number": number, "time": time, "event": content}

    def verify(self) -> list[Problem]:
        """Every place where the log is not as it was written; empty if it is whole. The first one tells most.

        Raises:
            WeitiaoError: there is no log, or it is no database any more.
        """
        with self._reading() as connection:
            connection.execute("BEGIN")  # one state of the log, while others append
            problems, last = self._chain(connection)
            head = self._read_head()
            return problems + _end(head, last)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _chain(self, connection: sqlite3.Connection) -> tuple[list[Problem], tuple[int, str]]:
        """Follow the chain through the rows. Returns what is wrong, and the last row's number and hash."""
        found = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        ).fetchall()
        problems = (
            []
            if found == [("entries", TABLE)]
            else [Problem(0, say("the table was altered", "数据表的结构被改动"))]
        )
        number, previous = 0, FIRST
        for row in connection.execute(f"SELECT {COLUMNS} FROM entries ORDER BY number"):
            number += 1
            if row[0] != number:
                rows = f"{number}" if row[0] == number + 1 else f"{number} .. {row[0] - 1}"
                problems.append(Problem(number, say(f"missing: {rows}", f"缺少：{rows}")))
                number = row[0]
            if row[3] != previous:
                problems.append(
                    Problem(number, say("it does not follow the row before it", "与上一行不衔接"))
                )
            texts = all(isinstance(one, str) for one in row[1:])
            if not texts or not hmac.compare_digest(row[4].encode(), self._hash(*row[:4]).encode()):
                problems.append(Problem(number, say("its content was changed", "内容被改动")))
            previous = row[4]
        return problems, (number, previous)

    def _rows(
        self, connection: sqlite3.Connection, events: list[str]
    ) -> list[tuple[int, str, str, str, str]]:
        number, previous = self._last(connection)
        if end := _end(
            self._read_head() if number or self.head_path.exists() else Head(0, FIRST), (number, previous)
        ):
            raise WeitiaoError(
                f"{self.path}: {end[0].message}. "
                + say("See: ", "参见：")
                + f"weitiao audit verify {self.path}"
            )
        rows = []
        for event in events:
            number += 1
            time = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
            row = (number, time, event, previous)
            rows.append((*row, self._hash(*row)))
            previous = rows[-1][4]
        return rows

    def _hash(self, number: Any, time: Any, event: Any, previous: Any) -> str:
        content = canonical([number, time, event, previous]).encode("utf-8", "surrogatepass")
        return (
            hmac.new(self._key, content, "sha256").hexdigest()
            if self._key
            else hashlib.sha256(content).hexdigest()
        )

    def _settle(self, connection: sqlite3.Connection, head: Head) -> None:
        """Say that the rows are written, unless another process has appended in between."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._last(connection) == (head.number, head.hash):
                self._write_head(head)
        finally:
            connection.execute("ROLLBACK")

    def _last(self, connection: sqlite3.Connection) -> tuple[int, str]:
        row = connection.execute("SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1").fetchone()
        return (row[0], row[1]) if row else (0, FIRST)

    def _write_head(self, head: Head) -> None:
        with atomic_file(self.head_path) as file:
            file.write(canonical({**vars(head), "keyed": bool(self._key)}) + "\n")

    def _read_head(self) -> Head | None:
        try:
            content = json.loads(self.head_path.read_text(encoding="utf-8"))
            if content.pop("keyed") != bool(self._key):
                raise WeitiaoError(
                    say(
                        f"{self.path} was written {'without' if self._key else 'with'} a key: read it the same way",
                        f"{self.path} 写入时{'没有' if self._key else '使用了'}密钥：请以同样的方式读取",
                    )
                )
            return Head(**content)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(TABLE.replace("TABLE", "TABLE IF NOT EXISTS", 1))
            self._connection = connection
        return self._connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if not self.path.exists():
            raise WeitiaoError(say(f"No such audit log: {self.path}", f"找不到审计日志：{self.path}"))
        with (
            self._reported(),
            contextlib.closing(
                sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)
            ) as connection,
        ):
            yield connection

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """What SQLite cannot do, as one line."""
        try:
            yield
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise WeitiaoError(
                say(
                    f"{self.path} is damaged or no audit log: {error}",
                    f"{self.path} 已损坏，或不是审计日志：{error}",
                )
            ) from None


def canonical(value: Any) -> str:
    """JSON in one form: keys sorted, no spaces, everything but ASCII escaped."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def _end(head: Head | None, last: tuple[int, str]) -> list[Problem]:
    """Whether the log ends where its head says."""
    if head is None:
        return [
            Problem(
                last[0],
                say("the file with the newest hash is missing or damaged", "记录最新哈希的文件缺失或损坏"),
            )
        ]
    if last in ((head.number, head.hash), (head.next_number, head.next_hash)):
        return []
    expected = head.next_number or head.number
    if last[0] < head.number:
        return [
            Problem(
                last[0] + 1,
                say(f"the end is missing: {expected} rows were written", f"末尾缺失：共写入过 {expected} 行"),
            )
        ]
    return [Problem(last[0], say(f"the log should end with row {expected}", f"日志应在第 {expected} 行结束"))]
