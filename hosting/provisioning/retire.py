"""RETIRE an Environment or a whole Server: the route goes first, then the code, then the data, and the books are closed. Only forward.

Nothing gives up here: what cannot be deleted now is tried again, ever more slowly, for as long as it takes, because data that
should be gone and is not is worse than an Operation that takes long. The slug is never given again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Final

import redis
from django.conf import settings
from django.db.models import F
from django.utils import timezone

from hosting import routing
from hosting.cloudflare.port import ResourceKind
from hosting.models import (
    Binding,
    Deployment,
    Environment,
    HealthState,
    Incident,
    Operation,
    Release,
    Remote,
    Resource,
    Secret,
    Server,
)
from hosting.provisioning.removal import GONE, remove
from hosting.provisioning.steps import NotYet, Run, Step
from smcp.common import audit


def environments_of(run: Run) -> list[Environment]:
    """The one, or all of the Server's. Call inside a transaction."""
    mine = Environment.objects.filter(tenant_id=run.tenant_id, server_id=run.server_id)
    return list(mine.filter(id=run.environment_id) if run.environment_id else mine)


class WithdrawRoute(Step):
    """From here on the endpoint answers 404."""

    name: ClassVar[str] = "withdraw_route"
    bound: ClassVar[int | None] = None

    def do(self, run: Run) -> None:
        with run.transaction() as operation:
            ids = [environment.id for environment in environments_of(run)]
            if "withdrawn_at" not in run.context:
                served = Deployment.objects.filter(
                    tenant_id=run.tenant_id, environment_id__in=ids, is_active=True
                ).update(is_active=False)
                Environment.objects.filter(tenant_id=run.tenant_id, id__in=ids).exclude(
                    state=Environment.State.RETIRED
                ).update(state=Environment.State.RETIRING, route_version=F("route_version") + 1)
                is_elsewhere = Remote.objects.filter(tenant_id=run.tenant_id, environment_id__in=ids).exists()
                served_any = bool(served) or is_elsewhere
                run.remember(operation, withdrawn_at=timezone.now().isoformat(), served=served_any)
        try:
            routing.publish_environments(tenant_id=run.tenant_id, environment_ids=ids)
        except redis.RedisError as exc:
            raise NotYet(1.0, "waiting for the data plane's Redis") from exc


class DrainRequests(Step):
    """Requests that came in before the route went may still be under way."""

    name: ClassVar[str] = "drain_requests"
    bound: ClassVar[int | None] = None

    def do(self, run: Run) -> None:
        if run.context.get("served"):
            withdrawn_at = datetime.fromisoformat(run.context["withdrawn_at"])
            left_s = settings.DRAIN_S - (timezone.now() - withdrawn_at).total_seconds()
            if left_s > 0:
                raise NotYet(left_s, "letting running requests finish")


class RemoveResources(Step):
    """Everything of one kind that the ledger knows of these Environments."""

    kind: ClassVar[ResourceKind]
    bound: ClassVar[int | None] = None

    def do(self, run: Run) -> None:
        with run.transaction():
            resources = list(
                Resource.objects.filter(
                    tenant_id=run.tenant_id, environment__in=environments_of(run), kind=self.kind
                )
                .exclude(state__in=GONE)
                .order_by("id")
            )
        for resource in resources:
            remove(run, resource)


class RemoveScripts(RemoveResources):
    name: ClassVar[str] = "remove_scripts"
    kind: ClassVar[ResourceKind] = ResourceKind.SCRIPT


class DeleteKvNamespaces(RemoveResources):
    name: ClassVar[str] = "delete_kv_namespaces"
    kind: ClassVar[ResourceKind] = ResourceKind.KV_NAMESPACE


class DeleteD1Databases(RemoveResources):
    name: ClassVar[str] = "delete_d1_databases"
    kind: ClassVar[ResourceKind] = ResourceKind.D1_DATABASE


class DeleteR2Buckets(RemoveResources):
    name: ClassVar[str] = "delete_r2_buckets"
    kind: ClassVar[ResourceKind] = ResourceKind.R2_BUCKET


class CloseBooks(Step):
    """Only rows: Releases, Bindings, secrets, beliefs of health; then the Environments and the Server are retired."""

    name: ClassVar[str] = "close_books"
    bound: ClassVar[int | None] = None

    def do(self, run: Run) -> None:
        now = timezone.now()
        with run.transaction():
            environments = environments_of(run)
            mine = {"tenant_id": run.tenant_id, "environment__in": environments}
            Release.objects.filter(**mine).exclude(state=Release.State.REMOVED).update(
                state=Release.State.REMOVED, removed_at=now
            )
            Binding.objects.filter(**mine).delete()
            Remote.objects.filter(**mine).delete()
            Secret.objects.filter(**mine).delete()
            HealthState.objects.filter(**mine).delete()
            Incident.objects.filter(**mine, ended_at=None).update(ended_at=now)
            Environment.objects.filter(
                tenant_id=run.tenant_id, id__in=[environment.id for environment in environments]
            ).update(state=Environment.State.RETIRED)
            if not run.environment_id:
                Server.objects.filter(tenant_id=run.tenant_id, id=run.server_id).update(
                    state=Server.State.RETIRED
                )
            audit.record(
                tenant_id=run.tenant_id,
                actor=run.requested_by,
                action="environment.retired" if run.environment_id else "server.retired",
                object_kind="environment" if run.environment_id else "server",
                object_id=run.environment_id or run.server_id,
            )


STEPS: Final[Mapping[str, Step]] = {
    step.name: step
    for step in (
        WithdrawRoute(),
        DrainRequests(),
        RemoveScripts(),
        DeleteKvNamespaces(),
        DeleteD1Databases(),
        DeleteR2Buckets(),
        CloseBooks(),
    )
}
KIND: Final = Operation.Kind.RETIRE
