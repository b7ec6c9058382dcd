"""Lanes: what a piece of work leaves behind."""

from __future__ import annotations

import sqlite3
import weakref
from pathlib import Path
from typing import Any

import pytest

from edge.lanes import Lane, Overdue

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
