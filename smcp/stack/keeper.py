"""The outermost process: it outlives the supervisor by a moment and sees to it that nothing else does.

The supervisor runs in a child. Whatever any process below it leaves behind is re-parented to the keeper
(PR_SET_CHILD_SUBREAPER), also what moved to a session of its own, so "everything it started" is simply every descendant.
Supervisor killed: its children get their stop signals from the kernel, the keeper gives them a moment and kills the rest.
Keeper killed: the supervisor gets SIGTERM from the kernel and stops everything in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from smcp.stack.processes import PR_SET_PDEATHSIG

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 8.0
_libc = ctypes.CDLL(None, use_errno=True)


def keep(main: Callable[[], int]) -> int:
    """Runs `main` in a child process and returns its exit code once nothing it started is left. SIGINT, SIGTERM and SIGHUP
    reach `main` as SIGTERM. Call it before starting threads."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    keeper = os.getpid()
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until there is somebody to pass them on to
    supervisor = os.fork()
    if supervisor == 0:
        os.setpgid(0, 0)
        _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        if os.getppid() != keeper:
            os._exit(1)
        code = 1
        try:
            code = main()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def pass_on(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor, signal.SIGTERM)

    for each in signals:
        signal.signal(each, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    status = _wait_for(supervisor)
    was_killed = os.WIFSIGNALED(status)
    end_descendants(grace_s=GRACE_S if was_killed else 0)
    if was_killed:
        name = signal.Signals(os.WTERMSIG(status)).name
        sys.stderr.write(f"The supervisor was ended by {name}; everything it started was stopped.\n")
        return 1
    return os.waitstatus_to_exitcode(status)


def end_descendants(*, grace_s: float) -> None:
    """Waits up to `grace_s` for what is left below this process to end by itself, then kills it."""
    deadline = time.monotonic() + grace_s
    while left := descendants(os.getpid()):
        if time.monotonic() >= deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        _reap()
        time.sleep(0.02)


def descendants(ancestor: int) -> set[int]:
    """The pids of every process below `ancestor`, dead ones that nobody has waited for yet included."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                # "pid (name, which may hold anything) state ppid …"
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    while fresh := {pid for pid, parent in parents.items() if parent == ancestor or parent in found} - found:
        found |= fresh
    return found


def _wait_for(child: int) -> int:
    """The wait status of `child`; orphans that end in the meantime are reaped too."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return status


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
