"""The whole platform, started the way its users start it, and its doors."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from smcp.stack.config import PORTS
from tests.clients import ClientName, Step, Transcript, talk
from tests.parts import ROOT, free_ports
from tests.waiting import wait_for

START_TIMEOUT_S = 180.0
DEPLOY_TIMEOUT_S = 60.0


def converse(client: ClientName, url: str, token: str | None, steps: Sequence[Step]) -> Transcript:
    """`talk`, for journeys, which do one thing after the other. In a thread: a browser's event loop may run in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(talk(client, url, token, steps))).result()


class Platform:
    """`manage.py up` with its own data and ports. `facts` is what it wrote to stack.json."""

    def __init__(self, var: Path) -> None:
        self.var = var
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.log_path = var.with_name(var.name + ".log")
        self.facts: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SMCP_", "CLOUDFLARE_"))}
        kept = {k: v for k, v in kept.items() if k not in {"DATABASE_URL", "REDIS_URL"}}
        ports = {PORTS[name][0]: str(port) for name, port in self.ports.items()}
        summary = self.var / "stack.json"
        summary.unlink(missing_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=ROOT,
                env={
                    **kept,
                    **ports,
                    "SMCP_VAR_DIR": str(self.var),
                    "SMCP_GATEWAY_REMOTE_ALLOW": "127.0.0.1",  # servers elsewhere are on this machine too
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

        def is_up() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, (
                f"the platform did not start:\n{self.log_path.read_text()[-4000:]}"
            )
            return summary.exists()

        wait_for(is_up, START_TIMEOUT_S, what="the platform to be ready")
        self.facts = json.loads(summary.read_text())

    def stop(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(60)

    def rest(self, key: str) -> Rest:
        return Rest(self.facts["api"], key)

    def account(self, path: str) -> list[dict[str, Any]]:
        """What the account holds, asked of the edge itself."""
        secrets = json.loads((self.var / "secrets.json").read_text())
        answer = httpx.get(
            f"http://127.0.0.1:{self.ports['edge_api']}/client/v4/accounts/{secrets['edge_account_id']}/{path}",
            headers={"authorization": f"Bearer {secrets['edge_token']}"},
            params={"per_page": 1000},
        )
        result = answer.raise_for_status().json()["result"]
        return list(result["buckets"] if isinstance(result, dict) else result)

    def account_names(self) -> set[str]:
        """Names of every script, namespace, bucket and database in the account."""
        scripts = self.account(f"workers/dispatch/namespaces/smcp-{self.facts['installation']}/scripts")
        return {
            *(script["script"]["id"] if "script" in script else script["id"] for script in scripts),
            *(namespace["title"] for namespace in self.account("storage/kv/namespaces")),
            *(bucket["name"] for bucket in self.account("r2/buckets")),
            *(database["name"] for database in self.account("d1/database")),
        }

    def make_tenant(self) -> TenantDoors:
        """A fresh tenant with one key for each kind of door."""
        operator = self.rest(self.facts["operator"]["api_key"])
        slug = f"t{secrets.token_hex(5)}"
        operator.post("/tenants", {"slug": slug, "name": slug})

        def key(*scopes: str) -> str:
            made = operator.post(f"/tenants/{slug}/api-keys", {"name": scopes[0], "scopes": list(scopes)})
            return str(made["key"])

        return TenantDoors(
            platform=self,
            slug=slug,
            rest=self.rest(key("api:read", "api:write", "api:admin")),
            mcp_key=key("mcp:call"),
        )


class Rest:
    """The REST API with one key. Every call asserts the status it expects and returns the JSON body."""

    def __init__(self, api: str, key: str) -> None:
        self._base = f"{api}/api/v1"
        self._headers = {"authorization": f"Bearer {key}"}

    def ask(self, verb: str, path: str, **body: Any) -> httpx.Response:
        """Whatever comes back."""
        return httpx.request(verb, self._base + path, headers=self._headers, timeout=60, **body)

    def get(self, path: str, *, status: int | None = None) -> Any:
        return self._answer(self.ask("GET", path), status)

    def post(self, path: str, body: Any = None, *, status: int | None = None, files: Any = None) -> Any:
        return self._answer(self.ask("POST", path, json=body, files=files), status)

    def patch(self, path: str, body: Any) -> Any:
        return self._answer(self.ask("PATCH", path, json=body), None)

    def delete(self, path: str, *, status: int | None = None) -> Any:
        return self._answer(self.ask("DELETE", path), status)

    @staticmethod
    def _answer(answer: httpx.Response, status: int | None) -> Any:
        expected = answer.is_success if status is None else answer.status_code == status
        assert expected, f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None


@dataclass(frozen=True, kw_only=True)
class TenantDoors:
    """One tenant and what its developers do."""

    platform: Platform
    slug: str
    rest: Rest
    mcp_key: str

    def endpoint(self, server: str, environment: str = "production") -> str:
        suffix = "" if environment == "production" else f"~{environment}"
        return f"{self.platform.facts['gateway']}/{self.slug}/{server}{suffix}/mcp"

    def upload(self, server: str, code: str, *, status: int = 201, **metadata: Any) -> Any:
        """One module `worker.js` with its metadata."""
        described = {"main_module": "worker.js", "compatibility_date": "2026-11-01", **metadata}
        files = {
            "metadata": (None, json.dumps(described), "application/json"),
            "worker.js": ("worker.js", code, "application/javascript+module"),
        }
        return self.rest.post(f"/tenants/{self.slug}/servers/{server}/versions", files=files, status=status)

    def deploy(self, server: str, *versions: tuple[int, float], environment: str = "production") -> Any:
        """Deploys and waits; returns the finished Operation. The default is version 1 for everybody."""
        wanted = [{"version": v, "percentage": p} for v, p in versions or [(1, 100)]]
        path = f"/tenants/{self.slug}/servers/{server}/environments/{environment}/deployments"
        return self.finished(self.rest.post(path, {"versions": wanted}, status=202))

    def finished(self, operation: Any) -> Any:
        path = f"/tenants/{self.slug}/operations/{operation['id']}"

        def settled() -> Any:
            now = self.rest.get(path)
            return now if now["state"] in {"succeeded", "failed"} else None

        return wait_for(settled, DEPLOY_TIMEOUT_S, what=f"operation {operation['id']} to end")

    def serve(self, server: str, code: str, **metadata: Any) -> str:
        """A server of this code, live. Returns its endpoint."""
        self.rest.post(f"/tenants/{self.slug}/servers", {"slug": server, "name": server})
        self.upload(server, code, **metadata)
        operation = self.deploy(server)
        assert operation["state"] == "succeeded", operation
        return self.endpoint(server)

    def serve_starter(self, server: str = "starter") -> str:
        """The catalog's starter, live. Returns its endpoint."""
        self.rest.post(f"/tenants/{self.slug}/servers", {"catalog": "starter", "slug": server})
        operation = self.deploy(server)
        assert operation["state"] == "succeeded", operation
        return self.endpoint(server)
