"""The steps of DEPLOY that make declared Resources: one a kind, alike but for the call."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from hosting.cloudflare.port import Found, ResourceKind
from hosting.models import Resource
from hosting.provisioning.removal import GONE, remove
from hosting.provisioning.steps import Run, Step


class EnsureResources(Step):
    """Makes what is declared and not yet there, one call each; adopts by our own name what an earlier attempt made."""

    kind: ClassVar[ResourceKind]

    def do(self, run: Run) -> None:
        for resource in self._rows(run, Resource.State.PLANNED):
            found = self.ensure(run, resource)
            with run.transaction():
                Resource.objects.filter(
                    tenant_id=run.tenant_id, id=resource.id, state=Resource.State.PLANNED
                ).update(state=Resource.State.LIVE, cloudflare_id=found.id)

    def undo(self, run: Run) -> None:
        for resource in self._rows(run, *(set(Resource.State) - set(GONE))):
            remove(run, resource)

    @abstractmethod
    def ensure(self, run: Run, resource: Resource) -> Found: ...

    def _rows(self, run: Run, *states: str) -> list[Resource]:
        with run.transaction():
            return list(
                Resource.objects.filter(
                    tenant_id=run.tenant_id,
                    environment_id=run.environment_id,
                    made_by_id=run.operation_id,
                    kind=self.kind,
                    state__in=states,
                ).order_by("id")
            )


class EnsureKvNamespaces(EnsureResources):
    name: ClassVar[str] = "ensure_kv_namespaces"
    kind: ClassVar[ResourceKind] = ResourceKind.KV_NAMESPACE

    def ensure(self, run: Run, resource: Resource) -> Found:
        return run.cloudflare(resource.account_id).ensure_kv_namespace(resource.name)


class EnsureR2Buckets(EnsureResources):
    name: ClassVar[str] = "ensure_r2_buckets"
    kind: ClassVar[ResourceKind] = ResourceKind.R2_BUCKET

    def ensure(self, run: Run, resource: Resource) -> Found:
        return run.cloudflare(resource.account_id).ensure_r2_bucket(
            resource.name, location=resource.location or None
        )


class EnsureD1Databases(EnsureResources):
    name: ClassVar[str] = "ensure_d1_databases"
    kind: ClassVar[ResourceKind] = ResourceKind.D1_DATABASE

    def ensure(self, run: Run, resource: Resource) -> Found:
        return run.cloudflare(resource.account_id).ensure_d1_database(
            resource.name, location=resource.location or None
        )
