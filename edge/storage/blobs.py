"""Large values as files beside the index that names them: streamed in, streamed out, never whole in memory.

A file is written once under a random name and exists for readers only when the index's transaction names it; that commit is the atomic
switch. Before the first byte, and in the transaction that drops a file, its name is noted in `pending_files`; so after a crash the next
process removes exactly the files nobody names. A file that is still being read is removed when the last reader is done.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from edge.lanes import Lane, Retired, transaction

T = TypeVar("T")
BOOT_ID = secrets.token_hex(8)
CHUNK = 256 * 1024
WRITE_AT = 1024 * 1024
IDLE_TIMEOUT_S = 60.0
FILE_THREADS = ThreadPoolExecutor(8, thread_name_prefix="files")

SCHEMA = "CREATE TABLE pending_files(name TEXT PRIMARY KEY, boot TEXT NOT NULL) WITHOUT ROWID;"


class BlobError(Exception):
    """TooLarge (over the limit given) · Stalled (the sender went quiet)."""


class TooLarge(BlobError):
    """The value has more bytes than are allowed."""


class Stalled(BlobError):
    """Nothing arrived for IDLE_TIMEOUT_S."""


@dataclass(frozen=True)
class Value:
    """A value received: `inline` when it is small, else in the file `name`. `digests` are raw bytes by algorithm."""

    size: int
    digests: dict[str, bytes]
    inline: bytes | None = None
    name: str | None = None


@dataclass(frozen=True)
class Segment:
    """`length` bytes of the file `name` from `offset`."""

    name: str
    offset: int
    length: int


class Blobs:
    """The files of one index. `lane` is that index, whose schema includes SCHEMA."""

    def __init__(self, directory: Path, lane: Lane) -> None:
        self._directory = directory
        self._lane = lane
        self._readers: Counter[str] = Counter()
        self._doomed: set[str] = set()
        self._guard = threading.Lock()

    async def receive(
        self,
        chunks: AsyncIterator[bytes],
        *,
        limit: int,
        inline_limit: int | None = None,
        algorithms: Iterable[str] = ("md5",),
    ) -> Value:
        """Take a stream in; up to `inline_limit` bytes it gets no file. Nobody sees the value until `adopt`; whoever does not adopt it must `discard` it.

        Raises TooLarge, Stalled, and what the stream raises; then nothing is left behind.
        """
        sink = Sink(self, algorithms, inline_limit)
        size = 0
        try:
            async for chunk in not_stalling(chunks):
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"more than {limit} bytes")
                await sink.write(chunk)
            return await sink.finish()
        except BaseException:
            await asyncio.shield(sink.abort())
            raise

    async def discard(self, names: Sequence[str]) -> None:
        """Remove files no index row names any more: now, or when their last reader is done."""
        with self._guard:
            self._doomed.update(names)
            ready = [name for name in names if not self._readers[name]]
            self._doomed.difference_update(ready)
        if ready:
            with suppress(Retired):
                await self._lane.run(partial(self._remove, ready))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Lease]:
        """A lease on files: those it holds stay readable inside the block, even when they are replaced."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            await self.discard(lease.release())

    async def read(self, segments: Sequence[Segment]) -> AsyncIterator[bytes]:
        """The bytes of the segments, in chunks. Hold a lease on their files while reading."""
        for segment in segments:
            left = segment.length
            file = await in_file_thread(partial(self._open, segment))
            try:
                while left:
                    chunk = await in_file_thread(partial(file.read, min(left, CHUNK)))
                    if not chunk:
                        raise OSError(f"the file {segment.name} is shorter than its index says")
                    left -= len(chunk)
                    yield chunk
            finally:
                file.close()

    async def create(self) -> tuple[str, BinaryIO]:
        """A new, empty file that is pending: removed by the next process unless somebody adopts it."""
        name = secrets.token_hex(16)
        await self._lane.run(
            lambda connection: connection.execute("INSERT INTO pending_files VALUES(?,?)", (name, BOOT_ID))
        )
        path = self._path(name)
        return name, await in_file_thread(partial(_create, path))

    def _open(self, segment: Segment) -> BinaryIO:
        file = self._path(segment.name).open("rb")
        file.seek(segment.offset)
        return file

    def _remove(self, names: Sequence[str], connection: sqlite3.Connection) -> None:
        # Only what is pending: a caller who was cancelled just after its commit may ask for a file that is now in use.
        for name in names:
            if connection.execute("SELECT 1 FROM pending_files WHERE name=?", (name,)).fetchone():
                self._path(name).unlink(missing_ok=True)
        with transaction(connection):
            _forget(connection, names)

    def _path(self, name: str) -> Path:
        return self._directory / name[:2] / name


