"""One script's processes: none while nobody asks, one while it serves, and beside it those that finish their streams.

Starting is single-flight. A new upload takes over new requests at once; the old process keeps its open streams and ends with them. Where
the script has Durable Objects two processes must never serve the same ones, so there the old one ends first and fast, its
streams with it. However a process ends, pending alarms are looked up and the script is started again when the next one is due.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from edge.runtime.places import ScriptPlace
from edge.runtime.process import Launcher, Process, StartFailed
from edge.scripts.model import Script

log = logging.getLogger(__name__)
DRAIN_S = 600.0  # how long a replaced process may keep open streams
FINISH_S = 30.0  # how long work after the answer (waitUntil) may take once it is told to stop
OBJECTS_DRAIN_S = 0.25  # the same where Durable Objects wait for their next process
ALARM_AHEAD_S = 0.2
LONGEST_SLEEP_S = 3600.0
SHORT_LIFE_S = 10.0
LONGEST_PATIENCE_S = 60.0


class Gone(Exception):
    """The script was deleted."""


class Worker:
    def __init__(self, launcher: Launcher, script: Script, place: ScriptPlace) -> None:
        self.script = script
        self.place = place
        self.current: Process | None = None
        self.leaving: set[Process] = set()
        self.is_gone = False
        self.used_at = time.monotonic()
        self._launcher = launcher
        self._starting: asyncio.Task[Process] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._deaths = 0  # one soon after the other, not asked for

    @property
    def has_objects(self) -> bool:
        return bool(self.script.classes)

    @property
    def processes(self) -> list[Process]:
        return [*self.leaving, *([self.current] if self.current else [])]

    async def ready(self) -> Process:
        """The process that serves now, started when there is none. Raises StartFailed, Gone."""
        while True:
            if self.is_gone:
                raise Gone(self.script.name)
            self.used_at = time.monotonic()
            process = self.current
            if process is not None and process.is_running:
                return process
            self.ensure_starting()
            assert self._starting is not None
            await asyncio.shield(self._starting)

    def ensure_starting(self) -> None:
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start())
            self._starting.add_done_callback(_ignore_outcome)

    def replace(self, script: Script, tried: Process | None) -> None:
        """Serve `script` from now on. `tried` is a process that already runs it, None where one must be started."""
        old, self.script, self.current = self.current, script, tried
        self.used_at = time.monotonic()
        if tried is not None:
            self._watch(tried)
        if old is not None:
            self._leave(old)
        if tried is None:
            self.ensure_starting()

    def recycle(self) -> None:
        """Put a fresh process in the place of one that grew too big."""
        if self.has_objects:
            self.rest()
            self.ensure_starting()
        elif self._starting is None or self._starting.done():
            self._run(self._exchange())

    def rest(self) -> None:
        """Let the serving process go; the next request starts another."""
        if self.current is not None:
            old, self.current = self.current, None
            self._leave(old)

    async def end(self, *, is_gone: bool) -> None:
        """Kill everything. With `is_gone` nobody gets another process of it."""
        self.is_gone = self.is_gone or is_gone
        self._cancel_alarm()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        processes, self.current = self.processes, None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, *(process.kill() for process in processes), return_exceptions=True)

    async def schedule_alarm(self) -> None:
        """Be running when the next stored alarm of its Durable Objects is due."""
        self._cancel_alarm()
        if self.is_gone or self.current is not None or not self.has_objects:
            return
        due_at = await asyncio.to_thread(self.place.next_alarm_at)
        if due_at is None or self.is_gone or self.current is not None:
            return
        # An alarm that kills its process must not start one after the other.
        patience_s = min(2.0**self._deaths, LONGEST_PATIENCE_S) if self._deaths else 0.0
        delay_s = min(max(patience_s, due_at - time.time() - ALARM_AHEAD_S), LONGEST_SLEEP_S)
        self._alarm = asyncio.get_running_loop().call_later(delay_s, self._alarm_due, due_at)

    # Parts

    async def _start(self) -> Process:
        if self.has_objects and self.leaving:
            await asyncio.gather(*(process.exited.wait() for process in self.leaving))
        script = self.script
        process = Process(self._launcher, script, self.place, is_trial=False)
        await process.start()
        if self.is_gone or script is not self.script:
            # A newer upload came meanwhile; who waits for us asks again.
            await process.kill()
            return process
        self._cancel_alarm()
        self.current = process
        self._watch(process)
        return process

    async def _exchange(self) -> None:
        old = self.current
        self._starting = asyncio.create_task(self._start())
        try:
            await self._starting
        except StartFailed:
            log.warning("runtime.recycle.failed", extra={"slot": self.script.slot})
            return
        if old is not None and old is not self.current:
            self._leave(old)

    def _watch(self, process: Process) -> None:
        self._run(self._after_exit(process))

    async def _after_exit(self, process: Process) -> None:
        await process.exited.wait()
        if process.died_of != "stopped":
            log.warning(
                "runtime.process.died",
                extra={"slot": self.script.slot, "pid": process.pid, "of": process.died_of or "crash"},
            )
            self._deaths = self._deaths + 1 if time.monotonic() - process.started_at < SHORT_LIFE_S else 1
        await process.kill()
        self.leaving.discard(process)
        if self.current is process:
            self.current = None
        if self.is_gone or not (self.has_objects or process.script.classes):
            return
        await asyncio.to_thread(self.place.remove_classes, {item.key for item in self.script.classes})
        await self.schedule_alarm()

    def _leave(self, process: Process) -> None:
        self.leaving.add(process)
        self._run(self._let_go(process))

    async def _let_go(self, process: Process) -> None:
        """It gets no new requests (a workerd told to stop would let them hang); when the old ones are done, it ends."""
        drain_s, finish_s = (OBJECTS_DRAIN_S, 0.0) if process.script.classes else (DRAIN_S, FINISH_S)
        waits = [asyncio.create_task(event.wait()) for event in (process.quiet, process.exited)]
        try:
            await asyncio.wait(waits, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        await process.stop(finish_s)

    def _alarm_due(self, due_at: float) -> None:
        if due_at - time.time() > ALARM_AHEAD_S * 2:
            self._run(self.schedule_alarm())
        elif self.current is None and not self.is_gone:
            self.ensure_starting()

    def _cancel_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("runtime.worker.surprise", exc_info=error, extra={"slot": self.script.slot})


def _ignore_outcome(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
