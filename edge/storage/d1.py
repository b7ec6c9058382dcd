"""D1: databases, each an SQLite file with a thread of its own, so that a long query in one delays nobody in another."""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from edge.envelope import ApiError, Page
from edge.lanes import Crowded, Lane, Lanes, Overdue, Retired
from edge.state import State
from edge.storage import d1_engine
from edge.storage.blobs import in_file_thread
from edge.storage.d1_engine import Answer, Shape, SqlError, Statement
from edge.storage.d1_statements import split_statements

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
LOCATIONS = frozenset({"wnam", "enam", "weur", "eeur", "apac", "oc"})
MAX_WAITING = 500
MAX_SQL = 10 * 1024 * 1024
MAX_STATEMENTS = 50_000  # of one request: each takes memory before it is run
READ_AT_ONCE = 50_000  # characters that are taken apart where they arrive: some milliseconds
T = TypeVar("T")

STATE_MIGRATIONS = (
    """
    CREATE TABLE d1_databases(
        account TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, location TEXT, created_at TEXT NOT NULL,
        PRIMARY KEY(account, id), UNIQUE(account, name)) WITHOUT ROWID;
    """,
)


class D1Error(ApiError):
    """NoSuchDatabase (404) · NameTaken · InvalidRequest, TooManyStatements, TimedOut (400) · Overloaded (429); SqlError is in d1_engine."""


class NoSuchDatabase(D1Error):
    def __init__(self, database_id: str = "") -> None:
        super().__init__(404, 7404, f"The database {database_id} could not be found".replace("  ", " "))


class NameTaken(D1Error):
    def __init__(self) -> None:
        super().__init__(400, 7502, "A database with that name already exists")


class InvalidRequest(D1Error):
    def __init__(self, message: str) -> None:
        super().__init__(400, 7400, message)


class TooManyStatements(D1Error):
    def __init__(self) -> None:
        super().__init__(400, 7500, f"A request has at most {MAX_STATEMENTS} SQL statements.")


class Overloaded(D1Error):
    def __init__(self) -> None:
        super().__init__(429, 7429, "D1 DB is overloaded. Too many requests queued.")


class TimedOut(D1Error):
    def __init__(self) -> None:
        super().__init__(
            400, 7500, "D1 DB storage operation exceeded timeout which caused object to be reset."
        )


@dataclass(frozen=True)
class Database:
    id: str
    name: str
    location: str | None
    created_at: str


