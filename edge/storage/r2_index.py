"""The index of one bucket: rows of objects, and listing them. Everything here runs in the bucket's own thread."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field

from edge.storage.cursors import encode_cursor
from edge.storage.r2_rules import Stored
from edge.storage.volumes import Change

MIGRATIONS = (
    """
    CREATE TABLE objects(
        key BLOB PRIMARY KEY, version TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
        uploaded_ms INTEGER NOT NULL, http TEXT NOT NULL, custom TEXT NOT NULL, checksums TEXT NOT NULL,
        storage_class TEXT NOT NULL, files TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE uploads(
        id TEXT PRIMARY KEY, key BLOB NOT NULL, http TEXT NOT NULL, custom TEXT NOT NULL,
        storage_class TEXT NOT NULL, started_ms INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE parts(
        upload TEXT NOT NULL REFERENCES uploads(id), number INTEGER NOT NULL, file TEXT NOT NULL,
        size INTEGER NOT NULL, etag TEXT NOT NULL, PRIMARY KEY(upload, number)) WITHOUT ROWID;
    """,
)
COLUMNS = "key, version, size, etag, uploaded_ms, http, custom, checksums, storage_class, files"
# workerd reads at most 1 MiB of a listing.
MAX_LIST_BYTES = 900 * 1024


@dataclass
class Listing:
    """A page of objects and, with a delimiter, of the prefixes that stand for the rest."""

    objects: list[Stored] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    cursor: str = ""


def find(connection: sqlite3.Connection, key: bytes) -> Stored | None:
    row = connection.execute(f"SELECT {COLUMNS} FROM objects WHERE key=?", (key,)).fetchone()  # noqa: S608 - fixed columns
    return None if row is None else _stored(row)


def replace(change: Change, stored: Stored) -> None:
    """Make `stored` the object under its key; the files of the one before are dropped."""
    remove(change, stored.key.encode())
    change.connection.execute(
        "INSERT INTO objects VALUES(?,?,?,?,?,?,?,?,?,?)",
        (
            stored.key.encode(),
            stored.version,
            stored.size,
            stored.etag,
            stored.uploaded_ms,
            json.dumps(stored.http),
            json.dumps(stored.custom),
            json.dumps(stored.checksums),
            stored.storage_class,
            json.dumps(stored.files),
        ),
    )


def remove(change: Change, key: bytes) -> None:
    row = change.connection.execute("DELETE FROM objects WHERE key=? RETURNING files", (key,)).fetchone()
    if row is not None:
        change.drop(name for name, _ in json.loads(row[0]))


def is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM objects LIMIT 1").fetchone() is None


def list_objects(
    connection: sqlite3.Connection, *, prefix: bytes, delimiter: bytes, start: bytes, limit: int
) -> Listing:
    """Objects under `prefix` from the key `start` on, in the order of their bytes.

    Keys that hold the delimiter after the prefix are represented by what they share up to it, and skipped at once.
    """
    listing = Listing()
    position = max(prefix, start)
    size = 0
    while True:
        rows = connection.execute(
            f"SELECT {COLUMNS} FROM objects WHERE key>=? AND key<? ORDER BY key LIMIT ?",  # noqa: S608 - fixed columns
            # No valid UTF-8 holds a byte 0xff, so it closes the range of a prefix.
            (position, prefix + b"\xff", limit - len(listing.objects) - len(listing.prefixes) + 1),
        )
        for row in rows:
            if len(listing.objects) + len(listing.prefixes) == limit or size > MAX_LIST_BYTES:
                listing.cursor = encode_cursor(position)
                return listing
            key: bytes = row[0]
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                shared = key[: cut + len(delimiter)]
                listing.prefixes.append(shared.decode())
                size += len(shared) + 8
                position = shared + b"\xff"
                rows.close()
                break
            stored = _stored(row)
            listing.objects.append(stored)
            size += 400 + 2 * len(key) + len(row[5]) + 2 * len(row[6]) + len(row[7])
            position = key + b"\x00"
        else:
            return listing


def _stored(row: tuple) -> Stored:
    key, version, size, etag, uploaded_ms, http, custom, checksums, storage_class, files = row
    return Stored(
        key=key.decode(),
        version=version,
        size=size,
        etag=etag,
        uploaded_ms=uploaded_ms,
        http=json.loads(http),
        custom=json.loads(custom),
        checksums=json.loads(checksums),
        storage_class=storage_class,
        files=[(name, length) for name, length in json.loads(files)],
    )
