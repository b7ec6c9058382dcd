"""The REST API as a process of its own, and tenants to call it with. Tests speak HTTP to it and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from django.utils import timezone

from smcp.common.ids import new_id
from smcp.common.tenancy import as_system
from smcp.stack.processes import Child, Process, spawn
from smcp.stack.services import QUIET
from tenants.models import Tenant
from tenants.operations import create_api_key, create_operator_key, create_tenant
from tests.parts import ROOT, Parts
from tests.waiting import wait_for

API = "/api/v1"
START_TIMEOUT_S = 30


class OwnProcess:
    """A process of the platform, with everything it says kept."""

    def __init__(self, name: str, *arguments: str, environ: Mapping[str, str]) -> None:
        self.said: list[str] = []
        self._process = Process(
            name=name, command=(sys.executable, *arguments), environ=dict(environ), directory=Path(ROOT)
        )
        self._child: Child | None = None

    def start(self) -> None:
        self._child = spawn(self._process, lambda _, line: self.said.append(line))

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.exit_code() is None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def stop(self) -> None:
        if self._child:
            self._child.stop()
            self._child = None


class RestDoor(OwnProcess):
    """granian with the REST API, logged in to Postgres as smcp_app."""

    def __init__(self, parts: Parts, port: int, **environ: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        address = ("--host", "127.0.0.1", "--port", str(port), "--no-ws", "--log-level", "warning")
        super().__init__(
            "api",
            *("-m", "granian", "--interface", "asgi", "--workers", "1", *address, "smcp.asgi:application"),
            environ={**parts.environ("app"), "SMCP_DOOR": "api", **environ},
        )

    def start(self, *, healthy: bool = True) -> None:
        """`healthy`: whether it is expected to be."""
        super().start()
        self.http = httpx.Client(base_url=self.url, timeout=40, trust_env=False)
        wait_for(
            lambda: self._health() == (200 if healthy else 503),
            START_TIMEOUT_S,
            what="the REST API to answer",
        )

    def stop(self) -> None:
        self.http.close()
        super().stop()

    def caller(self, key: str | None) -> Caller:
        return Caller(self.http, key)

    def _health(self) -> int:
        assert self.is_running, "\n".join(self.said)
        try:
            return self.http.get("/healthz").status_code
        except httpx.TransportError:
            return 0


class Worker(OwnProcess):
    """Celery, doing what the REST API put down to be done. There is no clock beside it: nothing is swept."""

    def __init__(self, parts: Parts) -> None:
        flags = ("--loglevel", "info", "--concurrency", "2", *QUIET)
        super().__init__(
            "worker",
            *("-m", "celery", "--app", "smcp.celery", "worker", *flags),
            environ=parts.environ("system"),
        )

    def start(self) -> None:
        super().start()
        wait_for(lambda: any(" ready" in line for line in self.said), 60, what="the worker to be ready")


def manage(
    parts: Parts, *arguments: str, typed: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    """`manage.py`, as an operator runs it on the platform's machine."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**parts.environ("system"), **environ},
        input=typed,
        capture_output=True,
        text=True,
        timeout=100,
    )


class Caller:
    """Whoever holds `key`. Paths follow /api/v1. `ok` is for answers that must be successes."""

    def __init__(self, http: httpx.Client, key: str | None) -> None:
        self._http = http
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **kwargs: Any
    ) -> httpx.Response:
        where = path if path.startswith(API) else API + path
        return self._http.request(method, where, headers={**self._headers, **(headers or {})}, **kwargs)

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.request("GET", path, **kwargs)

    def post(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.request("POST", path, **kwargs)

    def ok(self, method: str, path: str, **kwargs: Any) -> Any:
        response = self.request(method, path, **kwargs)
        assert response.status_code < 300, f"{response.status_code}: {response.text[:1000]}"
        return response.json() if response.content else None

    def stream(self, path: str, headers: Mapping[str, str] | None = None) -> Any:
        return self._http.stream("GET", API + path, headers={**self._headers, **(headers or {})})


@dataclass
class TenantAtTheDoor:
    """A tenant with one key of every kind."""

    door: RestDoor = field(repr=False)
    tenant: Tenant
    keys: dict[str, str] = field(repr=False)

    @property
    def id(self) -> str:
        return str(self.tenant.id)

    @property
    def slug(self) -> str:
        return str(self.tenant.slug)

    @property
    def path(self) -> str:
        return f"/tenants/{self.slug}"

    def caller(self, scope: str = "api:admin") -> Caller:
        return self.door.caller(self.keys[scope])


def make_tenant(door: RestDoor, *, name: str = "A tenant") -> TenantAtTheDoor:
    with as_system():
        tenant = create_tenant(actor="system", slug=f"t{new_id()[-12:]}", name=name)
        keys = {
            scope: create_api_key(
                tenant_id=tenant.id, actor="system", name=scope, scopes=[scope], now=timezone.now()
            )[1]
            for scope in ("api:read", "api:write", "api:admin", "mcp:call")
        }
    return TenantAtTheDoor(door=door, tenant=tenant, keys=keys)


def make_operator(door: RestDoor) -> Caller:
    with as_system():
        _, key = create_operator_key(name="an operator")
    return door.caller(key)


def upload_parts(
    metadata: Any, modules: Mapping[str, tuple[str, bytes]], *, field_name: str = "metadata"
) -> list[tuple[str, tuple[str | None, bytes, str]]]:
    """`files=` of an httpx request: Cloudflare's shape. `modules`: name → (content type, bytes)."""
    head = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    return [
        (field_name, (None, head, "application/json")),
        *((name, (name, content, content_type)) for name, (content_type, content) in modules.items()),
    ]