class D1Store:
    def __init__(self, root: Path, state: State, lanes: Lanes, *, timeout_s: float) -> None:
        self._root = root
        self._state = state
        self._lanes = lanes
        self._timeout_s = timeout_s

    async def start(self) -> None:
        await self._state.ensure_schema("d1", STATE_MIGRATIONS)
        rows = await self._state.rows("SELECT account, id FROM d1_databases")
        known = {self._path(row["account"], row["id"]) for row in rows}

        def remove_unknown() -> None:
            for path in self._root.glob("*/*.sqlite"):
                if path not in known:
                    _unlink(path)

        await in_file_thread(remove_unknown)

    async def create_database(self, account: str, name: Any, location: Any = None) -> Database:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InvalidRequest(
                "A database's name has 1 to 64 of A-Z a-z 0-9 _ -, and starts with a letter or digit."
            )
        if location is not None and location not in LOCATIONS:
            raise InvalidRequest(f"primary_location_hint must be one of {', '.join(sorted(LOCATIONS))}.")
        database = Database(
            str(uuid.uuid4()), name, location, datetime.now(UTC).isoformat().replace("+00:00", "Z")
        )
        try:
            await self._state.execute(
                "INSERT INTO d1_databases VALUES(?,?,?,?,?)",
                account,
                database.id,
                name,
                location,
                database.created_at,
            )
        except sqlite3.IntegrityError as exc:
            raise NameTaken from exc
        return database

    async def list_databases(self, account: str, page: Page, *, name: str = "") -> tuple[list[Database], int]:
        """One page of those whose name contains `name`, and how many there are."""
        where = "account=? AND instr(name, ?)"
        rows = await self._state.rows(
            f"SELECT id, name, location, created_at FROM d1_databases WHERE {where} "  # noqa: S608 - fixed text
            "ORDER BY created_at, id LIMIT ? OFFSET ?",
            account,
            name,
            page.per_page,
            page.offset,
        )
        total = await self._state.row(f"SELECT count(*) FROM d1_databases WHERE {where}", account, name)  # noqa: S608
        return [Database(*row) for row in rows], total[0] if total else 0

    async def get_database(self, account: str, database_id: str) -> Database:
        row = await self._state.row(
            "SELECT id, name, location, created_at FROM d1_databases WHERE account=? AND id=?",
            account,
            database_id,
        )
        if row is None:
            raise NoSuchDatabase(database_id)
        return Database(*row)

    async def find_database(self, account: str, id_or_name: str) -> Database:
        """By id, or else by name, as the real service finds one for `wrangler`. Raises NoSuchDatabase."""
        row = await self._state.row(
            "SELECT id, name, location, created_at FROM d1_databases WHERE account=? AND (id=? OR name=?) "
            "ORDER BY id=? DESC",
            account,
            id_or_name,
            id_or_name,
            id_or_name,
        )
        if row is None:
            raise NoSuchDatabase(id_or_name)
        return Database(*row)

    async def delete_database(self, account: str, database_id: str) -> None:
        changed = await self._state.execute(
            "DELETE FROM d1_databases WHERE account=? AND id=?", account, database_id
        )
        if not changed:
            raise NoSuchDatabase(database_id)
        path = self._path(account, database_id)
        await self._lanes.forget(path)
        await in_file_thread(partial(_unlink, path))

    async def size(self, account: str, database_id: str) -> tuple[int, int]:
        """Bytes of the file, and how many tables it has. Does not wait for the queries that run."""
        path = self._path(account, database_id)

        def measure() -> tuple[int, int]:
            if not path.exists():
                return 0, 0
            with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
                (pages,) = connection.execute("PRAGMA page_count").fetchone()
                (tables,) = connection.execute(
                    "SELECT count(*) FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite_%'"
                ).fetchone()
                return pages * d1_engine.PAGE, tables

        return await in_file_thread(measure)

    async def query(
        self, account: str, database_id: str, statements: Sequence[Statement], shape: Shape
    ) -> Answer:
        """Run the statements as one transaction, and make the answer ready to be sent, all in the database's own thread.

        Raises SqlError, TimedOut, Overloaded, NoSuchDatabase; then nothing was changed.
        """
        work = partial(_run_batch, statements, shape)
        return await self._in_lane(account, database_id, work, timeout_s=self._timeout_s)

    async def take_apart(
        self, account: str, database_id: str, sql_length: int, work: Callable[[], list[T]]
    ) -> list[T]:
        """What `work` finds in SQL of that many characters. Long texts are read in the database's own thread, where its queries run.

        Raises what `work` raises, NoSuchDatabase, Overloaded.
        """
        if sql_length <= READ_AT_ONCE:
            return work()
        return await self._in_lane(account, database_id, lambda _connection: work(), timeout_s=None)

    async def _in_lane(
        self,
        account: str,
        database_id: str,
        work: Callable[[sqlite3.Connection], T],
        *,
        timeout_s: float | None,
    ) -> T:
        lane = await self._lane(account, database_id)
        try:
            return await lane.run(work, timeout_s=timeout_s)
        except Overdue as exc:
            raise TimedOut from exc
        except Crowded as exc:
            raise Overloaded from exc
        except Retired as exc:
            raise NoSuchDatabase(database_id) from exc

    async def _lane(self, account: str, database_id: str) -> Lane:
        await self.get_database(account, database_id)
        return self._lanes.get(self._path(account, database_id), d1_engine.prepare, max_waiting=MAX_WAITING)

    def _path(self, account: str, database_id: str) -> Path:
        return self._root / account / f"{database_id}.sqlite"


def parsed_statements(sql: Any, params: Any) -> list[Statement]:
    """The statements of one `{sql, params}`; with parameters there must be exactly one. Raises InvalidRequest, SqlError."""
    if not isinstance(sql, str):
        raise InvalidRequest("The request is malformed: sql must be a text.")
    if params is not None and not isinstance(params, list):
        raise InvalidRequest("The request is malformed: params must be a list.")
    if len(sql) > MAX_SQL:
        raise SqlError("statement too long: SQLITE_TOOBIG")
    statements = split(sql)
    if not statements:
        raise SqlError("No SQL statements detected.")
    if params and len(statements) > 1:
        raise InvalidRequest("The request is malformed: several statements cannot share parameters.")
    return [Statement(statement, tuple(params or ())) for statement in statements]


def parsed_batch(queries: Iterable[tuple[Any, Any]]) -> list[list[Statement]]:
    """`parsed_statements` of each. Raises InvalidRequest, SqlError, also when they are too many together."""
    batch: list[list[Statement]] = []
    count = 0
    for sql, params in queries:
        batch.append(parsed_statements(sql, params))
        count += len(batch[-1])
        if count > MAX_STATEMENTS:
            raise TooManyStatements
    return batch


def split(sql: str) -> list[str]:
    """The statements of one text. Raises TooManyStatements."""
    statements = list(islice(split_statements(sql), MAX_STATEMENTS + 1))
    if len(statements) > MAX_STATEMENTS:
        raise TooManyStatements
    return statements


def _run_batch(statements: Sequence[Statement], shape: Shape, connection: sqlite3.Connection) -> Answer:
    return d1_engine.run_batch(connection, statements, shape)


def _unlink(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
