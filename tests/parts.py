"""The real parts a test run stands on: ports, secrets and addresses, fixed before Django reads its settings.

Nothing is started here; the fixtures in conftest.py start what a test asks for, once per run.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from smcp.stack.databases import Logins, ensure_database, login_url
from smcp.stack.envfile import dispatch_host
from smcp.stack.environ import Places, control_environ
from smcp.stack.postgres import DATABASE, Postgres
from smcp.stack.processes import Child, spawn
from smcp.stack.redis import Redis
from smcp.stack.secrets import Secrets, new_secrets
from tests.edge.harness import EdgeProcess
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
PORTS = range(10_000, 32_768)  # Linux gives outgoing connections those above


def free_port() -> int:
    """A port nobody listens on right now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ones, and none an outgoing connection could take before they are used."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(PORTS)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind((LOOPBACK, port))
            found += [port] if port not in found else []
    return found


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One run's servers and where they will be. `environ(role)` is what a process of ours is started with."""

    var: Path
    secrets: Secrets
    postgres: Postgres
    redis: Redis
    places: Places
    edge_api_port: int
    edge_workers_port: int

    def environ(self, role: str) -> dict[str, str]:
        return control_environ(self.places, self.secrets, role=role)

    def test_environ(self) -> dict[str, str]:
        """For the test process itself: it logs in as smcp_system, which may step down, and acts as smcp_app."""
        logins = self.places.logins
        return {**self.environ("system"), "SMCP_DB_ROLE": "app", "SMCP_APP_DATABASE_URL": logins.system}


def plan_parts() -> Parts:
    """Chooses ports and secrets. The directory goes away with `forget_parts`."""
    var = Path(tempfile.mkdtemp(prefix="smcp-tests-"))
    fresh = new_secrets()
    postgres_port, redis_port, api, console, gateway, edge_api, edge_workers = free_ports(7)
    postgres = Postgres(
        directory=var / "postgres",
        port=postgres_port,
        password=fresh.postgres_password,
        settings={"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"},
    )
    redis = Redis(
        directory=var / "redis",
        port=redis_port,
        password=fresh.redis_password,
        settings={"appendonly": "no", "databases": "64"},
    )
    account = fresh.edge_account_id
    places = Places(
        var=var,
        logins=Logins(
            owner=login_url(postgres.url(), "smcp_owner", fresh.owner_password, DATABASE),
            app=login_url(postgres.url(), "smcp_app", fresh.app_password, DATABASE),
            system=login_url(postgres.url(), "smcp_system", fresh.system_password, DATABASE),
        ),
        redis_url=redis.url(),
        api_url=f"http://{LOOPBACK}:{api}",
        console_url=f"http://{LOOPBACK}:{console}",
        gateway_url=f"http://{LOOPBACK}:{gateway}",
        cloudflare_api_base_url=f"http://{LOOPBACK}:{edge_api}/client/v4",
        cloudflare_account_id=account,
        cloudflare_api_token=fresh.edge_token,
        dispatch_url=f"http://{LOOPBACK}:{edge_workers}",
        dispatch_host=dispatch_host(fresh.installation, account),
    )
    return Parts(
        var=var,
        secrets=fresh,
        postgres=postgres,
        redis=redis,
        places=places,
        edge_api_port=edge_api,
        edge_workers_port=edge_workers,
    )


def forget_parts(parts: Parts) -> None:
    shutil.rmtree(parts.var, ignore_errors=True)


def start_postgres(parts: Parts) -> Child:
    """Initialised, answering, with its roles and its empty database."""
    parts.postgres.ensure_initialised()
    process = parts.postgres.process()
    try:
        child = spawn(process)
    finally:
        parts.postgres.close(process)
    await_ready(child, parts.postgres)
    passwords = {
        "smcp_owner": parts.secrets.owner_password,
        "smcp_app": parts.secrets.app_password,
        "smcp_system": parts.secrets.system_password,
    }
    ensure_database(parts.postgres.url(), database=DATABASE, passwords=passwords)
    return child


def start_redis(parts: Parts) -> Child:
    child = spawn(parts.redis.process())
    await_ready(child, parts.redis)
    return child


def await_ready(child: Child, part: Postgres | Redis) -> None:
    def is_up() -> bool:
        assert child.exit_code() is None, child.why_it_ended()
        return part.is_ready()

    wait_for(is_up, 30, what=f"{child.name} to answer")


class PlatformEdge(EdgeProcess):
    """The edge the control plane's settings point at, with faults on and no limits on rates."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts.var / "edge", "--rate-limit", "0", "--kv-write-interval", "0", "--faults")
        self.api_port, self.workers_port = parts.edge_api_port, parts.edge_workers_port
        self.account_id, self.token = parts.places.cloudflare_account_id, parts.places.cloudflare_api_token
        self.tokens = {self.account_id: self.token}
        self.environ["EDGE_ACCOUNTS"] = f"{self.account_id}={self.token}"

    @property
    def api_url(self) -> str:
        """What CLOUDFLARE_API_BASE_URL says."""
        return f"{self.url}/client/v4"

    def worker_host(self, script: str) -> str:
        """The Host under which an account-level Worker answers on `workers_url`."""
        return f"{script}.{self.account_id[:8]}.workers.localhost"

    def restart(self) -> None:
        """SIGTERM, then up again with the same data on the same ports."""
        assert self.stop() == 0
        self.start()
