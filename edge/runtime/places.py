"""Where a script's files are, and what a killed edge left there.

    scripts/<slot>/            the script's own, closed to every other user; workerd runs in it
        objects/               its Durable Objects; outlives processes
        console.log            what it prints
        r<random>/             one process: sockets, pid, errors; its code and configuration only while it starts

Sockets are reached by the edge through the open directory (`/proc/self/fd/N/w`), so a long path never exceeds what a Unix socket's
address holds, and a script's user needs no right on any directory above its own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from edge.runtime.capnp import Socketed

NANOSECONDS = 1e9


class ScriptPlace:
    """One script's directory."""

    def __init__(self, root: Path, slot: int) -> None:
        self.path = root / str(slot)
        self.objects = self.path / "objects"
        self.console = self.path / "console.log"

    def ensure(self, uid: int | None) -> None:
        self.objects.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        if self.path.stat().st_uid != (os.geteuid() if uid is None else uid):
            # New, or the edge lost or gained the right to change users since.
            for path in (*self.objects.rglob("*"), self.objects, self.path):
                own(path, uid)

    def new_run(self, uid: int | None) -> RunPlace:
        path = self.path / f"r{secrets.token_hex(4)}"
        path.mkdir(mode=0o700)
        own(path, uid)
        return RunPlace(path)

    def console_end(self, length: int = 16 * 1024) -> str:
        """The last of what the script's process printed."""
        with suppress(OSError), self.console.open("rb") as file:
            file.seek(max(0, self.console.stat().st_size - length))
            return file.read(length).decode(errors="replace")
        return ""

    def next_alarm_at(self) -> float | None:
        """When the earliest alarm of its Durable Objects is due, in seconds since the epoch. Call it while none runs."""
        due = [
            at for path in self.objects.glob("*/metadata.sqlite") if (at := _earliest_alarm(path)) is not None
        ]
        return min(due) / NANOSECONDS if due else None

    def remove_classes(self, kept: set[str]) -> None:
        """Remove the data of classes that no longer exist; `kept` are the storage keys that do."""
        with suppress(FileNotFoundError):
            for path in self.objects.iterdir():
                if path.name not in kept:
                    shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class RunPlace:
    """One process's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # workerd opens files from the root of the file system, where its user may not look; this way it may.
        self.relative = Socketed(run=path.name, objects="/proc/self/cwd/objects")

    def address(self, socket: str) -> str:
        return f"/proc/self/fd/{self._fd}/{socket}"

    def note_pid(self, pid: int) -> None:
        (self.path / "pid").write_text(f"{pid} {started_ticks(pid)}")

    def forget_code(self) -> None:
        """The process holds its code and configuration, secrets among it, in memory: nothing of it stays on disk."""
        for path in self.path.glob("m*"):
            path.unlink(missing_ok=True)
        (self.path / "config.capnp").unlink(missing_ok=True)

    def errors(self, limit: int = 64 * 1024) -> str:
        with suppress(OSError), (self.path / "errors.log").open("rb") as file:
            return file.read(limit).decode(errors="replace")
        return ""

    def remove(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        shutil.rmtree(self.path, ignore_errors=True)


def _earliest_alarm(path: Path) -> int | None:
    # Of a copy: reading the file itself would leave SQLite's side files there, owned by the edge's user.
    with tempfile.TemporaryDirectory() as scratch, suppress(sqlite3.Error, OSError):
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{suffix}", f"{scratch}/alarms{suffix}")
        with closing(sqlite3.connect(f"{scratch}/alarms")) as connection:
            (due,) = connection.execute("SELECT min(scheduled_time) FROM _cf_ALARM").fetchone()
            return int(due) if due is not None else None
    return None


def own(path: Path, uid: int | None) -> None:
    if uid is not None:
        os.lchown(path, uid, uid)
    elif os.geteuid() == 0:
        os.lchown(path, 0, 0)


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the third field on (the second may hold spaces). Raises OSError when the process is gone."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def started_ticks(pid: int) -> str:
    return stat_fields(pid)[19]


def remove_leftovers(root: Path, slots: set[int]) -> int:
    """Kill processes a dead edge left, and remove their run directories and scripts nobody knows; how many were killed.

    A pid counts only with the start time noted beside it, so a number used again is never hit.
    """
    killed = 0
    if not root.is_dir():
        return 0
    for place in root.iterdir():
        for run in place.glob("r*"):
            killed += _kill_noted(run / "pid")
            shutil.rmtree(run, ignore_errors=True)
        if not place.name.isdigit() or int(place.name) not in slots:
            shutil.rmtree(place, ignore_errors=True)
    return killed


def _kill_noted(note: Path) -> int:
    with suppress(OSError, ValueError):
        pid, started = note.read_text().split()
        if started_ticks(int(pid)) == started:
            os.kill(int(pid), signal.SIGKILL)
            return 1
    return 0
