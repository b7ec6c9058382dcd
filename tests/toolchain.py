"""Node, npm and further Python environments for tests: Node is the one the stack installs workerd with, since a bare machine has none."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from smcp.stack.install import node_programs, npm_ci

NODE, NPM = node_programs()
NODE_PACKAGES = Path(__file__).parent / "node"
PYTHONS = Path(__file__).parent / "python"
UV = Path(sys.executable).with_name("uv")
RUN_TIMEOUT_S = 60
INSTALL_TIMEOUT_S = 300


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


def ensure_python(name: str) -> Path:
    """The interpreter of an environment that holds exactly tests/python/<name>.txt, by hash; made on first use."""
    pins = PYTHONS / f"{name}.txt"
    folder = PYTHONS / ".venv" / name
    python, stamp = folder / "bin/python", folder / ".installed-from"
    with pins.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = lock.read()
        if not stamp.exists() or stamp.read_text() != wanted:
            _uv("venv", "--clear", "--python", sys.executable, str(folder))
            install = ("pip", "install", "--require-hashes", "--only-binary=:all:", "--python", str(python))
            _uv(*install, "-r", str(pins))
            stamp.write_text(wanted)
    return python


def _uv(*arguments: str) -> None:
    done = subprocess.run((str(UV), *arguments), capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    assert done.returncode == 0, f"uv {arguments[0]} ended with {done.returncode}:\n{done.stderr}"


def npm_run(script: str, *arguments: str, folder: Path) -> None:
    """Runs a script of the folder's package.json to its end. Raises AssertionError with what it printed."""
    command = (str(NODE), str(NPM), "run", script, "--", *arguments)
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=RUN_TIMEOUT_S
    )
    assert done.returncode == 0, (
        f"npm run {script} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    )


def wrangler_bundle(folder: str) -> bytes:
    """The one module that the real wrangler makes of the Worker in tests/node/<folder>. Raises AssertionError with what it printed."""
    ensure_packages(NODE_PACKAGES)
    wrangler = NODE_PACKAGES / "node_modules/wrangler/bin/wrangler.js"
    with tempfile.TemporaryDirectory() as out:
        command = (
            str(NODE),
            str(wrangler),
            "deploy",
            "--dry-run",
            "--outdir",
            out,
            "--config",
            "wrangler.json",
        )
        quiet = environment(CI="1", HOME=out, WRANGLER_SEND_METRICS="false", WRANGLER_HIDE_BANNER="true")
        done = subprocess.run(
            command,
            cwd=NODE_PACKAGES / folder,
            env=quiet,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
        )
        assert done.returncode == 0, f"wrangler ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        (module,) = Path(out).glob("*.js")
        return module.read_bytes()
