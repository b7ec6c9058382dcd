"""KV: namespaces, and in each up to any number of keys with a value, metadata and an expiry.

Small values lie in the namespace's index, larger ones in files. Unlike the
real KV, which takes up to a minute, a write is visible everywhere at once; nothing may rely on that.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from edge.envelope import ApiError, Page
from edge.lanes import Lanes
from edge.state import State
from edge.storage.blobs import Segment, Stalled, TooLarge, Value
from edge.storage.cursors import BadCursor, decode_cursor, encode_cursor
from edge.storage.kv_pace import Pace
from edge.storage.kv_rules import (
    MAX_LIST,
    MAX_NAMESPACES,
    MAX_VALUE,
    InvalidEntry,
    NoSuchKey,
    NoSuchNamespace,
    Put,
    TitleTaken,
    TooMany,
    ValueTooLarge,
    checked_key,
    checked_title,
)
from edge.storage.volumes import Change, Volume, Volumes

INLINE = 64 * 1024
PURGE_PER_WRITE = 20
OTHERS_TURN = 50

STATE_MIGRATIONS = (
    """
    CREATE TABLE kv_namespaces(
        account TEXT NOT NULL, id TEXT NOT NULL, title TEXT NOT NULL, created_at TEXT NOT NULL,
        PRIMARY KEY(account, id), UNIQUE(account, title)) WITHOUT ROWID;
    """,
)
INDEX_MIGRATIONS = (
    """
    CREATE TABLE entries(
        key BLOB PRIMARY KEY, value BLOB, file TEXT, size INTEGER NOT NULL, metadata TEXT, expires_at INTEGER);
    CREATE INDEX entries_expiring ON entries(expires_at) WHERE expires_at IS NOT NULL;
    """,
)


@dataclass(frozen=True)
class Namespace:
    id: str
    title: str


@dataclass(frozen=True)
class Entry:
    """What a key is known by. `expires_at` in seconds since 1970; `metadata` is compact ASCII JSON."""

    size: int
    metadata: str | None
    expires_at: int | None


@dataclass(frozen=True)
class Reading:
    """An entry with its value's bytes, as a stream."""

    entry: Entry
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True)
class Listed:
    keys: Sequence[tuple[str, Entry]]
    cursor: str


