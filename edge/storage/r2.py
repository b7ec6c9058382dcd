"""R2: buckets, and in each objects of up to 5 GiB, streamed to and from files.

An object is replaced the moment the index's transaction names its new files: readers of the old one read on to its end.
Multipart uploads are in r2_multipart.py, the rules in r2_rules.py, the rows in r2_index.py.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from edge.envelope import ApiError
from edge.lanes import Lanes
from edge.state import State
from edge.storage import r2_index
from edge.storage.blobs import Segment, Stalled, TooLarge, Value
from edge.storage.cursors import BadCursor, decode_cursor
from edge.storage.r2_index import Listing
from edge.storage.r2_rules import (
    BUCKET_NAME,
    LOCATIONS,
    MAX_DELETE,
    MAX_LIST,
    MAX_OBJECT,
    STORAGE_CLASSES,
    Attributes,
    BadDigest,
    BucketExists,
    BucketNotEmpty,
    Conditions,
    InvalidArgument,
    InvalidBucketName,
    InvalidMaxKeys,
    NoSuchBucket,
    NoSuchObject,
    ObjectTooLarge,
    PreconditionFailed,
    Range,
    Stored,
    checked_key,
)
from edge.storage.volumes import Change, Volume, Volumes

ALWAYS = Conditions()

STATE_MIGRATIONS = (
    """
    CREATE TABLE r2_buckets(
        account TEXT NOT NULL, name TEXT NOT NULL, volume TEXT NOT NULL, location TEXT NOT NULL,
        storage_class TEXT NOT NULL, created_at TEXT NOT NULL,
        PRIMARY KEY(account, name)) WITHOUT ROWID;
    """,
)


@dataclass(frozen=True)
class Bucket:
    name: str
    location: str
    storage_class: str
    created_at: str


@dataclass(frozen=True)
class Reading:
    """An object with the bytes asked for. `range` is (offset, length) when only part was."""

    stored: Stored
    range: tuple[int, int] | None
    chunks: AsyncIterator[bytes]

    @property
    def length(self) -> int:
        return self.stored.size if self.range is None else self.range[1]


class R2Store:
    def __init__(self, root: Path, state: State, lanes: Lanes) -> None:
        self._state = state
        self._volumes = Volumes(root, lanes, r2_index.MIGRATIONS, NoSuchBucket)

    async def start(self) -> None:
        await self._state.ensure_schema("r2", STATE_MIGRATIONS)
        rows = await self._state.rows("SELECT account, volume FROM r2_buckets")
        await self._volumes.remove_unknown({(row["account"], row["volume"]) for row in rows})

    # Buckets

    async def create_bucket(
        self, account: str, name: Any, *, location: Any = None, storage_class: Any = None
    ) -> Bucket:
        if not isinstance(name, str) or not BUCKET_NAME.fullmatch(name):
            raise InvalidBucketName
        if location is not None and (not isinstance(location, str) or location.lower() not in LOCATIONS):
            raise InvalidArgument(f"locationHint must be one of {', '.join(sorted(LOCATIONS))}")
        if (storage_class or "Standard") not in STORAGE_CLASSES:
            raise InvalidArgument(f"storageClass must be one of {', '.join(sorted(STORAGE_CLASSES))}")
        created_at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        bucket = Bucket(name, (location or "weur").upper(), storage_class or "Standard", created_at)
        try:
            await self._state.execute(
                "INSERT INTO r2_buckets VALUES(?,?,?,?,?,?)",
                account,
                name,
                secrets.token_hex(16),
                bucket.location,
                bucket.storage_class,
                created_at,
            )
        except sqlite3.IntegrityError as exc:
            raise BucketExists from exc
        return bucket

    async def list_buckets(
        self, account: str, *, after: str, contains: str, limit: int, is_descending: bool
    ) -> list[Bucket]:
        """Up to `limit` buckets in the order of their names, after the one named `after`."""
        comparison, direction = ("<", "DESC") if is_descending else (">", "ASC")
        rows = await self._state.rows(
            "SELECT name, location, storage_class, created_at FROM r2_buckets WHERE account=? "  # noqa: S608 - fixed words
            f"AND (?='' OR name{comparison}?) AND instr(name, ?) ORDER BY name {direction} LIMIT ?",
            account,
            after,
            after,
            contains,
            limit,
        )
        return [Bucket(*row) for row in rows]

    async def get_bucket(self, account: str, name: str) -> Bucket:
        row = await self._state.row(
            "SELECT name, location, storage_class, created_at FROM r2_buckets WHERE account=? AND name=?",
            account,
            name,
        )
        if row is None:
            raise NoSuchBucket
        return Bucket(*row)

    async def delete_bucket(self, account: str, name: str) -> None:
        """Raises BucketNotEmpty while objects remain; unfinished uploads do not count and go with the bucket."""
        volume_id = await self._volume_id(account, name)
        volume = self._volumes.get(account, volume_id)
        # From here on nothing can be written, so what is empty stays so.
        volume.is_closing = True
        try:
            if not await volume.read(r2_index.is_empty):
                raise BucketNotEmpty
            await self._state.execute("DELETE FROM r2_buckets WHERE account=? AND name=?", account, name)
        except BaseException:
            volume.is_closing = False
            raise
        await self._volumes.remove(account, volume_id)

    # Objects

    async def put(
        self,
        account: str,
        bucket: str,
        key: str,
        chunks: AsyncIterator[bytes],
        attributes: Attributes,
        *,
        only_if: Conditions = ALWAYS,
        digest: tuple[str, bytes] | None = None,
    ) -> Stored:
        """Write one object. `digest` is an algorithm and what it must give. Raises PreconditionFailed, BadDigest."""
        encoded = checked_key(key)
        volume = await self.volume(account, bucket)
        value = await receive(volume, chunks, algorithms={"md5"} | ({digest[0]} if digest else set()))
        try:
            if digest is not None and value.digests[digest[0]] != digest[1]:
                raise BadDigest(digest[0])
            stored = new_object(
                key,
                attributes,
                etag=value.digests["md5"].hex(),
                checksums={name: raw.hex() for name, raw in value.digests.items()},
                files=[(str(value.name), value.size)],
            )

            def commit(change: Change) -> None:
                current = r2_index.find(change.connection, encoded)
                if not only_if.hold(current):
                    raise PreconditionFailed(current)
                change.adopt(value)
                r2_index.replace(change, stored)

            await volume.write(commit)
        except BaseException:
            await volume.blobs.discard([str(value.name)])
            raise
        return stored

    async def head(self, account: str, bucket: str, key: str) -> Stored:
        volume = await self.volume(account, bucket)
        stored = await volume.read(partial(_find, checked_key(key)))
        if stored is None:
            raise NoSuchObject
        return stored

    @asynccontextmanager
    async def open(
        self,
        account: str,
        bucket: str,
        key: str,
        *,
        only_if: Conditions = ALWAYS,
        wanted: Range | None = None,
    ) -> AsyncIterator[Reading]:
        """An object, readable inside the block. Raises NoSuchObject, PreconditionFailed, InvalidRange."""
        encoded = checked_key(key)
        volume = await self.volume(account, bucket)
        async with volume.blobs.reading() as lease:

            def find(connection: sqlite3.Connection) -> Stored | None:
                stored = r2_index.find(connection, encoded)
                lease.hold([name for name, _ in stored.files] if stored else [])
                return stored

            stored = await volume.read(find)
            if stored is None:
                raise NoSuchObject
            if not only_if.hold(stored):
                raise PreconditionFailed(stored)
            span = None if wanted is None else wanted.resolve(stored.size)
            offset, length = span or (0, stored.size)
            segments = list(_segments(stored.files, offset, length))
            yield Reading(stored, span, volume.blobs.read(segments))

    async def delete(self, account: str, bucket: str, keys: Iterable[Any]) -> None:
        """Delete up to 1,000 objects; those that are not there do not matter."""
        encoded = [checked_key(key) for key in keys]
        if len(encoded) > MAX_DELETE:
            raise InvalidArgument(f"at most {MAX_DELETE} objects can be deleted at once")
        volume = await self.volume(account, bucket)

        def remove(change: Change) -> None:
            for key in encoded:
                r2_index.remove(change, key)

        await volume.write(remove)

    async def list_objects(
        self,
        account: str,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        cursor: str = "",
        start_after: str = "",
        limit: int = MAX_LIST,
    ) -> Listing:
        if not 1 <= limit <= MAX_LIST:
            raise InvalidMaxKeys
        start = start_after.encode() + b"\x00" if start_after else b""
        if cursor:
            try:
                start = decode_cursor(cursor)
            except BadCursor as exc:
                raise InvalidArgument("the cursor is not one of ours") from exc
        volume = await self.volume(account, bucket)
        return await volume.read(
            partial(
                r2_index.list_objects,
                prefix=prefix.encode(),
                delimiter=delimiter.encode(),
                start=start,
                limit=limit,
            )
        )

    async def volume(self, account: str, bucket: str) -> Volume:
        return self._volumes.get(account, await self._volume_id(account, bucket))

    async def _volume_id(self, account: str, bucket: str) -> str:
        row = await self._state.row(
            "SELECT volume FROM r2_buckets WHERE account=? AND name=?", account, bucket
        )
        if row is None:
            raise NoSuchBucket
        return str(row["volume"])


async def receive(
    volume: Volume, chunks: AsyncIterator[bytes], *, algorithms: Iterable[str] = ("md5",)
) -> Value:
    """An object's or part's bytes as a pending file. Raises ObjectTooLarge, and 408 when they stop coming."""
    try:
        return await volume.receive(chunks, limit=MAX_OBJECT, algorithms=algorithms)
    except TooLarge as exc:
        raise ObjectTooLarge from exc
    except Stalled as exc:
        raise ApiError(408, 10001, "The object did not arrive in time.") from exc


def new_object(
    key: str,
    attributes: Attributes,
    *,
    etag: str,
    checksums: dict[str, str],
    files: Sequence[tuple[str, int]],
) -> Stored:
    return Stored(
        key=key,
        version=secrets.token_hex(16),
        size=sum(size for _, size in files),
        etag=etag,
        uploaded_ms=time.time_ns() // 1_000_000,
        http=attributes.http,
        custom=attributes.custom,
        checksums=checksums,
        storage_class=attributes.storage_class,
        files=files,
    )


def _find(key: bytes, connection: sqlite3.Connection) -> Stored | None:
    return r2_index.find(connection, key)


def _segments(files: Sequence[tuple[str, int]], offset: int, length: int) -> Iterator[Segment]:
    for name, size in files:
        take = min(size - offset, length)
        if take > 0:
            yield Segment(name, offset, take)
            length -= take
        offset = max(0, offset - size)
