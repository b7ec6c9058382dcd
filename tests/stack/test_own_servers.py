"""`DATABASE_URL` and `REDIS_URL`: the platform on servers that are somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from smcp.stack.postgres import Postgres
from smcp.stack.processes import Child, spawn
from smcp.stack.redis import Redis
from tests.parts import await_ready, free_ports
from tests.stack.harness import StackRun

SECRET = "a-password-of-theirs"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Postgres, Redis]]:
    """A Postgres with an empty database whose owner may create roles, and a Redis."""
    postgres_port, redis_port = free_ports(2)
    postgres = Postgres(
        directory=tmp_path / "postgres", port=postgres_port, password=SECRET, settings={"fsync": "off"}
    )
    redis = Redis(directory=tmp_path / "redis", port=redis_port, password=SECRET)
    postgres.ensure_initialised()
    process = postgres.process()
    children: list[Child] = [spawn(process), spawn(redis.process())]
    postgres.close(process)
    await_ready(children[0], postgres)
    await_ready(children[1], redis)
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE landlord LOGIN CREATEROLE PASSWORD '{SECRET}'")
        admin.execute("CREATE DATABASE platform OWNER landlord")
    yield postgres, redis
    for child in children:
        child.stop()


@pytest.mark.timeout(240)
def test_servers_of_ones_own_are_used_and_none_of_ours_is_started(
    servers: tuple[Postgres, Redis], tmp_path: Path
) -> None:
    postgres, redis = servers
    run = StackRun(tmp_path / "var")
    theirs = {"DATABASE_URL": postgres.url("landlord", SECRET, "platform"), "REDIS_URL": redis.url(3)}
    for _ in range(2):
        run.start(**theirs)
        assert httpx.get(f"{run.summary['api']}/healthz", trust_env=False).status_code == 200
        assert run.end() == 0
        assert run.leftovers() == []
    assert not (run.var / "postgres").exists()
    assert not (run.var / "redis").exists()
    with psycopg.connect(theirs["DATABASE_URL"]) as owner:
        assert owner.execute(
            "SELECT tableowner FROM pg_tables WHERE tablename = 'hosting_server'"
        ).fetchone() == ("landlord",)
    assert SECRET not in run.output


def test_a_database_whose_role_may_do_too_little_is_one_sentence(
    servers: tuple[Postgres, Redis], tmp_path: Path
) -> None:
    postgres, redis = servers
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute("ALTER ROLE landlord NOCREATEROLE")
    run = StackRun(tmp_path / "var")
    url = postgres.url("landlord", SECRET, "platform")
    assert run.begin(DATABASE_URL=url, REDIS_URL=redis.url()).wait() == 1
    assert (
        "The server in DATABASE_URL cannot be prepared: permission denied to create role" in run.last_words()
    )
    assert run.leftovers() == []


def test_a_redis_that_does_not_let_us_in_is_one_sentence(
    servers: tuple[Postgres, Redis], tmp_path: Path
) -> None:
    _, redis = servers
    run = StackRun(tmp_path / "var")
    assert run.begin(REDIS_URL=redis.url().replace(SECRET, "another-password")).wait() == 1
    assert "The server in REDIS_URL does not answer" in run.last_words()
    assert "another-password" not in run.output
    assert run.leftovers() == []
