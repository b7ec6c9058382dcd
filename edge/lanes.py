"""SQLite files off the event loop: a Lane is one file, one connection, one thread.

Nothing is shared between files, so a statement that runs for half a minute in one delays nobody who uses another. Work in one Lane
runs in order. A Lane that was not used for a while is closed (thread and file handles go away) and opens again by itself.
A connection's cursors live and die in its lane's thread: SQLite makes whoever touches one wait for the statement that runs.
Opening, working and closing happen there, one after the other; the event loop only ever waits for a flag.
If we crash half-way the write-ahead log of the file has every committed transaction, and nothing of the others.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")
Prepare = Callable[[sqlite3.Connection], None]
INTERRUPT_AGAIN_S = 0.05
THREAD_PREFIX = "lane-"


class LaneError(Exception):
    """Root of this module's errors: Overdue (ran past its limit) · Crowded (too many wait) · Retired (deleted)."""


class Overdue(LaneError):
    """The work ran past its time limit and was interrupted; its transaction is rolled back."""


class Crowded(LaneError):
    """Too much work already waits for this file."""


class Retired(LaneError):
    """The file is being deleted."""


@dataclass(eq=False)
class Job:
    """One piece of work. `is_stopped` is set before each interrupt, so work may look at it between statements."""

    is_stopped: bool = False
    started: asyncio.Event = field(default_factory=asyncio.Event)


