"""The runtime as the rest of the edge sees it: scripts by key, their Workers, what is on, and how to begin and end.

After `kill -9` of the edge the kernel kills its children; what is left of them on disk is removed at the next start, and scripts
with pending alarms are started when those are due.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from edge import bindings
from edge.config import ConfigError
from edge.container import Edge
from edge.egress import Egress
from edge.router import Router
from edge.runtime import capnp
from edge.runtime.isolation import CannotRun, Isolation, probe
from edge.runtime.places import ScriptPlace, remove_leftovers
from edge.runtime.process import Launcher, Process
from edge.runtime.watchdog import Bounds, Watchdog
from edge.runtime.worker import Worker
from edge.scripts.model import Script, ScriptKey
from edge.scripts.modules import ModuleFiles
from edge.scripts.store import ScriptStore

log = logging.getLogger(__name__)


class Runtime:
    def __init__(self, edge: Edge) -> None:
        config = edge.config
        self.store = ScriptStore(edge.state)
        self.files = ModuleFiles(config.data / "modules")
        self.newest_date = ""
        self._edge = edge
        self._root = config.data / "scripts"
        self._workers: dict[ScriptKey, Worker] = {}
        self._locks: dict[ScriptKey, asyncio.Lock] = {}
        self._router = Router(config, self.worker)
        self._egress = Egress(config.local_egress, config.name_servers)
        self._isolation = Isolation()
        self._launcher: Launcher
        self._watch: asyncio.Task[None] | None = None
        bounds = Bounds(
            idle_s=config.idle_s,
            recycle_mb=config.recycle_mb,
            kill_mb=config.recycle_mb * 2,
            max_running=config.max_running,
        )
        self._watchdog = Watchdog(bounds, lambda: self._workers.values(), time.monotonic)

    async def start(self) -> None:
        """Raises ConfigError when workerd cannot run here."""
        raise_file_limit()
        await self.store.start()
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.files.ensure_directory()
        exe_fd = os.open(self._edge.config.workerd, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._isolation, self.newest_date = await probe(exe_fd)
        except (CannotRun, TimeoutError) as exc:
            raise ConfigError(str(exc) or "workerd did not answer in time.") from exc
        self._launcher = Launcher(self._isolation, exe_fd, self.files, self._door)
        scripts = await self.store.list_all()
        killed = await asyncio.to_thread(remove_leftovers, self._root, {script.slot for script in scripts})
        if killed:
            log.warning("runtime.orphans.killed", extra={"count": killed})
        await asyncio.to_thread(self.files.sweep, await self.store.all_digests())
        await self._egress.start()
        for script in scripts:
            await self._add(script).schedule_alarm()
        self._watch = asyncio.create_task(self._watchdog.run())

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        await asyncio.gather(*(worker.end(is_gone=False) for worker in self._workers.values()))
        await self._egress.stop()
        os.close(self._launcher.exe_fd)

    @property
    def is_running(self) -> bool:
        return self._watch is not None and not self._watch.done()

    def readiness(self) -> Mapping[str, Any]:
        processes = [process for worker in self._workers.values() for process in worker.processes]
        return {
            "isolation": self._isolation.report(),
            "workerd": self.newest_date,
            "scripts": len(self._workers),
            "processes": len(processes),
        }

    def workers_app(self) -> web.Application:
        return self._router.workers_app()

    def lock(self, key: ScriptKey) -> asyncio.Lock:
        """Changes to one script happen one after the other."""
        return self._locks.setdefault(key, asyncio.Lock())

    def worker(self, key: ScriptKey) -> Worker | None:
        return self._workers.get(key)

    def try_out(self, script: Script) -> Process:
        """A process for code that nobody may reach yet; `start` it. Durable Objects live in memory in it."""
        return Process(self._launcher, script, self._place(script), is_trial=True)

    def serve(self, script: Script, tried: Process) -> None:
        """Let requests go to this script. `tried` runs it already; it goes on serving unless it has Durable Objects to share."""
        worker = self._workers.get(script.key)
        promoted = None if script.classes else tried
        if worker is None:
            worker = self._add(script)
        worker.replace(script, promoted)

    def update(self, script: Script) -> None:
        """Facts about a script changed that its process does not know of."""
        worker = self._workers.get(script.key)
        if worker is not None:
            worker.script = script

    async def remove(self, key: ScriptKey) -> None:
        """End a script and delete its files, Durable Objects included."""
        worker = self._workers.pop(key, None)
        if worker is not None:
            await worker.end(is_gone=True)
            await asyncio.to_thread(worker.place.remove)

    def _add(self, script: Script) -> Worker:
        worker = self._workers[script.key] = Worker(self._launcher, script, self._place(script))
        return worker

    def _place(self, script: Script) -> ScriptPlace:
        return ScriptPlace(self._root, script.slot)

    async def _door(self, request: web.Request, process: Process) -> web.StreamResponse:
        """What a script's process asks of the edge. The header is workerd's; the grants are those of the upload it runs."""
        script = process.script
        kind, _, name = request.headers.get(capnp.RESOURCE_HEADER, "").partition("/")
        grants = frozenset(capnp.resources_of(script))
        match kind:
            case "egress":
                return await self._egress.pass_on(request, script, process.moved)
            case "dispatch" if f"dispatch/{name}" in grants:
                return await self._router.dispatch(request, script.account, name)
            case "kv" | "r2" | "d1":
                return await bindings.handle(request, self._edge, script.account, grants)
            case _:
                return web.Response(status=403, text="This script has no such binding.")


def raise_file_limit() -> None:
    """Each script takes a handful of descriptors of the edge, and each open stream two more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
