"""One workerd process: from a script to a socket that answers, and to its end.

It owns a run directory, the door (the Unix socket through which the script reaches the edge), a pool of connections to the script's
own socket, and the child. `exited` is set however it ends; `died_of` says why, when it was our doing. If the edge is killed the kernel
kills the child, and the next edge removes the directory.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, TypedDict

import msgspec
from aiohttp import ClientError, ClientSession, UnixConnector, web

from edge.runtime import capnp
from edge.runtime.isolation import Isolation
from edge.runtime.places import RunPlace, ScriptPlace, stat_fields
from edge.runtime.relay import SERVER_OPTIONS, client_session
from edge.scripts.model import Script
from edge.scripts.modules import ModuleFiles

log = logging.getLogger(__name__)
TICK_MS = 1000 // os.sysconf("SC_CLK_TCK")
START_TIMEOUT_S = 20.0
# Cloudflare allows one second for the top level of a script; workerd itself takes some of ours.
START_CPU_MS = 2000
LISTENERS = 2
KEEP_ALIVE_S = (
    10.0  # less than workerd's own fifteen seconds, so no request meets a connection it just closed
)
DOOR_BACKLOG = 512
EXPORTS_TIMEOUT_S = 3.0  # a millisecond's work, unless the script's own values keep it
MAX_EXPORTS = 256 * 1024
PAGE = os.sysconf("SC_PAGE_SIZE")
# What a script prints itself stands inside a JSON text, so it cannot begin a line like this.
HEAP_FULL = re.compile(r'^\{"timestamp":"\d+","level":"fatal",.*heap out of memory', re.MULTILINE)
Handler = Literal["fetch", "scheduled", "queue", "email", "tail", "tailStream", "trace", "test"]
DiedOf = Literal["", "cpu", "memory", "stopped"]
DoorHandler = Callable[[web.Request, "Process"], Awaitable[web.StreamResponse]]
# Of its own: in the loop's threads a start would wait for whatever else is slow.
WRITERS = ThreadPoolExecutor(4, thread_name_prefix="start")
_numbers = itertools.count(1)


class StartFailed(Exception):
    """The script did not come up; the text is workerd's own, or ours about a limit. `is_its_fault` tells a script's from the machine's."""

    def __init__(self, message: str, *, is_its_fault: bool) -> None:
        super().__init__(message)
        self.is_its_fault = is_its_fault


class Export(TypedDict):
    """One export of a main module, as `entry.js` lists them."""

    name: Annotated[str, msgspec.Meta(max_length=256, pattern=r"\A[^\x00-\x1f\x7f]*\Z")]
    kind: Annotated[str, msgspec.Meta(max_length=20, pattern=r"\A[a-z_]+\Z")]
    handlers: Annotated[list[Handler], msgspec.Meta(max_length=16)]


_exports = msgspec.json.Decoder(list[Export])


@dataclass(frozen=True)
class Launcher:
    """What every process is started with."""

    isolation: Isolation
    exe_fd: int
    files: ModuleFiles
    door: DoorHandler


class Flight:
    """One request inside the process."""

    __slots__ = ("cpu_ms",)

    def __init__(self, cpu_ms: int) -> None:
        self.cpu_ms = cpu_ms