class Lane:
    """One SQLite file. `prepare` sees every new connection first (pragmas, schema, authorizer)."""

    def __init__(self, path: Path, prepare: Prepare, *, max_waiting: int = 10_000) -> None:
        self.path = path
        self.used_at = time.monotonic()
        self.waiting = 0
        self.is_retired = False
        self._prepare = prepare
        self._max_waiting = max_waiting
        self._executor: ThreadPoolExecutor | None = None
        self._submitted = 0
        self._connection: sqlite3.Connection | None = None  # the thread's alone, but for `interrupt`
        self._guard = (
            threading.Lock()
        )  # of the flags; the loop takes it, so nothing that takes time happens inside
        self._running: Job | None = None

    @property
    def is_open(self) -> bool:
        return self._executor is not None

    async def run(self, work: Callable[[sqlite3.Connection], T], *, timeout_s: float | None = None) -> T:
        """Run `work` in the lane's thread, after what already waits there. The limit counts from when it starts.

        Raises Overdue, Crowded, Retired, and whatever `work` raises. Cancelling the caller interrupts the work.
        """
        if self.is_retired:
            raise Retired(self.path.name)
        if self.waiting >= self._max_waiting:
            raise Crowded(f"{self.waiting} pieces of work wait for {self.path.name}")
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix=THREAD_PREFIX + self.path.stem[:24])
        self.waiting += 1
        self._submitted += 1
        self.used_at = time.monotonic()
        job = Job()
        loop = asyncio.get_running_loop()
        began = None if timeout_s is None else partial(loop.call_soon_threadsafe, job.started.set)
        future = loop.run_in_executor(self._executor, self._work, work, job, began)
        watch = None if timeout_s is None else asyncio.create_task(self._watch(job, timeout_s))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._interrupt(job)
            future.add_done_callback(_ignore_outcome)
            raise
        finally:
            if watch is not None:
                watch.cancel()
            self.waiting -= 1
            self.used_at = time.monotonic()

    def interrupt(self) -> None:
        """Stop the work in progress; its caller gets Overdue."""
        if self._running is not None:
            self._interrupt(self._running)

    async def close(self) -> None:
        """Wait for the work in progress, then close the file. The next `run` opens it again."""
        executor, submitted = self._executor, self._submitted
        if executor is None:
            return
        await asyncio.get_running_loop().run_in_executor(executor, self._close)
        # Work that came meanwhile waits in this thread, behind the closing, and opens the file again.
        if self._executor is executor and self._submitted == submitted:
            self._executor = None
            executor.shutdown(wait=False)

    def _work(
        self, work: Callable[[sqlite3.Connection], T], job: Job, began: Callable[[], object] | None
    ) -> T:
        if began is not None:
            began()
        if job.is_stopped:
            raise Overdue("stopped before it began")
        if self._connection is None:
            self._connection = self._open()
        with self._guard:
            if job.is_stopped:
                raise Overdue("stopped before it began")
            self._running = job
        try:
            return work(self._connection)
        except BaseException as exc:
            _let_go(exc)
            if isinstance(exc, sqlite3.OperationalError) and job.is_stopped:
                raise Overdue("interrupted") from exc
            raise
        finally:
            with self._guard:
                self._running = None
            if self._connection.in_transaction:
                self._connection.rollback()

    async def _watch(self, job: Job, timeout_s: float) -> None:
        # An interrupt between two statements stops neither, so it is repeated until the job is over.
        await job.started.wait()
        await asyncio.sleep(timeout_s)
        while True:
            self._interrupt(job)
            await asyncio.sleep(INTERRUPT_AGAIN_S)

    def _interrupt(self, job: Job) -> None:
        with self._guard:
            job.is_stopped = True
            if self._running is job and self._connection is not None:
                self._connection.interrupt()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # No statement cache: an authorizer is asked when a statement is prepared, and must be asked every time.
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, cached_statements=0
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA busy_timeout=10000").fetchall()
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Lanes:
    """Lanes by path, opened on demand, closed after `idle_s` without use."""

    def __init__(self, *, idle_s: float = 60.0, stop_s: float = 2.0) -> None:
        self._lanes: dict[Path, Lane] = {}
        self._idle_s = idle_s
        self._stop_s = stop_s
        self._sweeper: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def get(self, path: Path, prepare: Prepare, *, max_waiting: int = 10_000) -> Lane:
        lane = self._lanes.get(path)
        if lane is None:
            lane = self._lanes[path] = Lane(path, prepare, max_waiting=max_waiting)
        return lane

    async def forget(self, path: Path) -> None:
        """Close the lane of a file that is about to be deleted; work that comes later meets Retired."""
        lane = self._lanes.pop(path, None)
        if lane is not None:
            lane.is_retired = True
            await lane.close()

    def start(self) -> None:
        """Begin to close what is idle."""
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Interrupt what still runs and close everything; nobody waits for an answer any more.

        Some functions of SQLite cannot be interrupted; what runs one after `stop_s` is left to end with its thread.
        """
        if self._sweeper is not None:
            self._sweeper.cancel()
        for lane in self._lanes.values():
            self._close(lane)
        deadline = time.monotonic() + self._stop_s
        while self._closing and time.monotonic() < deadline:
            for lane in self._lanes.values():
                lane.interrupt()
            await asyncio.wait(self._closing, timeout=INTERRUPT_AGAIN_S)
        if self._closing:
            log.warning("lanes.stop.left", extra={"count": len(self._closing)})

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._idle_s / 2)
            for lane in self._lanes.values():
                if lane.is_open and lane.waiting == 0 and time.monotonic() - lane.used_at > self._idle_s:
                    self._close(lane)

    def _close(self, lane: Lane) -> None:
        """Begin to close it. Where abandoned work still runs that takes its time, and the others do not wait for it."""
        task = asyncio.create_task(lane.close())
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("lane.close.failed", exc_info=error)


def is_any_busy(grace_s: float = 1.0) -> bool:
    """Whether a lane's thread does not end, so the process would wait for it. Only after everything was stopped."""
    deadline = time.monotonic() + grace_s
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return any(thread.is_alive() for thread in threads)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing: BEGIN IMMEDIATE, then COMMIT, or ROLLBACK when the block raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def migrate(connection: sqlite3.Connection, migrations: tuple[str, ...]) -> None:
    """Bring a file of ours up to date: `PRAGMA user_version` counts the migrations it has seen."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise sqlite3.DatabaseError("the file was written by a newer edge")
    for number, script in enumerate(migrations[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version={number};\nCOMMIT;")


def _let_go(error: BaseException | None) -> None:
    """Empty the frames an error has been through, its causes' too.

    They hold cursors, and an error goes to the event loop: freed there, a cursor would hold up everybody until the statement that
    then runs in this lane is over.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _ignore_outcome(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.debug("lane.work_abandoned", extra={"error": repr(error)})
