"""Looks after running processes: ends what is stuck, renews what grew, lets go what nobody uses, keeps logs short.

Stuck is a process that computes without anything moving in or out of it: JavaScript runs in its one main thread, so while a loop
runs no byte moves. The CPU time it used since the last movement is held against the limit of the strictest request inside, not
wall-clock time, so a crowded machine kills nobody early. workerd itself enforces no CPU limit. Logs are kept short in a thread of
the watchdog's own, which it does not wait for: slow files or a crowded thread pool must not hide a stuck process.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge.runtime.process import Process
from edge.runtime.worker import Worker

log = logging.getLogger(__name__)
LOOK_S = 0.1
ROUND = 10  # every how many looks the slow checks come
PAUSES = 3  # looks in a row at which a thread must sleep to count as resting: collecting garbage it sleeps for a moment
CONSOLE_LIMIT = 8 * 1024 * 1024
MB = 1024 * 1024


@dataclass(frozen=True)
class Bounds:
    """Lengths of time in seconds, sizes in MB of a process's own memory."""

    idle_s: float
    recycle_mb: int
    kill_mb: int
    max_running: int


@dataclass
class Mark:
    """A process at its last movement."""

    progress: int
    cpu_ms: int
    pauses: int = 0


class Watchdog:
    def __init__(
        self, bounds: Bounds, workers: Callable[[], Iterable[Worker]], clock: Callable[[], float]
    ) -> None:
        self._bounds = bounds
        self._workers = workers
        self._clock = clock
        self._marks: dict[int, Mark] = {}
        self._shortening: asyncio.Future[None] | None = None

    async def run(self) -> None:
        look = 0
        with _own_thread() as thread:
            while True:
                await asyncio.sleep(LOOK_S)
                look += 1
                try:
                    await self._look(is_round=look % ROUND == 0)
                    if look % ROUND == 0:
                        self._shorten_all(thread)
                except Exception:
                    log.exception("runtime.watchdog.surprise")

    async def _look(self, *, is_round: bool) -> None:
        seen: set[int] = set()
        for worker in list(self._workers()):
            for process in worker.processes:
                seen.add(process.number)
                if not process.is_running or (process.quiet.is_set() and not is_round):
                    continue
                with suppress(OSError):
                    if self.is_stuck(process):
                        log.warning(
                            "runtime.process.stuck", extra={"slot": process.script.slot, "pid": process.pid}
                        )
                        await process.kill("cpu")
                    elif is_round:
                        await self._check_size(worker, process)
            if is_round:
                self._check_idle(worker)
        if is_round:
            self._check_crowd()
            self._marks = {number: mark for number, mark in self._marks.items() if number in seen}

    def is_stuck(self, process: Process) -> bool:
        """Whether it computed for longer than it may since anything last moved. Raises OSError when it is gone."""
        cpu_ms, is_computing = process.cpu()
        mark = self._marks.get(process.number)
        if mark is None or mark.progress != process.progress:
            self._marks[process.number] = Mark(process.progress, cpu_ms)
            return False
        mark.pauses = 0 if is_computing else mark.pauses + 1
        if mark.pauses >= PAUSES:
            mark.cpu_ms = cpu_ms
        allowed_ms = min((flight.cpu_ms for flight in process.flights), default=process.script.version.cpu_ms)
        return is_computing and cpu_ms - mark.cpu_ms > allowed_ms

    async def _check_size(self, worker: Worker, process: Process) -> None:
        size_mb = process.memory() // MB
        if size_mb > self._bounds.kill_mb:
            log.warning("runtime.process.too_big", extra={"slot": process.script.slot, "mb": size_mb})
            await process.kill("memory")
        elif size_mb > self._bounds.recycle_mb and process is worker.current:
            log.info("runtime.process.recycled", extra={"slot": process.script.slot, "mb": size_mb})
            worker.recycle()

    def _shorten_all(self, thread: Executor) -> None:
        if self._shortening is not None and not self._shortening.done():
            return
        consoles = [worker.place.console for worker in self._workers()]
        self._shortening = asyncio.get_running_loop().run_in_executor(thread, _shorten_each, consoles)

    def _check_idle(self, worker: Worker) -> None:
        process = worker.current
        if process is None or not process.quiet.is_set():
            return
        if self._clock() - max(worker.used_at, process.used_at) > self._bounds.idle_s:
            worker.rest()

    def _check_crowd(self) -> None:
        """Beyond the number that may run at once, those unused for longest rest first."""
        running = [worker for worker in self._workers() if worker.current is not None]
        idle = [worker for worker in running if worker.current and worker.current.quiet.is_set()]
        idle.sort(key=lambda worker: worker.used_at)
        for worker in idle[: max(0, len(running) - self._bounds.max_running)]:
            worker.rest()


@contextmanager
def _own_thread() -> Iterator[Executor]:
    thread = ThreadPoolExecutor(1, thread_name_prefix="watchdog")
    try:
        yield thread
    finally:
        thread.shutdown(wait=False)


def _shorten_each(consoles: Iterable[Path]) -> None:
    for console in consoles:
        try:
            shorten(console)
        except OSError:
            log.exception("runtime.console.not_shortened")


def shorten(console: Path) -> None:
    """Keep the log of a process that goes on writing to it short: its last lines move aside, and the file begins again."""
    with suppress(FileNotFoundError):
        size = console.stat().st_size
        if size > CONSOLE_LIMIT:
            with console.open("rb") as log, console.with_suffix(".log.1").open("wb") as aside:
                log.seek(size - CONSOLE_LIMIT)
                aside.write(log.read(CONSOLE_LIMIT))
            os.truncate(console, 0)
