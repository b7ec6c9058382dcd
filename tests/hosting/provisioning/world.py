"""A tenant with a Server on the real edge, and the means to run its Operations and to look at what they left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from django.utils import timezone

from hosting import names
from hosting.cloudflare.client import HttpCloudflare
from hosting.cloudflare.port import ResourceKind
from hosting.models import (
    UNFINISHED,
    Account,
    Deployment,
    Environment,
    Operation,
    Release,
    Resource,
    Server,
    Version,
)
from hosting.operations.deployments import deploy_version, retire_server
from hosting.operations.secrets import put_secret
from hosting.provisioning import engine
from hosting.provisioning.dispatching import calling, dispatcher_of
from smcp.common.blobs import put_blob
from smcp.common.tenancy import as_system, as_tenant
from tests import factories
from tests.parts import PlatformEdge

CODE = (Path(__file__).parent / "server.js").read_bytes()
JAVASCRIPT = "application/javascript+module"
ALL_KINDS: Sequence[Mapping[str, Any]] = (
    {"type": "kv_namespace", "name": "NOTES"},
    {"type": "r2_bucket", "name": "FILES"},
    {"type": "d1", "name": "ROWS"},
)
COUNTER: Sequence[Mapping[str, Any]] = (
    {"type": "durable_object_namespace", "name": "COUNTER", "class_name": "Counter"},
)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """One tenant, one Server, its production Environment, in the account of the edge."""

    edge: PlatformEdge
    account: Account
    server: Server
    environment: Environment

    @property
    def tenant_id(self) -> str:
        return str(self.server.tenant_id)

    # ── What a tenant does ───────────────────────────────────────────────────────────────────────────────────────────

    def version(
        self, code: bytes = CODE, *, bindings: Sequence[Mapping[str, Any]] = ALL_KINDS, **more: Any
    ) -> Version:
        digest = put_blob(self.tenant_id, code)
        module = {"name": "server.js", "content_type": JAVASCRIPT, "digest": digest, "size": len(code)}
        with as_system():
            return factories.make_version(
                self.server,
                bindings=bindings,
                **{
                    "main_module": "server.js",
                    "modules": [module],
                    "compatibility_date": date(2026, 10, 1),
                    **more,
                },
            )

    def variables(self, **variables: str) -> None:
        with as_system():
            Environment.objects.filter(id=self.environment.id).update(variables=variables)

    def secret(self, name: str, value: str) -> None:
        put_secret(
            tenant_id=self.tenant_id,
            actor="system",
            environment_id=self.environment.id,
            name=name,
            value=value,
        )

    def begin_deploy(self, *targets: tuple[Version, int]) -> Operation:
        return deploy_version(
            tenant_id=self.tenant_id,
            actor="system",
            environment_id=self.environment.id,
            targets=[(version.id, Decimal(share)) for version, share in targets],
            now=timezone.now(),
        )

    def deploy(self, *targets: tuple[Version, int]) -> Operation:
        """Deploys and expects success."""
        operation = self.run(self.begin_deploy(*targets))
        assert operation.state == Operation.State.SUCCEEDED, operation.error
        return operation

    def begin_retire(self) -> Operation:
        return retire_server(
            tenant_id=self.tenant_id, actor="system", server_id=self.server.id, now=timezone.now()
        )

    # ── Running ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, operation: Operation) -> Operation:
        """To its end, in this process, without waiting for any due time."""
        while (operation := self.again(operation)).state in UNFINISHED:
            self.one_step(operation)
        return operation

    def one_step(self, operation: Operation) -> None:
        """One step of it (or one attempt at one), now."""
        with as_system():
            # Other tests' Operations must not get this turn, and this one must not wait for its time.
            Operation.objects.filter(id=operation.id).update(due_at=timezone.now())
            tenant = type(self.server.tenant).objects.filter(id=self.tenant_id)
            tenant.update(last_served_at=LONG_AGO)
        assert engine.run_next(owner="test", should_stop=lambda: True)

    def again(self, operation: Operation) -> Operation:
        with as_system():
            return Operation.objects.get(id=operation.id)

    # ── Looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def cloudflare(self) -> HttpCloudflare:
        return HttpCloudflare(
            base_url=self.edge.api_url,
            account_id=self.edge.account_id,
            token=self.edge.token,
            dispatch_namespace=names.dispatch_namespace(),
        )

    def in_account(self) -> set[str]:
        """Names of everything this installation has in the account. Tests of the client leave other things there."""
        with self.cloudflare() as cloudflare:
            lists = (
                cloudflare.list_scripts(),
                cloudflare.list_kv_namespaces(),
                cloudflare.list_r2_buckets(),
                cloudflare.list_d1_databases(),
            )
            return {
                found.name for listed in lists for found in listed if found.name.startswith(names.prefix())
            }

    def in_ledger(self, *, of_all: bool = True) -> set[str]:
        """Names of what the ledger says is live, of all tenants in the account (or only of this one)."""
        with as_system():
            rows = Resource.objects.filter(account=self.account, state=Resource.State.LIVE)
            return set(
                (rows if of_all else rows.filter(tenant_id=self.tenant_id)).values_list("name", flat=True)
            )

    def open_rows(self) -> list[Resource]:
        """Rows of this tenant whose fate is not settled."""
        with as_system():
            return list(
                Resource.objects.filter(
                    tenant_id=self.tenant_id, state__in=[Resource.State.PLANNED, Resource.State.DELETING]
                )
            )

    def serving(self) -> list[Release]:
        with as_system():
            active = Deployment.objects.filter(environment=self.environment, is_active=True)
            return list(
                Release.objects.filter(
                    id__in=active.values("targets__release_id"), tenant_id=self.tenant_id
                ).order_by("number")
            )

    def releases(self) -> list[Release]:
        with as_system():
            return list(Release.objects.filter(environment=self.environment).order_by("number"))

    def steps(self, operation: Operation) -> dict[str, str]:
        with as_system():
            return dict(operation.steps.order_by("position").values_list("name", "state"))

    def is_being_asked(self) -> bool:
        """Whether code that is told to be slow has begun to answer somebody: it notes that in its KV namespace."""
        with as_system():
            notes = Resource.objects.get(tenant_id=self.tenant_id, kind=ResourceKind.KV_NAMESPACE)
        account = f"{self.edge.api_url}/accounts/{self.edge.account_id}"
        url = f"{account}/storage/kv/namespaces/{notes.cloudflare_id}/values/asked"
        return httpx.get(url, headers=self._authorization, trust_env=False).status_code == 200

    def message(self, operation: Operation, step: str) -> str:
        with as_system():
            return str(operation.steps.values_list("message", flat=True).get(name=step))

    def ask(self, script: str, method: str, **params: Any) -> Any:
        """A JSON-RPC call of exactly this script, through the dispatcher; its result."""
        with as_tenant(self.tenant_id):
            dispatcher = dispatcher_of(self.account.id, tenant_id=self.tenant_id)
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        with calling(dispatcher, script, path="/mcp", content=body, timeout_s=60) as answer:
            answer.read()
            return answer.json()["result"]

    def fault(self, operation: str, kind: str, **more: Any) -> str:
        """Tells the edge to fail; until `no_faults`, unless `times` is given."""
        body = {"operation": operation, "kind": kind, "times": None, **more}
        answer = httpx.post(
            f"{self.edge.url}/_edge/faults", json=body, headers=self._authorization, trust_env=False
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def has_fired(self, fault_id: str) -> bool:
        return bool(self._planned(fault_id)["fired"])

    def is_carried_out(self, fault_id: str) -> bool:
        """Whether a request is done at the edge and its `late` answer still on its way."""
        return bool(self._planned(fault_id)["waiting"])

    def _planned(self, fault_id: str) -> dict[str, Any]:
        answer = httpx.get(
            f"{self.edge.url}/_edge/faults", headers=self._authorization, trust_env=False
        ).json()
        return next(fault for fault in answer["faults"] if fault["id"] == fault_id)

    def no_faults(self) -> None:
        httpx.delete(f"{self.edge.url}/_edge/faults", headers=self._authorization, trust_env=False)

    @property
    def _authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.edge.token}"}


def make_world(edge: PlatformEdge, account: Account) -> World:
    with as_system():
        tenant = factories.make_tenant()
        server = factories.make_server(tenant)
        environment = factories.make_environment(server, account, route_version=1)
    return World(edge=edge, account=account, server=server, environment=environment)
