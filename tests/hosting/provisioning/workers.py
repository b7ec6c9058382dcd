"""Real Celery workers of the test's own: started, killed, stopped and continued as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smcp.stack.services import QUIET
from tests.parts import ROOT, Parts
from tests.waiting import wait_for

LEASE_S = 4
TIMEOUT_S = 2
StartWorker = Callable[..., "Worker"]


class Worker:
    """`celery worker` with beat inside, in a process group of its own. Short leases, so that recovering takes seconds."""

    def __init__(self, parts: Parts, directory: Path, *, concurrency: int = 1, **environ: Any) -> None:
        self.log_path = directory / f"worker-{len(list(directory.glob('worker-*.log')))}.log"
        command = [
            *(sys.executable, "-m", "celery", "--app", "smcp.celery", "worker"),
            *(
                "--concurrency",
                str(concurrency),
                "--loglevel",
                "info",
                *QUIET,
            ),
            *(
                "--beat",
                "--schedule",
                str(self.log_path.with_suffix(".beat")),
                "--hostname",
                self.log_path.stem,
            ),
        ]
        own = {
            "SMCP_LEASE_S": str(LEASE_S),
            "SMCP_CLOUDFLARE_TIMEOUT_S": str(TIMEOUT_S),
            "SMCP_DRAIN_S": "0",
            **{name: str(value) for name, value in environ.items()},
        }
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**parts.environ("system"), **own},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_ready(self) -> None:
        wait_for(lambda: " ready" in self.log or self.process.poll() is not None, 60, what="the worker")
        assert self.process.poll() is None, self.log

    def signal(self, number: signal.Signals) -> None:
        """To the whole group: the main process and the ones that run tasks."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> int:
        """SIGTERM to the main process, as a supervisor does."""
        self.process.terminate()
        return self.process.wait(40)