class KvStore:
    def __init__(self, root: Path, state: State, lanes: Lanes, *, write_interval_s: float) -> None:
        self._state = state
        self._pace = Pace(write_interval_s)
        self._volumes = Volumes(root, lanes, INDEX_MIGRATIONS, NoSuchNamespace)

    async def start(self) -> None:
        await self._state.ensure_schema("kv", STATE_MIGRATIONS)
        rows = await self._state.rows("SELECT account, id FROM kv_namespaces")
        await self._volumes.remove_unknown({(row["account"], row["id"]) for row in rows})

    # Namespaces

    async def create_namespace(self, account: str, title: Any) -> Namespace:
        title = checked_title(title)
        namespace_id = secrets.token_hex(16)

        def insert(connection: sqlite3.Connection) -> None:
            (count,) = connection.execute(
                "SELECT count(*) FROM kv_namespaces WHERE account=?", (account,)
            ).fetchone()
            if count >= MAX_NAMESPACES:
                raise TooMany
            try:
                connection.execute(
                    "INSERT INTO kv_namespaces VALUES(?,?,?,?)",
                    (account, namespace_id, title, datetime.now(UTC).isoformat()),
                )
            except sqlite3.IntegrityError as exc:
                raise TitleTaken from exc

        await self._state.write(insert)
        return Namespace(namespace_id, title)

    async def list_namespaces(
        self, account: str, page: Page, *, order: str, is_descending: bool
    ) -> tuple[list[Namespace], int]:
        """One page, and how many there are."""
        column = "title" if order == "title" else "id"
        direction = "DESC" if is_descending else "ASC"
        rows = await self._state.rows(
            f"SELECT id, title FROM kv_namespaces WHERE account=? ORDER BY {column} {direction} LIMIT ? OFFSET ?",  # noqa: S608 - two fixed words
            account,
            page.per_page,
            page.offset,
        )
        total = await self._state.row("SELECT count(*) FROM kv_namespaces WHERE account=?", account)
        return [Namespace(row["id"], row["title"]) for row in rows], total[0] if total else 0

    async def get_namespace(self, account: str, namespace_id: str) -> Namespace:
        row = await self._state.row(
            "SELECT id, title FROM kv_namespaces WHERE account=? AND id=?", account, namespace_id
        )
        if row is None:
            raise NoSuchNamespace
        return Namespace(row["id"], row["title"])

    async def rename_namespace(self, account: str, namespace_id: str, title: Any) -> Namespace:
        title = checked_title(title)
        try:
            changed = await self._state.execute(
                "UPDATE kv_namespaces SET title=? WHERE account=? AND id=?", title, account, namespace_id
            )
        except sqlite3.IntegrityError as exc:
            raise TitleTaken from exc
        if not changed:
            raise NoSuchNamespace
        return Namespace(namespace_id, title)

    async def delete_namespace(self, account: str, namespace_id: str) -> None:
        changed = await self._state.execute(
            "DELETE FROM kv_namespaces WHERE account=? AND id=?", account, namespace_id
        )
        if not changed:
            raise NoSuchNamespace
        await self._volumes.remove(account, namespace_id)

    # Values

    async def put(
        self,
        account: str,
        namespace_id: str,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        metadata: str | None = None,
        expires_at: int | None = None,
    ) -> None:
        """Write one key. `metadata` comes from `checked_metadata`, `expires_at` from `checked_expiry`. Raises TooFast."""
        async with self.writing(account, namespace_id, key) as write:
            await write.receive(chunks)
            await write.commit(metadata=metadata, expires_at=expires_at)

    @asynccontextmanager
    async def writing(self, account: str, namespace_id: str, key: str) -> AsyncIterator[Write]:
        """Write one key in two steps, when what goes with the value is known only after it. Not committed: not written."""
        encoded = checked_key(key)
        volume = await self._volume(account, namespace_id)
        write = Write(volume, encoded, partial(self._pace.take, account, namespace_id, encoded))
        try:
            yield write
        finally:
            await write.discard()

    async def put_bulk(self, account: str, namespace_id: str, puts: Sequence[Put]) -> None:
        """Write many keys, all or none."""
        volume = await self._volume(account, namespace_id)
        entries: list[tuple[bytes, Value, str | None, int | None]] = []
        try:
            for number, put in enumerate(puts):
                if number % OTHERS_TURN == 0:
                    await asyncio.sleep(0)  # small values wait for nothing, and so would let nobody in
                value = await _receive(volume, _once(put.value))
                entries.append((put.key, value, put.metadata, put.expires_at))
            await volume.write(lambda change: _upsert(change, entries))
        except BaseException:
            await volume.blobs.discard([value.name for _, value, _, _ in entries if value.name])
            raise

    @asynccontextmanager
    async def open(self, account: str, namespace_id: str, key: str) -> AsyncIterator[Reading]:
        """One key's value, readable inside the block. Raises NoSuchKey."""
        encoded = checked_key(key)
        volume = await self._volume(account, namespace_id)
        async with volume.blobs.reading() as lease:

            def find(connection: sqlite3.Connection) -> tuple[Entry, bytes | None, str | None] | None:
                row = connection.execute(
                    "SELECT size, metadata, expires_at, value, file FROM entries "
                    "WHERE key=? AND (expires_at IS NULL OR expires_at>?)",
                    (encoded, time.time()),
                ).fetchone()
                if row is None:
                    return None
                lease.hold([row[4]] if row[4] else [])
                return Entry(row[0], row[1], row[2]), row[3], row[4]

            found = await volume.read(find)
            if found is None:
                raise NoSuchKey
            entry, inline, file = found
            if file is None:
                yield Reading(entry, _once(inline or b""))
            else:
                yield Reading(entry, volume.blobs.read([Segment(file, 0, entry.size)]))

    async def find(self, account: str, namespace_id: str, key: str) -> tuple[Entry, bytes] | None:
        """One key's entry and whole value, or None."""
        try:
            async with self.open(account, namespace_id, key) as reading:
                return reading.entry, b"".join([chunk async for chunk in reading.chunks])
        except NoSuchKey:
            return None

    async def metadata(self, account: str, namespace_id: str, key: str) -> Entry:
        async with self.open(account, namespace_id, key) as reading:
            return reading.entry

    async def delete_keys(self, account: str, namespace_id: str, keys: Iterable[str]) -> None:
        """Delete keys; those that are not there do not matter."""
        encoded = [checked_key(key) for key in keys]
        volume = await self._volume(account, namespace_id)

        def delete(change: Change) -> None:
            for key in encoded:
                _release(change, key)
                change.connection.execute("DELETE FROM entries WHERE key=?", (key,))

        await volume.write(delete)

    async def list_keys(
        self, account: str, namespace_id: str, *, prefix: str = "", cursor: str = "", limit: int = MAX_LIST
    ) -> Listed:
        """Keys in the order of their bytes. An empty cursor means this was the last page."""
        volume = await self._volume(account, namespace_id)
        first = prefix.encode()
        try:
            after = decode_cursor(cursor)
        except BadCursor as exc:
            raise InvalidEntry("the cursor is not one of ours") from exc

        def select(connection: sqlite3.Connection) -> list[tuple[bytes, int, str | None, int | None]]:
            # No valid UTF-8 holds a byte 0xff, so it closes the range of a prefix.
            return connection.execute(
                "SELECT key, size, metadata, expires_at FROM entries WHERE key>=? AND key<? AND key>? "
                "AND (expires_at IS NULL OR expires_at>?) ORDER BY key LIMIT ?",
                (first, first + b"\xff", after, time.time(), limit + 1),
            ).fetchall()

        rows = await volume.read(select)
        keys = [
            (key.decode(), Entry(size, metadata, expires_at))
            for key, size, metadata, expires_at in rows[:limit]
        ]
        return Listed(keys, encode_cursor(rows[limit - 1][0]) if len(rows) > limit else "")

    async def _volume(self, account: str, namespace_id: str) -> Volume:
        await self.get_namespace(account, namespace_id)
        return self._volumes.get(account, namespace_id)


