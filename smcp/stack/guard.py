"""What must hold before anything starts, and while it runs: one stack per `var/`, free ports, room on the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smcp.stack.config import DOORS, LOOPBACK, PORTS, Config
from smcp.stack.errors import AlreadyRunning, DiskFull, NotAllowed, PortInUse
from smcp.stack.processes import Child

MB = 1024 * 1024
FIRST_START_BYTES = 256 * MB  # an empty Postgres with its log takes 60 MB of it
LOW_DISK_BYTES = 24 * MB
STALE_TIMEOUT_S = 5.0


@contextmanager
def only_one(var: Path) -> Iterator[None]:
    """Holds `var/stack.lock`. The kernel lets go of it when we die. Raises AlreadyRunning, NotAllowed, DiskFull."""
    try:
        var.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (var / "stack.lock").open("a")
    except OSError as exc:
        if exc.errno == errno.ENOSPC:
            raise DiskFull(f"The disk that holds {var} is full: free some space and start again.") from exc
        raise NotAllowed(
            f"{var} cannot be written to ({exc.strerror}): change its owner or set SMCP_VAR_DIR."
        ) from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise AlreadyRunning(
                f"Another `make up` is running with {var}: stop it, or set SMCP_VAR_DIR."
            ) from exc
        yield


def check_ports(config: Config) -> None:
    """Raises PortInUse for the first port of ours somebody else listens on."""
    needed = [name for name in PORTS if not _is_elsewhere(name, config)]
    for name in needed:
        host, port = config.bind if name in DOORS else LOOPBACK, config.ports[name]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as servers do: TIME_WAIT is no obstacle
            try:
                probe.bind((host, port))
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:
                    raise PortInUse(
                        f"Port {port} is in use, and {_title(name)} needs it: stop what listens there, "
                        f"or set {PORTS[name][0]} to another port."
                    ) from exc
                raise NotAllowed(f"{_title(name)} cannot listen on {host}:{port}: {exc.strerror}.") from exc


def check_disk(var: Path, *, needed_bytes: int) -> None:
    """Raises DiskFull when there is less room than that where `var` is."""
    free = shutil.disk_usage(var).free
    if free < needed_bytes:
        raise DiskFull(
            f"The disk that holds {var} is full: {free // MB} MB are free and {needed_bytes // MB} MB are needed."
        )


def remember(children: Iterable[Child], var: Path) -> None:
    """Writes down who was started, for a later start that finds them still there."""
    entries = [
        {"name": child.name, "pid": child.pid, "started": _start_time(child.pid)} for child in children
    ]
    fresh = var / "processes.new"
    fresh.write_text(json.dumps(entries, indent=2))
    fresh.replace(var / "processes.json")


def end_stale(var: Path) -> list[str]:
    """Ends what an earlier stack of this `var` left running and returns the names. A pid that was given to another
    program since is told apart by its start time. Raises AlreadyRunning when one cannot be ended."""
    try:
        entries = json.loads((var / "processes.json").read_text())
    except (OSError, ValueError):
        return []
    stale = [entry for entry in entries if entry["started"] and _start_time(entry["pid"]) == entry["started"]]
    for entry in stale:
        _signal_group(entry["pid"], signal.SIGTERM)
    deadline = time.monotonic() + STALE_TIMEOUT_S
    for entry in stale:
        while _start_time(entry["pid"]) == entry["started"]:
            if time.monotonic() > deadline + 2:
                raise AlreadyRunning(
                    f"{entry['name']} of an earlier start still runs (pid {entry['pid']}): end it."
                )
            if time.monotonic() > deadline:
                _signal_group(entry["pid"], signal.SIGKILL)
            time.sleep(0.05)
    return [str(entry["name"]) for entry in stale]


def _is_elsewhere(name: str, config: Config) -> bool:
    """Whether a part is somebody else's, so that we open no port for it."""
    return (
        (name == "postgres" and not config.has_own_postgres)
        or (name == "redis" and not config.has_own_redis)
        or (name.startswith("edge") and not config.has_edge)
    )


def _title(name: str) -> str:
    return "the " + name.replace("_", " ") if name not in {"postgres", "redis"} else name.capitalize()


def _start_time(pid: int) -> str:
    """When the kernel started this pid, in its own unit; empty when there is none, or only its corpse."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
