"""Running a customer's SQL on a customer's file: what it may do, how much of it, and what it cost.

An authorizer refuses whatever leaves the file or outlives the request (ATTACH, temporary tables, most PRAGMAs, transactions of its
own); SQLite's limits are those of the real D1. Runs in the database's own thread; the time limit is the Lane's.
Sources: https://developers.cloudflare.com/d1/platform/limits/ and https://developers.cloudflare.com/d1/sql-api/sql-statements/.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from edge.envelope import ApiError
from edge.lanes import transaction
from edge.pieces import PIECE, JsonWriter, NoRoom

MAX_DATABASE = 10 * 1000**3
MAX_RESULT = 32 * 1024 * 1024  # of JSON: all that the statements of one request answer
MAX_PARAMS = 100
PAGE = 4096

LIMITS = (
    (sqlite3.SQLITE_LIMIT_LENGTH, 2_000_000),
    (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 100_000),
    (sqlite3.SQLITE_LIMIT_COLUMN, 100),
    (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 100),
    (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 5),
    (sqlite3.SQLITE_LIMIT_VDBE_OP, 25_000),
    (sqlite3.SQLITE_LIMIT_FUNCTION_ARG, 32),
    (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
    (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50),
    (sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, MAX_PARAMS),
    (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 10),
    (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
)
READING_PRAGMAS = frozenset(
    [
        "data_version",
        "foreign_key_check",
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "optimize",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
    ]
)
# Name to the value it must have again when the request is over.
SETTABLE_PRAGMAS = {
    "case_sensitive_like": "OFF",
    "defer_foreign_keys": "OFF",
    "foreign_keys": "ON",
    "ignore_check_constraints": "OFF",
    "legacy_alter_table": "OFF",
    "recursive_triggers": "ON",
    "reverse_unordered_selects": "OFF",
}
DENIED_ACTIONS = frozenset(
    {
        sqlite3.SQLITE_ATTACH,
        sqlite3.SQLITE_DETACH,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_SAVEPOINT,
        sqlite3.SQLITE_CREATE_TEMP_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
    }
)
SCHEMA_ACTIONS = frozenset(
    {
        sqlite3.SQLITE_ALTER_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_CREATE_TRIGGER,
        sqlite3.SQLITE_CREATE_VIEW,
        sqlite3.SQLITE_CREATE_VTABLE,
        sqlite3.SQLITE_DROP_INDEX,
        sqlite3.SQLITE_DROP_TABLE,
        sqlite3.SQLITE_DROP_TRIGGER,
        sqlite3.SQLITE_DROP_VIEW,
        sqlite3.SQLITE_DROP_VTABLE,
    }
)
DENIED_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer"})
VIRTUAL_TABLES = frozenset({"fts5", "fts5vocab"})
RESERVED_PREFIX = "_cf_"


class SqlError(ApiError):
    """The SQL failed, or was refused; nothing of its batch was done. The message is SQLite's with its code's name."""

    def __init__(self, message: str) -> None:
        super().__init__(400, 7500, message)


@dataclass(frozen=True, slots=True)
class Statement:
    """`is_told` is false where nobody wants its answer."""

    sql: str
    params: tuple[Any, ...] = ()
    is_told: bool = True


class Shape(Enum):
    """How rows are told: an object each, lists beside the columns' names, or not at all."""

    OBJECTS = "ARRAY_OF_OBJECTS"
    ARRAYS = "ROWS_AND_COLUMNS"
    NONE = "NONE"


class Timings(msgspec.Struct, frozen=True):
    sql_duration_ms: float


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What D1 says of one statement; durations in milliseconds."""

    served_by: str = "edge"
    served_by_region: str = "WEUR"
    served_by_primary: bool = True
    duration: float
    timings: Timings
    changes: int
    last_row_id: int
    changed_db: bool
    size_after: int
    # SQLite counts rows only for callers in C: what was returned or changed is the least that was read.
    rows_read: int
    rows_written: int


@dataclass(frozen=True)
class Answer:
    """`told` is the JSON of the statements' answers, commas between them, in pieces; `metas` are those of all statements."""

    told: list[bytes]
    metas: list[Meta]


def prepare(connection: sqlite3.Connection) -> None:
    """Make a fresh connection D1's."""
    for limit, value in LIMITS:
        connection.setlimit(limit, value)
    connection.execute(f"PRAGMA max_page_count={MAX_DATABASE // PAGE}").fetchall()
    connection.execute("PRAGMA cache_size=-8000")
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA recursive_triggers=ON")
    connection.text_factory = lambda raw: raw.decode(errors="replace")