class Process:
    def __init__(self, launcher: Launcher, script: Script, place: ScriptPlace, *, is_trial: bool) -> None:
        self.number = next(_numbers)
        self.script = script
        self.is_trial = is_trial
        self.place = place
        self.exited = asyncio.Event()
        self.died_of: DiedOf = ""
        self.flights: set[Flight] = set()
        self.progress = (
            0  # grows whenever a byte moves; a process whose number stands still while it computes is stuck
        )
        self.used_at = self.started_at = time.monotonic()
        self.at_door = 0  # requests of the script to the edge in progress
        self.quiet = asyncio.Event()  # set while nobody uses it: nothing inside, nothing of its own outside
        self.quiet.set()
        self._launcher = launcher
        self._run: RunPlace
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._session: ClientSession
        self._door: asyncio.AbstractServer | None = None
        self._door_server: web.Server | None = None

    # Life

    async def start(self) -> None:
        """Returns when the script answers. Raises StartFailed; then nothing is left behind."""
        uid = self._launcher.isolation.uid(self.script.slot)
        self.place.ensure(uid)
        self._run = self.place.new_run(uid)
        try:
            connector = UnixConnector(self._run.address("w"), limit=0, keepalive_timeout=KEEP_ALIVE_S)
            self._session = client_session(connector, may_retry=False)
            await self._open_door()
            await _in_thread(partial(self._write_files, uid))
            await self._spawn()
        except BaseException:
            await self.kill()
            raise
        finally:
            self._run.forget_code()

    async def stop(self, grace_s: float) -> None:
        """Ask it to finish what it has, for at most `grace_s`; returns when it is gone."""
        self.died_of = self.died_of or "stopped"
        self._signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.exited.wait()
        await self.kill()

    async def kill(self, because: DiedOf = "stopped") -> None:
        """End it now; returns when it is gone and its files are."""
        self.died_of = self.died_of or because
        self._signal(signal.SIGKILL)
        if self._child is not None:
            await self.exited.wait()
        await self._clean_up()

    async def exports(self) -> list[Export]:
        """What the script's main module exports. Raises StartFailed."""
        connector = UnixConnector(self._run.address("p"))
        try:
            async with (
                asyncio.timeout(EXPORTS_TIMEOUT_S),
                ClientSession(connector=connector) as session,
                session.get("http://probe/") as answer,
            ):
                if answer.status != 200:
                    raise StartFailed(f"The exports could not be read: {answer.status}.", is_its_fault=True)
                # The list was made beside the script, which may have had its hands on it.
                said = bytearray()
                async for piece in answer.content.iter_any():
                    said += piece
                    if len(said) > MAX_EXPORTS:
                        raise StartFailed("The script exports more than can be listed.", is_its_fault=True)
                return _exports.decode(said)
        except TimeoutError as exc:
            message = f"The exports could not be read within {EXPORTS_TIMEOUT_S:.0f} seconds."
            raise StartFailed(message, is_its_fault=True) from exc
        except (ClientError, msgspec.MsgspecError, RecursionError) as exc:
            raise StartFailed("The exports could not be read.", is_its_fault=True) from exc

    # Use

    @property
    def is_running(self) -> bool:
        return self._child is not None and not self.exited.is_set()

    @property
    def session(self) -> ClientSession:
        """Connections to the script's socket."""
        return self._session

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    def moved(self) -> None:
        self.progress += 1

    @contextmanager
    def flight(self, cpu_ms: int) -> Iterator[Flight]:
        flight = Flight(cpu_ms)
        self.flights.add(flight)
        self._used()
        try:
            yield flight
        finally:
            self.flights.discard(flight)
            self._used()

    def _used(self) -> None:
        self.used_at = time.monotonic()
        if self.flights or self.at_door:
            self.quiet.clear()
        else:
            self.quiet.set()

    def cpu(self) -> tuple[int, bool]:
        """CPU time so far in ms, and whether its main thread is running right now. Raises OSError when it is gone."""
        fields = stat_fields(self.pid or 0)
        return (int(fields[11]) + int(fields[12])) * TICK_MS, fields[0] == "R"

    def memory(self) -> int:
        """Bytes that belong to it alone (resident and not shared with a file). Raises OSError when it is gone."""
        with open(f"/proc/{self.pid}/statm") as file:  # noqa: PTH123 - read for every process, every second
            fields = file.read().split()
        return (int(fields[1]) - int(fields[2])) * PAGE

    # Parts

    async def _open_door(self) -> None:
        loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.bind(self._run.address("e"))
        os.chmod(self._run.address("e"), 0o666)  # noqa: PTH101, S103 - the directory around it is the script's alone

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            self.moved()
            self.at_door += 1
            self._used()
            try:
                assert isinstance(request, web.Request)
                return await self._launcher.door(request, self)
            except (web.HTTPException, ConnectionError):
                raise
            except Exception:
                log.exception("runtime.door.surprise", extra={"slot": self.script.slot})
                return web.Response(status=500, text="The edge could not answer.")
            finally:
                self.at_door -= 1
                self.moved()
                self._used()

        self._door_server = web.Server(
            handle,
            request_factory=lambda message, payload, protocol, writer, task: web.Request(
                message, payload, protocol, writer, task, loop, client_max_size=1024**2
            ),
            access_log=None,
            keepalive_timeout=24 * 3600,
            **SERVER_OPTIONS,
        )
        self._door = await loop.create_unix_server(self._door_server, sock=listener, backlog=DOOR_BACKLOG)

    def _write_files(self, uid: int | None) -> None:
        for number, module in enumerate(self.script.version.modules):
            self._launcher.files.place(module.digest, self._run.path / capnp.module_file(number))
        config = self._run.path / "config.capnp"
        descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:  # noqa: PTH123 - a descriptor
            file.write(capnp.config(self.script, self._run.relative, is_trial=self.is_trial))
        if uid is not None:
            os.chown(config, uid, uid)

    async def _spawn(self) -> None:
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writer, True)
        heard = _Control(reader)
        try:
            with self.place.console.open("ab") as out, (self._run.path / "errors.log").open("ab") as errors:
                config = f"/proc/self/cwd/{self._run.path.name}/config.capnp"
                argv = ["workerd", "serve", config, "config", f"--control-fd={writer}"]
                self._child = subprocess.Popen(  # noqa: ASYNC220 - a vfork, half a millisecond; a thread would end PDEATHSIG early
                    self._launcher.isolation.command(self.script.slot, self._launcher.exe_fd, argv),
                    pass_fds=[self._launcher.exe_fd, writer],
                    cwd=self.place.path,
                    env={},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=errors,
                )
        finally:
            os.close(writer)
        self._pidfd = os.pidfd_open(self._child.pid)
        loop.add_reader(self._pidfd, self._reap)
        self._run.note_pid(self._child.pid)
        loop.add_reader(reader, heard.read)
        try:
            await self._until_listening(heard)
        finally:
            loop.remove_reader(reader)
            os.close(reader)

    async def _until_listening(self, heard: _Control) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while heard.listening < LISTENERS:
            if self.exited.is_set():
                raise self._start_error()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await heard.news.wait()
            heard.news.clear()
            if heard.is_closed and heard.listening < LISTENERS:
                await self.exited.wait()
                continue
            cpu_ms = 0
            with suppress(OSError):
                cpu_ms, _ = self.cpu()
            if cpu_ms > START_CPU_MS:
                raise StartFailed("Script startup exceeded CPU time limit.", is_its_fault=True)
            if time.monotonic() > deadline:
                raise StartFailed("The script did not start in time.", is_its_fault=False)

    def _start_error(self) -> StartFailed:
        if self.died_of == "memory":
            return StartFailed("Script startup exceeded memory limit.", is_its_fault=True)
        errors = self._run.errors()
        message = workerd_message(errors)
        if message:
            return StartFailed(message, is_its_fault=True)
        status = self._child.returncode if self._child else None
        log.error(
            "runtime.start.failed", extra={"slot": self.script.slot, "status": status, "errors": errors[:500]}
        )
        return StartFailed(f"The runtime ended with status {status}.", is_its_fault=False)

    def _reap(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._child is not None:
            self._child.wait()
        if not self.died_of and HEAP_FULL.search(self.place.console_end()):
            self.died_of = "memory"
        self.exited.set()

    def _signal(self, number: int) -> None:
        if self._child is not None and not self.exited.is_set():
            with suppress(ProcessLookupError):
                self._child.send_signal(number)

    async def _clean_up(self) -> None:
        if self._door is not None:
            door, self._door = self._door, None
            door.close()
            if self._door_server is not None:
                await self._door_server.shutdown(0)
        await self._session.close()
        self._run.remove()


class _Control:
    """workerd's control messages, one JSON object per line."""

    def __init__(self, fd: int) -> None:
        self.news = asyncio.Event()
        self.listening = 0
        self.is_closed = False
        self._fd = fd
        self._rest = b""

    def read(self) -> None:
        try:
            data = os.read(self._fd, 4096)
        except BlockingIOError:
            return
        if not data:
            self.is_closed = True
            asyncio.get_running_loop().remove_reader(self._fd)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.listening += sum(b'"listen"' in line for line in lines)
        self.news.set()


async def _in_thread(work: Callable[[], None]) -> None:
    """Do it in a thread. Whoever is cancelled meanwhile waits for its end, so nothing is written where all was cleaned up."""
    writing = asyncio.get_running_loop().run_in_executor(WRITERS, work)
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise


def workerd_message(errors: str) -> str:
    """What workerd said about the script, from its structured log: the uncaught errors, without our names for things."""
    messages = []
    for line in errors.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if (
                isinstance(entry, dict)
                and entry.get("level") == "error"
                and capnp.OURS not in entry["message"]
            ):
                # A complaint about what we added always follows one about the script.
                messages.append(str(entry["message"]).removeprefix("service main: "))
    return "\n".join(messages)[:4000]
