"""The real parts every room's tests share: Postgres, Redis and the edge, each started once per run when first asked for.

Tests make tenants of their own and leave them; nothing is flushed in between. Django's connection acts as `smcp_app`, so
row-level security holds for tests as it does for requests; `tenancy.as_system()` is there for what the system would do.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import django
import pytest
from django.conf import settings
from playwright.sync_api import Browser, sync_playwright

from smcp.stack.postgres import Postgres
from smcp.stack.redis import Redis
from tests import parts as real_parts
from tests.chromium import find_chromium
from tests.parts import Parts, PlatformEdge

if TYPE_CHECKING:
    from tests.restdoor import OwnProcess, RestDoor

PARTS = real_parts.plan_parts()
# Django reads its settings now; from here on they do not change.
os.environ.update(PARTS.test_environ())
django.setup()  # here, because conftests further down import models
MIGRATE_TIMEOUT_S = 120


class NetworkGuard:
    """Refuses every connection of this process that would leave the machine."""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in {"socket.connect", "socket.sendto"}:
            address = arguments[1]
            if isinstance(address, tuple) and not _is_loopback(str(address[0])):
                raise PermissionError(f"tests stay on this machine; refused: {address[0]}")
        elif event == "socket.getaddrinfo" and arguments[0] and not _is_loopback(_text(arguments[0])):
            raise PermissionError(f"tests stay on this machine; refused: {arguments[0]}")


def _text(host: str | bytes) -> str:
    return host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def pytest_configure(config: pytest.Config) -> None:
    sys.addaudithook(NetworkGuard())
    assert settings.INSTALLED_APPS  # read now, so that pytest-django finds them and sets Django up


def pytest_unconfigure(config: pytest.Config) -> None:
    real_parts.forget_parts(PARTS)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A test that is skipped proves nothing: the run fails and the summary names it."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and (reporter.stats.get("skipped") or reporter.stats.get("xfailed")):
        reporter.write_line("")
        reporter.write_line("tests were skipped, which is not allowed here", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def parts() -> Parts:
    """Ports, secrets and addresses of this run; `parts.environ(role)` starts processes of ours."""
    return PARTS


@pytest.fixture(scope="session")
def postgres_server(parts: Parts) -> Iterator[Postgres]:
    """The server with its roles and an empty database."""
    child = real_parts.start_postgres(parts)
    yield parts.postgres
    child.stop()


@pytest.fixture(scope="session")
def postgres(postgres_server: Postgres, parts: Parts) -> Postgres:
    """The server with the database migrated by its owner."""
    migrate = [sys.executable, "manage.py", "migrate", "--no-input", "--verbosity=0"]
    done = subprocess.run(
        migrate,
        cwd=real_parts.ROOT,
        env=parts.environ("owner"),
        capture_output=True,
        text=True,
        timeout=MIGRATE_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return postgres_server


@pytest.fixture(scope="session")
def redis_server(parts: Parts) -> Iterator[Redis]:
    child = real_parts.start_redis(parts)
    yield parts.redis
    child.stop()


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """An empty Redis database: the one the settings name."""
    import redis

    with redis.Redis.from_url(redis_server.url()) as client:
        client.flushdb()
    return redis_server.url()


@pytest.fixture(scope="session")
def edge(parts: Parts) -> Iterator[PlatformEdge]:
    """The edge the settings name; restart it as you like, leave it running."""
    process = PlatformEdge(parts)
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="session")
def django_db_setup(postgres: Postgres) -> None:
    """pytest-django makes no database of its own: ours is there, migrated, and stays."""


@pytest.fixture
def committed_db(django_db_setup: None, django_db_blocker: pytest.DjangoDbBlocker) -> Iterator[None]:  # type: ignore[name-defined]
    """Database access with real commits, seen by other processes. The connection is closed afterwards."""
    from django.db import connections

    with django_db_blocker.unblock():
        yield
        connections.close_all()


@pytest.fixture(scope="session")
def rest_door(parts: Parts, postgres: Postgres, redis_server: Redis) -> Iterator[RestDoor]:
    """The REST API in a process of its own. `tests/restdoor.py` has tenants to call it with."""
    from tests.restdoor import RestDoor

    door = RestDoor(parts, real_parts.free_port())
    door.start()
    yield door
    door.stop()


@pytest.fixture(scope="module")
def worker(parts: Parts, postgres: Postgres, redis_server: Redis, edge: PlatformEdge) -> Iterator[OwnProcess]:
    """A Celery worker beside the edge, whose account is made ready as an operator does it. It ends with the module: other
    tests start workers of their own, which must not find their work done by this one."""
    from tests.restdoor import Worker, manage

    ready = manage(parts, "ensure_account")
    assert ready.returncode == 0, ready.stdout + ready.stderr
    process = Worker(parts)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def free_port() -> int:
    return real_parts.free_port()


@pytest.fixture
def browser() -> Iterator[Browser]:
    """The machine's Chromium, headless. Mark the test `browser`."""
    program = find_chromium()
    assert program, "no Chromium here: install one; outside CI `make test` leaves the browser tests out then"
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=program, args=sandbox)
        yield chromium
        chromium.close()