def run_batch(connection: sqlite3.Connection, statements: Sequence[Statement], shape: Shape) -> Answer:
    """Run the statements as one transaction: all of them, or none. Raises SqlError, and lets an interrupt through."""
    guard = Guard()
    writer = JsonWriter(MAX_RESULT)
    metas: list[Meta] = []
    try:
        with transaction(connection):
            told = 0
            for statement in statements:
                if statement.is_told and told:
                    writer.raw(b",")
                told += statement.is_told
                metas.append(_run(connection, statement, guard, shape, writer))
            pieces = writer.finish()
        return Answer(pieces, metas)
    except NoRoom as exc:
        raise SqlError(f"the result is larger than {MAX_RESULT} bytes; use LIMIT") from exc
    except sqlite3.Error as exc:
        if getattr(exc, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
            raise
        raise SqlError(describe(exc)) from exc
    finally:
        if guard.has_set_pragma:
            for name, value in SETTABLE_PRAGMAS.items():
                connection.execute(f"PRAGMA {name}={value}").fetchall()


class Guard:
    """SQLite's authorizer while a customer's statement is prepared, and what it saw."""

    def __init__(self) -> None:
        self.has_set_pragma = False
        self.changes_schema = False

    def __call__(
        self, action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None
    ) -> int:
        if action in DENIED_ACTIONS or not self._may(action, (first or "").lower(), second):
            return sqlite3.SQLITE_DENY
        if action in SCHEMA_ACTIONS:
            self.changes_schema = True
        return sqlite3.SQLITE_OK

    def _may(self, action: int, first: str, second: str | None) -> bool:
        if action == sqlite3.SQLITE_PRAGMA:
            if first in SETTABLE_PRAGMAS and second is not None:
                self.has_set_pragma = True
            return first in READING_PRAGMAS or first in SETTABLE_PRAGMAS
        if action == sqlite3.SQLITE_FUNCTION:
            return (second or "").lower() not in DENIED_FUNCTIONS
        if action == sqlite3.SQLITE_CREATE_VTABLE:
            return (second or "").lower() in VIRTUAL_TABLES and not first.startswith(RESERVED_PREFIX)
        return not first.startswith(RESERVED_PREFIX)


def _run(
    connection: sqlite3.Connection, statement: Statement, guard: Guard, shape: Shape, writer: JsonWriter
) -> Meta:
    started = time.perf_counter()
    changes_before = connection.total_changes
    guard.changes_schema = False
    cursor = connection.cursor()
    connection.set_authorizer(guard)
    try:
        cursor.execute(statement.sql, _bindable(statement.params))
    except sqlite3.ProgrammingError as exc:
        if "number of bindings" in str(exc):
            raise SqlError("Wrong number of parameter bindings for SQL query.") from exc
        raise
    except (OverflowError, UnicodeEncodeError, ValueError) as exc:
        raise SqlError(f"the statement or a parameter cannot be stored: {exc}") from exc
    finally:
        connection.set_authorizer(None)
    if statement.is_told:
        writer.raw(b"{")
        rows = _tell(cursor, shape, writer)
    else:
        rows = _count(cursor)
    duration_ms = (time.perf_counter() - started) * 1000
    changes = connection.total_changes - changes_before
    last_row_id = cursor.lastrowid or 0
    cursor.close()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    meta = Meta(
        duration=duration_ms,
        timings=Timings(duration_ms),
        changes=changes,
        last_row_id=last_row_id,
        changed_db=changes > 0 or guard.changes_schema,
        size_after=pages * PAGE,
        rows_read=max(rows, changes),
        rows_written=changes,
    )
    if statement.is_told:
        writer.raw(b'"success":true,"meta":')
        writer.value(meta)
        writer.raw(b"}")
    return meta


def _tell(cursor: sqlite3.Cursor, shape: Shape, writer: JsonWriter) -> int:
    """Write the member `results`; how many rows there were. Row by row: a customer decides how large one is, and how many."""
    columns = [column[0] for column in cursor.description] if cursor.description else []
    if shape is Shape.NONE:
        return _count(cursor)
    if shape is Shape.OBJECTS:
        writer.raw(b'"results":[')
    else:
        writer.raw(b'"results":{"columns":')
        writer.value(columns)
        writer.raw(b',"rows":[')
    rows = 0
    for row in cursor:
        if rows:
            writer.raw(b",")
        rows += 1
        value = dict(zip(columns, row, strict=True)) if shape is Shape.OBJECTS else row
        if _is_plain(row):
            writer.value(value)
        else:
            _tell_large(value, writer)
    writer.raw(b"]," if shape is Shape.OBJECTS else b"]},")
    return rows


def _is_plain(row: Sequence[Any]) -> bool:
    """Whether a row can be encoded at once: no blob, which is told as numbers, and no long text."""
    kinds = {*map(type, row)}
    if bytes in kinds:
        return False
    return str not in kinds or sum(len(value) for value in row if type(value) is str) <= PIECE


def _tell_large(row: dict[str, Any] | Sequence[Any], writer: JsonWriter) -> None:
    is_object = isinstance(row, dict)
    separator = b"{" if is_object else b"["
    for name, value in row.items() if isinstance(row, dict) else enumerate(row):
        writer.raw(separator)
        separator = b","
        if is_object:
            writer.value(name)
            writer.raw(b":")
        if isinstance(value, bytes):
            writer.numbers(value)
        elif isinstance(value, str):
            writer.text(value)
        else:
            writer.value(value)
    writer.raw(b"}" if is_object else b"]")


def _count(cursor: sqlite3.Cursor) -> int:
    return sum(1 for _ in cursor)


def _bindable(params: Sequence[Any]) -> list[Any]:
    if len(params) > MAX_PARAMS:
        raise SqlError("too many SQL variables: SQLITE_ERROR")
    return [_bound(value) for value in params]


def _bound(value: Any) -> Any:
    """JSON's values as SQLite's: a list of bytes is a blob, a boolean a number."""
    if isinstance(value, list):
        if not all(type(item) is int and 0 <= item < 256 for item in value):
            raise SqlError("a list as a parameter must hold bytes, 0 to 255")
        return bytes(value)
    if isinstance(value, dict):
        raise SqlError("an object cannot be a parameter")
    return int(value) if isinstance(value, bool) else value


def describe(error: sqlite3.Error) -> str:
    """An error as D1 words it: SQLite's message, the code's name, and the extended code's where there is one."""
    extended = getattr(error, "sqlite_errorname", None)
    if extended is None:
        return str(error)
    primary = "_".join(extended.split("_")[:2])
    if primary == extended:
        return f"{error}: {primary}"
    return f"{error}: {primary} (extended: {extended})"
