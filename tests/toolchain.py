"""Node and npm for tests: the ones the stack installs workerd with, since a bare machine has neither."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

from smcp.stack.install import node_programs, npm_ci

NODE, NPM = node_programs()
RUN_TIMEOUT_S = 60


def environment(**more: str) -> dict[str, str]:
    """The process environment with this Node first on the PATH, for scripts that npm starts."""
    return {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}", **more}


def ensure_packages(folder: Path) -> None:
    """`npm ci` unless `node_modules` is already what the lock file says. Test processes wait for one another."""
    with (folder / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / "node_modules/.installed-from"
        wanted = lock.read()
        if not stamp.exists() or stamp.read_text() != wanted:
            npm_ci(folder)
            stamp.write_text(wanted)


def npm_run(script: str, *arguments: str, folder: Path) -> None:
    """Runs a script of the folder's package.json to its end. Raises AssertionError with what it printed."""
    command = (str(NODE), str(NPM), "run", script, "--", *arguments)
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=RUN_TIMEOUT_S
    )
    assert done.returncode == 0, (
        f"npm run {script} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    )