class Sink:
    """One value on its way in: a buffer, and a file once the buffer does not do."""

    def __init__(self, blobs: Blobs, algorithms: Iterable[str], inline_limit: int | None) -> None:
        self._blobs = blobs
        self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
        self._inline_limit = -1 if inline_limit is None else inline_limit
        self._buffer = bytearray()
        self._size = 0
        self._name: str | None = None
        self._file: BinaryIO | None = None

    async def write(self, chunk: bytes) -> None:
        self._buffer += chunk
        self._size += len(chunk)
        if len(self._buffer) >= WRITE_AT:
            await self._flush()

    async def finish(self) -> Value:
        inline = None
        if self._file is None and self._size <= self._inline_limit:
            inline = bytes(self._buffer)
            for digest in self._hashes.values():
                digest.update(inline)
        else:
            file = await self._flush()
            await in_file_thread(file.close)
        digests = {name: digest.digest() for name, digest in self._hashes.items()}
        return Value(size=self._size, digests=digests, inline=inline, name=self._name)

    async def abort(self) -> None:
        if self._file is not None and self._name is not None:
            await in_file_thread(self._file.close)
            await self._blobs.discard([self._name])

    async def _flush(self) -> BinaryIO:
        if self._file is None:
            self._name, self._file = await self._blobs.create()
        buffer, self._buffer = self._buffer, bytearray()
        await in_file_thread(partial(self._write, self._file, buffer))
        return self._file

    def _write(self, file: BinaryIO, buffer: bytearray) -> None:
        for digest in self._hashes.values():
            digest.update(buffer)
        file.write(buffer)


class Lease:
    """Made by `Blobs.reading`. `hold` may be called in the index's thread, which orders it with replacements."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._names: list[str] = []

    def hold(self, names: Iterable[str]) -> None:
        with self._blobs._guard:
            for name in names:
                self._blobs._readers[name] += 1
                self._names.append(name)

    def release(self) -> list[str]:
        blobs, doomed = self._blobs, []
        with blobs._guard:
            for name in self._names:
                blobs._readers[name] -= 1
                if not blobs._readers[name]:
                    del blobs._readers[name]
                    if name in blobs._doomed:
                        doomed.append(name)
        return doomed


def adopt(connection: sqlite3.Connection, value: Value) -> None:
    """In the transaction that names the value's file: it is no longer pending."""
    if value.name is not None:
        _forget(connection, [value.name])


def drop(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    """In the transaction that stops naming files: note them for removal; `discard` them once it is committed."""
    connection.executemany("INSERT INTO pending_files VALUES(?,?)", [(name, BOOT_ID) for name in names])


def sweep(connection: sqlite3.Connection, directory: Path) -> None:
    """When an index opens: remove the files an earlier process left pending."""
    rows = connection.execute("SELECT name FROM pending_files WHERE boot<>?", (BOOT_ID,)).fetchall()
    names = [row[0] for row in rows]
    for name in names:
        (directory / name[:2] / name).unlink(missing_ok=True)
    with transaction(connection):
        _forget(connection, names)


async def not_stalling(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks. Raises Stalled when the next one is not there in time."""
    iterator = aiter(chunks)
    while True:
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                chunk = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError as exc:
            raise Stalled(f"nothing arrived for {IDLE_TIMEOUT_S:.0f} s") from exc
        yield chunk


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def in_file_thread(work: Callable[[], T]) -> Awaitable[T]:
    return asyncio.get_running_loop().run_in_executor(FILE_THREADS, work)


def _forget(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    connection.executemany("DELETE FROM pending_files WHERE name=?", [(name,) for name in names])
