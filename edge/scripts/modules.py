"""The bytes of uploaded modules: one file per content, named by its SHA-256, shared by all who uploaded the same.

A file appears under its name only when it is complete (written aside, then renamed). It is removed when no script's row names it
and no upload in progress has it pinned. If we crash half-way, files nobody names remain; the next start removes them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from pathlib import Path

READABLE = 0o444
WRITE_AT = 1024 * 1024
READ_AT = 256 * 1024


class TooLarge(Exception):
    """More bytes than the limit given."""


class ModuleFiles:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pins: Counter[str] = Counter()

    def ensure_directory(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        return self._directory / digest

    async def receive(self, chunks: AsyncIterator[bytes], *, limit: int) -> tuple[str, int]:
        """Store a stream; its digest, pinned for the caller, who must `unpin` it, and its size. Raises TooLarge."""
        aside = self._directory / f"partial-{secrets.token_hex(8)}"
        sha, size = hashlib.sha256(), 0
        buffer = bytearray()

        def write() -> None:
            sha.update(buffer)
            with aside.open("ab", buffering=0) as file:
                file.write(buffer)

        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"more than {limit} bytes")
                buffer += chunk
                if len(buffer) >= WRITE_AT:
                    await _finished(write)
                    buffer.clear()
            await _finished(write)
            aside.chmod(READABLE)
            digest = sha.hexdigest()
            self._pins[digest] += 1
            aside.replace(self.path(digest))
        finally:
            aside.unlink(missing_ok=True)
        return digest, size

    async def read(self, digest: str) -> AsyncIterator[bytes]:
        """The bytes of a module, in chunks. Pin it while reading."""
        file = await asyncio.to_thread(self.path(digest).open, "rb")
        try:
            while chunk := await asyncio.to_thread(file.read, READ_AT):
                yield chunk
        finally:
            file.close()

    async def settle(self, digests: Iterable[str]) -> None:
        """Returns when the files are on the disk to stay; before that no row may name them."""
        paths = [self.path(digest) for digest in digests]
        await asyncio.to_thread(_sync, [*paths, self._directory])

    def pin(self, digest: str) -> None:
        self._pins[digest] += 1

    def unpin(self, digests: Iterable[str]) -> None:
        for digest in digests:
            self._pins[digest] -= 1
            if self._pins[digest] <= 0:
                del self._pins[digest]

    def place(self, digest: str, target: Path) -> None:
        """Make the module readable at `target`, without a second copy where the file system can."""
        try:
            target.hardlink_to(self.path(digest))
        except OSError:
            shutil.copyfile(self.path(digest), target)
            target.chmod(READABLE)

    def remove(self, digests: Iterable[str]) -> None:
        """Remove files no script names any more; those pinned by an upload in progress stay."""
        for digest in digests:
            if digest not in self._pins:
                self.path(digest).unlink(missing_ok=True)

    def sweep(self, named: set[str]) -> None:
        """Remove whatever no script names. Only at start, before uploads."""
        with suppress(FileNotFoundError):
            for path in self._directory.iterdir():
                if path.name not in named:
                    path.unlink(missing_ok=True)


def _sync(paths: list[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


async def _finished(work: Callable[[], None]) -> None:
    """Do it in a thread. Who is cancelled meanwhile goes on only when it is done: what it uses is theirs again then."""
    doing = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise
