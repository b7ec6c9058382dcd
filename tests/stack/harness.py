"""`python -m smcp.stack` as a person runs it: a real process, its output in a file, told by its environment only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from smcp.stack.config import PORTS
from tests.parts import ROOT, free_ports
from tests.waiting import wait_for

READY = "Ctrl-C stops everything"  # the last thing it says
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0


class StackRun:
    """One `make up` (without the installing) on `var`, on ports of its own that stay the same from start to start."""

    def __init__(self, var: Path) -> None:
        self.var = var
        names = [variable for variable, _ in PORTS.values()]
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        unset = {"DATABASE_URL", "REDIS_URL", "CLOUDFLARE_API_TOKEN", "CLOUDFLARE_ACCOUNT_ID"}
        self.environ = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith("SMCP_") and name not in unset
            },
            **{name: str(port) for name, port in zip(names, self.ports.values(), strict=True)},
            "SMCP_VAR_DIR": str(var),
        }
        self.command: tuple[str, ...] = (sys.executable, "-m", "smcp.stack")
        self.log_path = var.with_name(var.name + ".log")
        self.took_s = 0.0
        self._popen: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, psutil.Process] = {}

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None
        return self._popen

    @property
    def output(self) -> str:
        """What the last start wrote."""
        return self.log_path.read_text()

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.var / "stack.json").read_text()))

    def begin(self, **environ: str) -> StackRun:
        """Starts it and does not wait."""
        with self.log_path.open("wb") as log:
            self._popen = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**self.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def start(self, **environ: str) -> StackRun:
        """Starts it and waits until it says it is ready."""
        if self._popen is not None and self._popen.poll() is None:
            self.end()  # a test before this one failed half-way
        started_at = time.monotonic()
        self.begin(**environ)

        def is_ready() -> bool:
            assert self.popen.poll() is None, self.output[-4000:]
            return READY in self.output

        wait_for(is_ready, START_TIMEOUT_S, what=f"the stack to be ready\n{self.output[-2000:]}")
        self.took_s = time.monotonic() - started_at
        self.processes()
        return self

    def processes(self) -> list[psutil.Process]:
        """Every process below ours that lives now. All that were ever seen are remembered for `leftovers`."""
        alive = psutil.Process(self.popen.pid).children(recursive=True)
        self._seen.update({process.pid: process for process in alive})
        return alive

    def process(self, name: str) -> psutil.Process:
        """A process the supervisor started, by the name it has in the log."""
        entries = json.loads((self.var / "processes.json").read_text())
        return psutil.Process(next(entry["pid"] for entry in entries if entry["name"] == name))

    def supervisor(self) -> psutil.Process:
        """The process between ours and everybody else's."""
        (supervisor,) = psutil.Process(self.popen.pid).children()
        return supervisor

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Sends a signal and returns the exit code."""
        self.processes()
        self.popen.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        return self.popen.wait(STOP_TIMEOUT_S)

    def leftovers(self) -> list[str]:
        """What still runs of everything ever seen, and of everything that names our directory."""
        seen = [
            process
            for process in self._seen.values()
            if process.is_running() and process.status() != "zombie"
        ]
        named = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(str(self.var) in word for word in process.info["cmdline"] or ())
        ]
        return [f"{process.pid} {_command_of(process)}" for process in {*seen, *named}]

    def wait_gone(self, timeout_s: float = 40) -> None:
        """Until nothing is left. Raises AssertionError naming what is."""
        left: list[str] = []

        def is_gone() -> bool:
            left[:] = self.leftovers()
            return not left

        try:
            wait_for(is_gone, timeout_s, what="everything to stop")
        except AssertionError as exc:
            exc.add_note(f"still there: {left}")
            raise

    def last_words(self) -> str:
        """The last line of the output: where the sentence stands."""
        return [line for line in self.output.splitlines() if line.strip()][-1]


def _command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:200]
    except psutil.NoSuchProcess:
        return "(gone)"
