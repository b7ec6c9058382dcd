"""Lanes: what a piece of work leaves behind."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from edge.lanes import Lane, Lanes, Overdue
from tests.edge.scripts import until

ENDLESS = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r) SELECT count(*) FROM r"
OVERFLOW = "SELECT abs(-9223372036854775808)"


class InOtherWords(Exception):
    """What a store makes of SQLite's errors."""


@pytest.mark.parametrize(("sql", "refusal"), [(ENDLESS, Overdue), (OVERFLOW, InOtherWords)])
async def test_failed_work_leaves_no_cursor_to_the_event_loop(
    tmp_path: Path, sql: str, refusal: type[Exception]
):
    """A cursor that is freed there waits for the statement that runs in its lane, and everybody waits with it."""
    cursors: list[weakref.ref[sqlite3.Cursor]] = []

    def work(connection: sqlite3.Connection) -> Any:
        cursor = connection.cursor()
        cursors.append(weakref.ref(cursor))
        try:
            return cursor.execute(sql).fetchall()
        except sqlite3.Error as exc:
            if exc.sqlite_errorname == "SQLITE_INTERRUPT":
                raise
            raise InOtherWords from exc

    lane = Lane(tmp_path / "one.sqlite", lambda _connection: None)
    with pytest.raises(refusal) as failure:
        await lane.run(work, timeout_s=0.2)
    assert failure.value.__cause__ is not None
    assert [cursor() for cursor in cursors] == [None]
    await lane.close()


WAIT_S = 10.0


def add_row(connection: sqlite3.Connection) -> int:
    connection.execute("CREATE TABLE IF NOT EXISTS t(a)")
    connection.execute("INSERT INTO t VALUES(1)")
    return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])


async def test_whoever_leaves_while_a_file_opens_holds_up_nobody(tmp_path: Path):
    opening, may_open, opened = threading.Event(), threading.Event(), threading.Event()

    def prepare(_connection: sqlite3.Connection) -> None:
        opening.set()
        may_open.wait(WAIT_S)
        opened.set()

    lane = Lane(tmp_path / "one.sqlite", prepare)
    leaving = asyncio.create_task(lane.run(add_row, timeout_s=0.001))
    assert await asyncio.to_thread(opening.wait, WAIT_S)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert not opened.is_set()
    may_open.set()
    assert await lane.run(add_row) == 1
    await lane.close()


async def test_work_that_comes_while_the_file_closes_opens_it_again(tmp_path: Path):
    closing, may_close = threading.Event(), threading.Event()

    class Slow:
        """A function of the connection, which lets go of it while it closes."""

        def __call__(self) -> int:
            return 1

        def __del__(self) -> None:
            closing.set()
            may_close.wait(WAIT_S)

    lane = Lane(tmp_path / "one.sqlite", lambda connection: connection.create_function("slow", 0, Slow()))
    assert await lane.run(add_row) == 1
    close = asyncio.create_task(lane.close())
    assert await asyncio.to_thread(closing.wait, WAIT_S)
    works = [asyncio.create_task(lane.run(add_row)) for _ in range(3)]
    await asyncio.wait(works, timeout=0.1)
    may_close.set()
    assert await asyncio.gather(*works) == [2, 3, 4]
    await close
    assert await lane.run(add_row) == 5
    await lane.close()


async def test_what_cannot_be_interrupted_does_not_keep_the_others_open(tmp_path: Path):
    running, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def deaf(_connection: sqlite3.Connection) -> None:
        running.set()
        may_end.wait(WAIT_S)
        ended.set()

    lanes = Lanes(idle_s=0.01, stop_s=0.2)
    lanes.start()
    stuck, idle = (lanes.get(tmp_path / name, lambda _connection: None) for name in ("stuck", "idle"))
    abandoned = asyncio.create_task(stuck.run(deaf))
    assert await asyncio.to_thread(running.wait, WAIT_S)
    abandoned.cancel()
    await idle.run(add_row)
    await asyncio.to_thread(until, lambda: not (tmp_path / "idle-wal").exists())
    await idle.run(add_row)
    await lanes.stop()
    assert not (tmp_path / "idle-wal").exists()
    assert not ended.is_set()
    may_end.set()
    await stuck.close()
