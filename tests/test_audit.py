"""The audit log: every edit, deletion, insertion, reorder and truncation shows; appends survive crowds and kills."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from test_privacy import canaries

from weitiao.cli import main
from weitiao.core.audit import COLUMNS, FIRST, AuditLog, canonical
from weitiao.core.errors import WeitiaoError

ROWS = 8
KEYS = (b"", b"secret")
Row = tuple[Any, ...]


def filled(path: Path, key: bytes = b"", rows: int = ROWS) -> AuditLog:
    log = AuditLog(path, key)
    log.append_all({"action": "predict", "n": n, "who": f"key {n}", "状态": n % 2 == 0} for n in range(rows))
    log.close()
    return log


def rows_of(path: Path) -> list[Row]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {COLUMNS} FROM entries ORDER BY number").fetchall()


def rewrite(path: Path, rows: list[Row]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("DELETE FROM entries")
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows)


def edits(rows: list[Row]) -> dict[str, tuple[list[Row], int]]:
    """Every change of one cell, one row or two: the rows after it, and the first row that it breaks."""
    found: dict[str, tuple[list[Row], int]] = {}
    for place, row in enumerate(rows):
        for column in range(len(row)):
            values = {"next": 99, "negative": -5} if column == 0 else {
                "flipped": ("0" if row[column][-1] != "0" else "1").join((row[column][:-1], "")),
                "empty": "", "longer": row[column] + " ", "null": None, "number": 7, "bytes": row[column].encode(),
                "another row's": rows[place - 1][column],
            }  # fmt: skip
            for name, value in values.items():
                if value == row[column]:
                    continue
                changed = [*rows[:place], (*row[:column], value, *row[column + 1 :]), *rows[place + 1 :]]
                found[f"row {place + 1} column {column} {name}"] = (changed, place + 1)
        found[f"row {place + 1} deleted"] = ([*rows[:place], *rows[place + 1 :]], place + 1)
        closed = [*rows[:place], *((row[0] - 1, *row[1:]) for row in rows[place + 1 :])]
        found[f"row {place + 1} deleted, the gap closed"] = (closed, place + 1)
        later = [(row[0] + 1, *row[1:]) for row in rows[place:]]
        found[f"row {place + 1} twice"] = ([*rows[: place + 1], *later], place + 2)
        forged = (row[0], row[1], '{"n":-1}', row[3], row[4])
        found[f"inserted before row {place + 1}"] = ([*rows[:place], forged, *later], place + 1)
        found[f"truncated at row {place + 1}"] = (rows[:place], place + 1)
        for other in range(place + 1, len(rows)):
            swapped = list(rows)
            swapped[place], swapped[other] = (row[0], *rows[other][1:]), (rows[other][0], *row[1:])
            found[f"rows {place + 1} and {other + 1} swapped"] = (swapped, place + 1)
    return found


@pytest.mark.parametrize("key", KEYS)
def test_every_single_change_is_found_at_its_row(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "audit.db"
    log = filled(path, key)
    rows = rows_of(path)
    assert log.verify() == []
    cases = edits(rows)
    assert len(cases) > 300
    for name, (changed, first) in cases.items():
        rewrite(path, changed)
        problems = log.verify()
        assert problems, name
        if "column 0" not in name:  # a row whose number changed is met elsewhere
            assert problems[0].number == first, (name, problems)
    rewrite(path, rows)
    assert log.verify() == []


@pytest.mark.parametrize("key", KEYS)
def test_the_first_broken_row_is_named(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "audit.db"
    log = filled(path, key)
    rows = rows_of(path)
    for place in range(1, ROWS):
        changed = list(rows)
        changed[place] = (*rows[place][:2], '{"n":-1}', *rows[place][3:])
        rewrite(path, changed)
        assert [problem.number for problem in log.verify()] == [place + 1]


def test_a_whole_forged_chain_does_not_fit_the_key_and_without_one_not_the_head(tmp_path: Path) -> None:
    for key in KEYS:
        path = tmp_path / f"{len(key)}.db"
        log, forger = filled(path, key), AuditLog(path)
        forged, previous = [], FIRST
        for number, time, event, _, _ in rows_of(path):
            event = event.replace('"n":3', '"n":333')
            forged.append((number, time, event, previous, forger._hash(number, time, event, previous)))
            previous = forged[-1][4]
        rewrite(path, forged)
        assert log.verify()
        head = json.loads(log.head_path.read_text())
        log.head_path.write_text(json.dumps({**head, "hash": previous}))
        assert bool(log.verify()) == bool(key)  # only a key resists who can write both files


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "{}", '{"number":8}', '{"number":8,"hash":"x","keyed":false}']
)
def test_a_missing_or_changed_head_is_found_and_nothing_is_appended(
    tmp_path: Path, content: str | None
) -> None:
    log = filled(tmp_path / "audit.db")
    log.head_path.unlink()
    if content is not None:
        log.head_path.write_text(content)
    assert log.verify()
    with pytest.raises(WeitiaoError, match="audit verify"):
        log.append({"action": "more"})
    assert len(rows_of(log.path)) == ROWS


def test_nothing_is_appended_to_a_log_that_was_cut_short(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit.db")
    rewrite(log.path, rows_of(log.path)[:-1])
    with pytest.raises(WeitiaoError, match="the end is missing"):
        log.append({"action": "more"})


def test_other_tables_columns_and_triggers_are_found(tmp_path: Path) -> None:
    for number, command in enumerate((
        "ALTER TABLE entries ADD COLUMN note TEXT",
        "CREATE TABLE other (x)",
        "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
    )):  # fmt: skip
        log = filled(tmp_path / f"{number}.db")
        with closing(sqlite3.connect(log.path)) as connection, connection:
            connection.execute(command)
        assert [problem.number for problem in log.verify()] == [0]


@pytest.mark.parametrize("damage", [b"", b"not a database at all", b"SQLite format 3\x00" + b"\x00" * 2000])
def test_a_damaged_file_is_one_clear_line(
    tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.db"
    filled(path)
    for beside in tmp_path.glob("audit.db-*"):
        beside.unlink()
    path.write_bytes(damage)
    assert main(["audit", "verify", str(path)]) == 2
    heard = capsys.readouterr().err
    assert heard.startswith("weitiao: ") and heard.count("\n") == 1


def test_bytes_flipped_anywhere_in_the_file_are_found_or_meaningless(tmp_path: Path) -> None:
    """SQLite's own slack space is the only place where a flip may go unseen: then the rows read as written."""
    path = tmp_path / "audit.db"
    log = filled(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content, rows = path.read_bytes(), rows_of(path)
    found = 0
    for place in range(0, len(content), 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            whole = log.verify() == []
        except WeitiaoError:
            whole = False
        found += not whole
        assert not whole or rows_of(path) == rows
    assert found > 20


def test_threads_and_processes_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    log = AuditLog(path)
    code = (
        "import sys; from weitiao.core.audit import AuditLog; log = AuditLog(sys.argv[1])\n"
        "for n in range(15): log.append({'from': sys.argv[2], 'n': n})"
    )
    others = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(2)]
    threads = [
        threading.Thread(target=lambda: [log.append({"from": "thread"}) for _ in range(15)]) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait() for other in others] == [0, 0]
    assert log.verify() == [] and len(rows_of(path)) == 60
    senders = [entry["event"]["from"] for entry in log.entries()]
    assert {sender: senders.count(sender) for sender in senders} == {"thread": 30, "0": 15, "1": 15}


def killed_at(log: AuditLog, moment: str) -> None:
    """Stop an append as a kill would, at a step of it: nothing after that step happens."""

    class Killed(BaseException):
        pass

    def stop(*_: Any) -> None:
        raise Killed

    write, steps = log._write_head, iter(range(9))

    def head(value: Any) -> None:
        step = next(steps)
        if moment == "before the first head" and step == 0:
            stop()
        if moment == "before the second head" and step == 1:
            stop()
        write(value)
        if moment == "after the first head" and step == 0:
            stop()

    log._write_head = head  # type: ignore[method-assign]
    with pytest.raises(Killed):
        log.append({"action": "killed"})
    log.close()


@pytest.mark.parametrize(
    "moment, rows", [("before the first head", 8), ("after the first head", 8), ("before the second head", 9)]
)
def test_a_crash_at_any_step_leaves_a_whole_log(tmp_path: Path, moment: str, rows: int) -> None:
    killed_at(filled(tmp_path / "audit.db"), moment)
    again = AuditLog(tmp_path / "audit.db")
    assert again.verify() == [] and len(rows_of(again.path)) == rows
    assert again.append({"action": "next"}) == rows + 1
    assert again.verify() == []
    rewrite(again.path, rows_of(again.path)[:-1])
    assert again.verify()  # after the next append the end is certain again


def kill_writers(folder: Path, times: int) -> None:
    path = folder / "audit.db"
    code = (
        "import sys; from weitiao.core.audit import AuditLog; log = AuditLog(sys.argv[1])\n"
        "while True: print(log.append({'n': 1}), flush=True)"
    )
    for number in range(times):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(1 + number % 3)]
            os.kill(writer.pid, signal.SIGKILL)
        log = AuditLog(path)
        assert log.verify() == []
        assert len(rows_of(path)) >= said[-1]  # what was confirmed is there


