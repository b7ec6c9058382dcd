"""`python -m hosting.dataplane`: one gateway process, told by its environment (settings.py). Exits 0 after a signal."""

from __future__ import annotations

import resource
import sys

import uvloop

from hosting.dataplane.app import App
from hosting.dataplane.settings import Settings, SettingsError, read_settings
from hosting.dataplane.telemetry.logs import configure_logs


async def _run(settings: Settings) -> None:
    await App(settings).run()


def _raise_file_limit() -> None:
    """Every stream is two sockets; the usual soft limit of 1,024 is for programs that poll with select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    """0 after a signal, 2 for a wrong environment, 1 when a port is taken or something unforeseen ends it."""
    try:
        settings = read_settings()
    except SettingsError as exc:
        sys.stderr.write(f"gateway: {exc}\n")
        return 2
    configure_logs(settings.log_level)
    _raise_file_limit()
    try:
        uvloop.run(_run(settings))
    except OSError as exc:
        sys.stderr.write(f"gateway: cannot listen: {exc.strerror or exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
