"""A child process: how one is started, watched, and stopped together with everything it started itself.

Every child leads a process group of its own, so Ctrl-C in the terminal reaches only the supervisor, which stops children in
its own order. Every child asks the kernel for a signal in case its parent dies (PR_SET_PDEATHSIG), so a supervisor
killed with SIGKILL leaves nothing running. The kernel ties that request to the thread that forked: start children from the
main thread only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from smcp.stack.errors import CannotInstall, ProcessStopped
from smcp.stack.lines import as_prose, last_words

PR_SET_PDEATHSIG = 1
LINES_KEPT = 40
_libc = ctypes.CDLL(None, use_errno=True)

#: Receives every line a child writes: its name, the line without its end.
LineSink = Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class Process:
    """What to start. `environ` is the whole environment; `uid` is for programs that refuse to run as root."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    directory: Path
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0
    death_signal: signal.Signals | None = (
        None  # when the supervisor is no more; None: the same as `stop_signal`
    )
    is_foundation: bool = False  # others need it until they have stopped
    uid: int | None = None
    gid: int | None = None
    keep_fds: tuple[int, ...] = ()
    stdin: str = field(default="", repr=False)


class Child:
    """A started Process."""

    def __init__(self, process: Process, popen: subprocess.Popen[bytes], sink: LineSink) -> None:
        self.process = process
        self.pid = popen.pid
        self._said: deque[tuple[float, str]] = deque(maxlen=LINES_KEPT)  # (monotonic time, line)
        self._popen = popen
        self._sink = sink
        self._reader = threading.Thread(target=self._read, name=f"log of {process.name}", daemon=True)
        self._reader.start()

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def lines(self) -> list[str]:
        """The last it wrote."""
        return [line for _, line in list(self._said)]

    def exit_code(self) -> int | None:
        """None while it runs; negative: ended by that signal."""
        return self._popen.poll()

    def ask_to_stop(self) -> None:
        if self.exit_code() is None:
            self._popen.send_signal(self.process.stop_signal)

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`."""
        try:
            self._popen.wait(max(timeout_s, 0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill_group(self) -> None:
        """SIGKILL to whatever is left of its process group, itself included."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def stop(self) -> None:
        """Ends it and its group: its stop signal, a bounded wait, then SIGKILL."""
        self.ask_to_stop()
        self.wait(self.process.stop_timeout_s)
        self.finish()

    def finish(self) -> None:
        self.kill_group()
        self._reader.join(timeout=2)

    def why_it_ended(self) -> str:
        """A sentence about an end nobody asked for, with what it said of it."""
        self._reader.join(timeout=1)
        code = self.exit_code()
        how = f"with exit code {code}" if code is None or code >= 0 else f"by {signal.Signals(-code).name}"
        last = last_words(list(self._said), time.monotonic())
        return f"{self.name} was ended {how}" + (f" after saying: {last}" if last else "") + "."

    def last_words(self) -> str:
        """The last line it wrote that says anything."""
        return next((as_prose(line).strip()[:300] for line in reversed(self.lines) if line.strip()), "")

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream:
            for raw in stream:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                self._said.append((time.monotonic(), line))
                self._sink(self.name, line)


def ignore_lines(name: str, line: str) -> None:
    """A LineSink for callers that only look at `Child.lines`."""


def spawn(process: Process, sink: LineSink = ignore_lines) -> Child:
    """Starts `process`. Raises CannotInstall when its program is not there or may not be run."""
    parent, death_signal = os.getpid(), int(process.death_signal or process.stop_signal)

    def die_with_parent() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    try:
        popen = subprocess.Popen(
            process.command,
            env=dict(process.environ),
            cwd=process.directory,
            stdin=subprocess.PIPE if process.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            pass_fds=process.keep_fds,
            user=process.uid,
            group=process.gid,
            extra_groups=None if process.uid is None else (),
            # Only calls prctl: nothing that could wait for a lock another thread held at the fork.
            preexec_fn=die_with_parent,
        )
    except OSError as exc:
        raise CannotInstall(
            f"{process.name} cannot be started: {exc.strerror}: {process.command[0]}."
        ) from exc
    if popen.stdin is not None:
        with contextlib.suppress(BrokenPipeError), popen.stdin as pipe:
            pipe.write(process.stdin.encode())
    return Child(process, popen, sink)


def run(process: Process, *, timeout_s: float, sink: LineSink = ignore_lines) -> list[str]:
    """Runs `process` to its end and returns the last lines it wrote. Raises ProcessStopped unless it exits with 0."""
    child = spawn(process, sink)
    try:
        if not child.wait(timeout_s):
            raise ProcessStopped(f"{process.name} took longer than {timeout_s:.0f} s and was ended.")
    finally:
        child.finish()
    if child.exit_code() != 0:
        raise ProcessStopped(child.why_it_ended())
    return child.lines


def stop_all(children: list[Child]) -> None:
    """Stops children side by side, and after them the ones they stood on."""
    for is_foundation in (False, True):
        group = [child for child in children if child.process.is_foundation is is_foundation]
        for child in group:
            child.ask_to_stop()
        asked_at = time.monotonic()
        for child in group:
            child.wait(asked_at + child.process.stop_timeout_s - time.monotonic())
            child.finish()