def test_a_killed_writer_leaves_a_whole_log(tmp_path: Path) -> None:
    kill_writers(tmp_path, 3)


@pytest.mark.soak
def test_a_writer_killed_many_times_leaves_a_whole_log(tmp_path: Path) -> None:
    kill_writers(tmp_path, 100)


def test_1000_canaries_stay_out_of_the_log(tmp_path: Path) -> None:
    log, secrets = AuditLog(tmp_path / "audit.db"), canaries(1000)
    log.append_all(
        {
            "action": "predict",
            "text": f"客户{secret}来电",
            "list": [{secret: 1}],
            "number": int(secret) if secret.isdecimal() else 0,
        }
        for secret in secrets
    )
    log.close()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    shown = "".join(canonical(entry) for entry in log.entries())
    for secret in secrets:
        assert secret.encode() not in content and canonical(secret)[1:-1] not in shown
        assert canonical(secret)[1:-1].encode() not in content
    assert log.verify() == []


def test_the_command_says_whole_or_the_first_broken_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(*argv: str) -> tuple[int, str]:
        code = main(["audit", *argv])
        heard = capsys.readouterr()
        return code, heard.out + heard.err

    path = str(tmp_path / "audit.db")
    log = filled(tmp_path / "audit.db")
    assert ran("verify", path) == (0, "whole: 8 rows\n")
    code, said = ran("list", path, "--last", "2")
    assert code == 0 and [json.loads(line)["number"] for line in said.splitlines()] == [7, 8]
    assert ran("verify", path, "--key-file", str(tmp_path / "none"))[0] == 2
    monkeypatch.setenv("WEITIAO_AUDIT_KEY", "secret")
    assert "written without a key" in ran("verify", path)[1]
    monkeypatch.delenv("WEITIAO_AUDIT_KEY")
    rows = rows_of(log.path)
    rewrite(log.path, [*rows[:4], (*rows[4][:2], "{}", *rows[4][3:]), *rows[5:]])
    code, said = ran("verify", path)
    assert code == 2 and "Row 5: its content was changed" in said and said.count("\n") == 1
    for wrong in (("verfy", path), ("verify",), ("list", str(tmp_path / "none.db"))):
        code, said = ran(*wrong)
        assert code == 2 and said.count("\n") == 1
    assert not (tmp_path / "none.db").exists()


def test_a_log_with_a_key_is_read_with_it_only(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    filled(path, b"secret")
    assert AuditLog(path, b"secret").verify() == []
    assert AuditLog(path, b"another").verify()
    for reader in (AuditLog(path).verify, lambda: AuditLog(path).append({})):
        with pytest.raises(WeitiaoError, match="with a key"):
            reader()
