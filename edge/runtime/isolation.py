"""Which walls this machine can put around a script's process. Found by trying, once, at start; told by /readyz.

Always on: no new privileges, resource limits, a heap limit, death together with the edge. Where possible: an empty network
namespace, a user of its own per script, and a system-call filter that allows sockets of the Unix family only.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

SANDBOX = Path(__file__).with_name("sandbox.py")
FAILED = 125
FIRST_UID = 1_000_000_000
LIMITS = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": 8192, "RLIMIT_FSIZE": 16 * 2**30}
THREADS_OF_A_USER = 256
PROBE_TIMEOUT_S = 20.0
WALLS = ("network_namespace", "own_user", "seccomp")


class CannotRun(Exception):
    """workerd does not start on this machine; one sentence says why."""


@dataclass(frozen=True)
class Isolation:
    network_namespace: bool = True
    own_user: bool = True
    seccomp: bool = True
    reasons: Mapping[str, str] = field(default_factory=dict)

    def command(self, slot: int, exe_fd: int, argv: list[str]) -> list[str]:
        """What to run so that `argv` becomes workerd inside the walls. Keep `exe_fd`, the open binary, for the child."""
        plan: dict[str, Any] = {**LIMITS, "parent": os.getpid(), "exe_fd": exe_fd}
        if self.own_user:
            plan |= {"uid": self.uid(slot), "RLIMIT_NPROC": THREADS_OF_A_USER}
        plan |= {wall: 1 for wall in ("network_namespace", "seccomp") if getattr(self, wall)}
        told = ",".join(f"{name}={value}" for name, value in plan.items())
        return [sys.executable, "-I", "-S", str(SANDBOX), told, *argv]

    def uid(self, slot: int) -> int | None:
        """The user that belongs to a script, and to nobody else on this machine."""
        return FIRST_UID + slot if self.own_user else None

    def report(self) -> dict[str, Any]:
        walls: dict[str, Any] = {name: getattr(self, name) for name in WALLS}
        walls |= {
            "no_new_privileges": True,
            "resource_limits": True,
            "process_per_script": True,
            "cgroup": False,
        }
        return {**walls, "missing": dict(self.reasons)} if self.reasons else walls


async def probe(exe_fd: int) -> tuple[Isolation, str]:
    """The walls that stand here, and workerd's own date, the newest compatibility date it knows. Raises CannotRun."""
    isolation = Isolation(own_user=os.geteuid() == 0)
    if not isolation.own_user:
        isolation = replace(isolation, reasons={"own_user": "the edge does not run as root"})
    while True:
        process = await asyncio.create_subprocess_exec(
            *isolation.command(0, exe_fd, ["workerd", "--version"]),
            pass_fds=[exe_fd],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            stdout, stderr = await process.communicate()
        message = stderr.decode(errors="replace").strip()
        if process.returncode == 0:
            date = re.search(r"\d{4}-\d{2}-\d{2}", stdout.decode(errors="replace"))
            if date is None:
                raise CannotRun("The workerd binary does not tell its version.")
            return isolation, date.group()
        step, _, reason = message.removeprefix("sandbox: ").partition(": ")
        wall = "own_user" if step == "uid" else step
        if process.returncode != FAILED or wall not in WALLS or not getattr(isolation, wall):
            raise CannotRun(f"workerd does not start: {message or f'exit status {process.returncode}'}")
        isolation = replace(isolation, **{wall: False}, reasons={**isolation.reasons, wall: reason})