class Write:
    """One key being written; made by `KvStore.writing`."""

    def __init__(self, volume: Volume, key: bytes, count: Callable[[], None]) -> None:
        self._volume = volume
        self._key = key
        self._count = count
        self._value: Value | None = None

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        if self._value is not None:
            raise InvalidEntry("a key has one value")
        self._value = await _receive(self._volume, chunks)

    async def commit(self, *, metadata: str | None, expires_at: int | None) -> None:
        if self._value is None:
            raise InvalidEntry("the part named value is missing")
        self._count()
        entry = (self._key, self._value, metadata, expires_at)
        await self._volume.write(lambda change: _upsert(change, [entry]))
        self._value = None

    async def discard(self) -> None:
        if self._value is not None and self._value.name is not None:
            await self._volume.blobs.discard([self._value.name])


async def _receive(volume: Volume, chunks: AsyncIterator[bytes]) -> Value:
    try:
        return await volume.receive(chunks, limit=MAX_VALUE, inline_limit=INLINE, algorithms=())
    except TooLarge as exc:
        raise ValueTooLarge(None) from exc
    except Stalled as exc:
        raise ApiError(408, 10012, "the value did not arrive in time") from exc


def _upsert(change: Change, entries: Iterable[tuple[bytes, Value, str | None, int | None]]) -> None:
    for key, value, metadata, expires_at in entries:
        change.adopt(value)
        _release(change, key)
        change.connection.execute(
            "INSERT INTO entries VALUES(?,?,?,?,?,?) ON CONFLICT(key) DO UPDATE SET value=excluded.value, "
            "file=excluded.file, size=excluded.size, metadata=excluded.metadata, expires_at=excluded.expires_at",
            (key, value.inline, value.name, value.size, metadata, expires_at),
        )
    expired = change.connection.execute(
        "SELECT key, file FROM entries WHERE expires_at<=? LIMIT ?", (time.time(), PURGE_PER_WRITE)
    ).fetchall()
    change.drop(file for _, file in expired if file)
    change.connection.executemany("DELETE FROM entries WHERE key=?", [(key,) for key, _ in expired])


def _release(change: Change, key: bytes) -> None:
    rows = change.connection.execute("SELECT file FROM entries WHERE key=? AND file IS NOT NULL", (key,))
    change.drop([row[0] for row in rows])


async def _once(value: bytes) -> AsyncIterator[bytes]:
    yield value
