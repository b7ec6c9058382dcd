"""The edge's own book-keeping: which namespaces, buckets, databases and scripts exist, for which account.

One SQLite file under the data directory, written in transactions; what a customer stores lies in files of its own (edge/storage).
Each part of the edge brings its tables as a list of migrations under its own name. After `kill -9` the file holds every
transaction that was answered.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edge.lanes import Lane, transaction

T = TypeVar("T")
Row = sqlite3.Row


class State:
    """Metadata of every account. All methods are safe to call from the event loop; none blocks it."""

    def __init__(self, path: Path) -> None:
        self._lane = Lane(path, _prepare)

    async def ensure_schema(self, component: str, migrations: Sequence[str]) -> None:
        """Apply those SQL scripts of `component` that this file has not seen. Append to the list, never change it."""

        def apply(connection: sqlite3.Connection) -> None:
            row = connection.execute("SELECT version FROM schema WHERE component=?", (component,)).fetchone()
            version = row[0] if row else 0
            if version > len(migrations):
                raise sqlite3.DatabaseError(f"the state's {component} tables were written by a newer edge")
            for number, script in enumerate(migrations[version:], start=version + 1):
                # `executescript` would commit by itself what is open, so the transaction is part of the script.
                connection.executescript(
                    f"BEGIN IMMEDIATE;\n{script}\n;INSERT INTO schema VALUES('{component}',{number}) "
                    "ON CONFLICT(component) DO UPDATE SET version=excluded.version;\nCOMMIT;"
                )

        await self._lane.run(apply)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the connection, in the state's thread. Rows are sqlite3.Row."""
        return await self._lane.run(work)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` as one transaction: committed when it returns, rolled back when it raises."""

        def transacted(connection: sqlite3.Connection) -> T:
            with transaction(connection):
                return work(connection)

        return await self._lane.run(transacted)

    async def rows(self, sql: str, *parameters: Any) -> list[Row]:
        return await self._lane.run(lambda connection: connection.execute(sql, parameters).fetchall())

    async def row(self, sql: str, *parameters: Any) -> Row | None:
        rows = await self.rows(sql, *parameters)
        return rows[0] if rows else None

    async def execute(self, sql: str, *parameters: Any) -> int:
        """One statement, committed; the number of rows it changed."""
        return await self._lane.run(lambda connection: connection.execute(sql, parameters).rowcount)

    async def close(self) -> None:
        await self._lane.close()


def _prepare(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema(component TEXT PRIMARY KEY, version INTEGER NOT NULL)"
    )
