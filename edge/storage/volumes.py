"""A directory per KV namespace and per R2 bucket: `<account>/<id>/index.sqlite` and `files/`.

The state says which exist; a directory it does not know (we crashed while deleting) is removed at the next start.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from edge.envelope import ApiError
from edge.lanes import Crowded, Lanes, Retired, migrate, transaction
from edge.storage import blobs
from edge.storage.blobs import Blobs, Value, in_file_thread

T = TypeVar("T")


class Change:
    """One transaction on a volume's index, with the files it takes up and lets go of."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.dropped: list[str] = []

    def adopt(self, value: Value) -> None:
        blobs.adopt(self.connection, value)

    def drop(self, names: Iterable[str]) -> None:
        self.dropped.extend(names)


class Volume:
    """One namespace's or bucket's index and files. Once it is being deleted, everything raises `gone()`."""

    def __init__(
        self, directory: Path, lanes: Lanes, migrations: tuple[str, ...], gone: Callable[[], Exception]
    ) -> None:
        self._lane = lanes.get(directory / "index.sqlite", partial(_prepare, directory / "files", migrations))
        self.blobs = Blobs(directory / "files", self._lane)
        self.is_closing = False
        self._gone = gone

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._translated():
            return await self._lane.run(work)

    async def write(self, work: Callable[[Change], T]) -> T:
        """Run `work` as one transaction; then remove the files it dropped."""

        def transacted(connection: sqlite3.Connection) -> tuple[T, list[str]]:
            if self.is_closing:
                raise self._gone()
            change = Change(connection)
            with transaction(connection):
                result = work(change)
                blobs.drop(connection, change.dropped)
            return result, change.dropped

        with self._translated():
            result, dropped = await self._lane.run(transacted)
        await self.blobs.discard(dropped)
        return result

    async def receive(
        self,
        chunks: AsyncIterator[bytes],
        *,
        limit: int,
        inline_limit: int | None = None,
        algorithms: Iterable[str] = ("md5",),
    ) -> Value:
        """`Blobs.receive`."""
        with self._translated():
            return await self.blobs.receive(
                chunks, limit=limit, inline_limit=inline_limit, algorithms=algorithms
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Retired as exc:
            raise self._gone() from exc
        except Crowded as exc:
            raise ApiError(429, 10013, "Too many requests wait for this resource; try again.") from exc


class Volumes:
    """All volumes of one store."""

    def __init__(
        self, root: Path, lanes: Lanes, migrations: tuple[str, ...], gone: Callable[[], Exception]
    ) -> None:
        self._root = root
        self._gone = gone
        self._lanes = lanes
        self._migrations = (blobs.SCHEMA, *migrations)
        self._volumes: dict[tuple[str, str], Volume] = {}

    def get(self, account: str, volume_id: str) -> Volume:
        key = account, volume_id
        if key not in self._volumes:
            directory = self._root / account / volume_id
            self._volumes[key] = Volume(directory, self._lanes, self._migrations, self._gone)
        return self._volumes[key]

    async def remove(self, account: str, volume_id: str) -> None:
        """Close and delete a volume the state no longer knows."""
        volume = self._volumes.pop((account, volume_id), None)
        if volume is not None:
            volume.is_closing = True
        directory = self._root / account / volume_id
        await self._lanes.forget(directory / "index.sqlite")
        await in_file_thread(partial(shutil.rmtree, directory, ignore_errors=True))

    async def remove_unknown(self, known: set[tuple[str, str]]) -> None:
        """At start: delete the volumes of which the state knows nothing."""

        def remove() -> None:
            for directory in self._root.glob("*/*"):
                if (directory.parent.name, directory.name) not in known:
                    shutil.rmtree(directory, ignore_errors=True)

        await in_file_thread(remove)


def _prepare(files: Path, migrations: tuple[str, ...], connection: sqlite3.Connection) -> None:
    migrate(connection, migrations)
    blobs.sweep(connection, files)
