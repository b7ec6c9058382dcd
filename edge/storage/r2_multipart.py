"""Objects that arrive in parts: begin, upload parts in any order, complete or abort.

A part's file is the object's file afterwards; nothing is copied. Parts of an upload that is never completed stay until it is aborted or
the bucket is deleted.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from edge.storage import r2_index
from edge.storage.r2 import R2Store, new_object, receive
from edge.storage.r2_rules import (
    MAX_PART_NUMBER,
    MIN_PART,
    Attributes,
    BadUpload,
    InvalidArgument,
    InvalidPart,
    NoSuchUpload,
    PartTooSmall,
    Stored,
    checked_key,
)
from edge.storage.volumes import Change


async def create_upload(store: R2Store, account: str, bucket: str, key: Any, attributes: Attributes) -> str:
    """Begin; the id of the upload."""
    encoded = checked_key(key)
    volume = await store.volume(account, bucket)
    upload_id = secrets.token_urlsafe(48)

    def insert(change: Change) -> None:
        change.connection.execute(
            "INSERT INTO uploads VALUES(?,?,?,?,?,?)",
            (
                upload_id,
                encoded,
                json.dumps(attributes.http),
                json.dumps(attributes.custom),
                attributes.storage_class,
                time.time_ns() // 1_000_000,
            ),
        )

    await volume.write(insert)
    return upload_id


async def upload_part(
    store: R2Store,
    account: str,
    bucket: str,
    key: Any,
    upload_id: str,
    number: Any,
    chunks: AsyncIterator[bytes],
) -> str:
    """Write one part, or write it again; its etag. Raises NoSuchUpload."""
    encoded = checked_key(key)
    if type(number) is not int or not 1 <= number <= MAX_PART_NUMBER:
        raise InvalidArgument(f"Part number must be between 1 and {MAX_PART_NUMBER} (inclusive).")
    volume = await store.volume(account, bucket)
    await volume.read(lambda connection: _upload(connection, upload_id, encoded))
    value = await receive(volume, chunks)
    etag = value.digests["md5"].hex()

    def commit(change: Change) -> None:
        _upload(change.connection, upload_id, encoded)
        change.adopt(value)
        replaced = change.connection.execute(
            "DELETE FROM parts WHERE upload=? AND number=? RETURNING file", (upload_id, number)
        ).fetchall()
        change.drop([row[0] for row in replaced])
        change.connection.execute(
            "INSERT INTO parts VALUES(?,?,?,?,?)", (upload_id, number, value.name, value.size, etag)
        )

    try:
        await volume.write(commit)
    except BaseException:
        await volume.blobs.discard([str(value.name)])
        raise
    return etag


async def complete_upload(
    store: R2Store, account: str, bucket: str, key: Any, upload_id: str, parts: Sequence[tuple[int, str]]
) -> Stored:
    """Make the parts, given as (number, etag), the object. Parts not named are gone.

    Raises NoSuchUpload, InvalidPart, PartTooSmall, BadUpload (parts of unequal size, numbers twice).
    """
    encoded = checked_key(key)
    volume = await store.volume(account, bucket)

    def commit(change: Change) -> Stored:
        attributes = _upload(change.connection, upload_id, encoded)
        rows = change.connection.execute(
            "SELECT number, file, size, etag FROM parts WHERE upload=?", (upload_id,)
        ).fetchall()
        known = {number: (file, size, etag) for number, file, size, etag in rows}
        chosen = _chosen(known, parts)
        md5s = b"".join(bytes.fromhex(etag) for _, _, etag in chosen)
        stored = new_object(
            str(key),
            attributes,
            etag=f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(chosen)}",
            checksums={},
            files=[(file, size) for file, size, _ in chosen],
        )
        kept = {file for file, _, _ in chosen}
        change.drop([file for file, _, _ in known.values() if file not in kept])
        _forget(change, upload_id)
        r2_index.replace(change, stored)
        return stored

    return await volume.write(commit)


async def abort_upload(store: R2Store, account: str, bucket: str, key: Any, upload_id: str) -> None:
    """Remove the upload and its parts. Raises NoSuchUpload."""
    encoded = checked_key(key)
    volume = await store.volume(account, bucket)

    def commit(change: Change) -> None:
        _upload(change.connection, upload_id, encoded)
        rows = change.connection.execute("SELECT file FROM parts WHERE upload=?", (upload_id,)).fetchall()
        change.drop([row[0] for row in rows])
        _forget(change, upload_id)

    await volume.write(commit)


def _upload(connection: sqlite3.Connection, upload_id: str, key: bytes) -> Attributes:
    row = connection.execute(
        "SELECT http, custom, storage_class FROM uploads WHERE id=? AND key=?", (upload_id, key)
    ).fetchone()
    if row is None:
        raise NoSuchUpload
    return Attributes(json.loads(row[0]), json.loads(row[1]), row[2])


def _chosen(
    known: dict[int, tuple[str, int, str]], parts: Sequence[tuple[int, str]]
) -> list[tuple[str, int, str]]:
    if not parts:
        raise InvalidPart
    if len({number for number, _ in parts}) != len(parts):
        raise BadUpload
    chosen = []
    for number, etag in sorted(parts):
        if number not in known or known[number][2] != etag:
            raise InvalidPart
        chosen.append(known[number])
    sizes = [size for _, size, _ in chosen]
    if any(size < MIN_PART for size in sizes[:-1]):
        raise PartTooSmall
    if len(set(sizes[:-1])) > 1 or (len(sizes) > 1 and sizes[-1] > sizes[0]):
        raise BadUpload
    return chosen


def _forget(change: Change, upload_id: str) -> None:
    change.connection.execute("DELETE FROM parts WHERE upload=?", (upload_id,))
    change.connection.execute("DELETE FROM uploads WHERE id=?", (upload_id,))
