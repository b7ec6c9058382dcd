"""Which Environments are due for a probe, and whose turn it is.

Claimed is only what is probed at once, and a claim lasts longer than any probe: it cannot end while its probe is in flight. A
worker that dies leaves its Environments to others when their claims end.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db.models import Exists, OuterRef, Q

from hosting.models import Deployment, DeploymentTarget, Environment, HealthState, Remote, Server
from hosting.models.health import Health
from hosting.monitoring.prober import PROBE_MAX_S, Address
from smcp.common.tenancy import as_system
from tenants.models import Tenant

CLAIM_S: Final = PROBE_MAX_S + 20  # and what starting it and writing it down may take on a busy machine
BATCH: Final = 1000
_DOUBTFUL: Final = Q(state=Health.UNHEALTHY) | Q(failures_in_a_row__gt=0)


def watch_new(*, now: datetime) -> None:
    """A HealthState for every active Environment that serves something and has none yet."""
    with as_system():
        unwatched = Environment.objects.filter(
            Exists(Deployment.objects.filter(environment=OuterRef("pk"), is_active=True))
            | Exists(Remote.objects.filter(environment=OuterRef("pk"))),
            state=Environment.State.ACTIVE,
            health=None,
        ).values_list("tenant_id", "id")[:BATCH]
        HealthState.objects.bulk_create(
            [
                HealthState(tenant_id=tenant, environment_id=id_, since=now, next_probe_at=now)
                for tenant, id_ in unwatched
            ],
            ignore_conflicts=True,
        )


def claim_due(*, now: datetime, limit: int, is_doubtful: bool) -> list[Address]:
    """Takes due Environments of active tenants and Servers, so that nobody else probes them meanwhile.

    `is_doubtful`: those that did not answer lately, or else only the others.
    """
    until = now + timedelta(seconds=CLAIM_S)
    kind = _DOUBTFUL if is_doubtful else ~_DOUBTFUL
    with as_system():
        due = list(
            HealthState.objects.select_for_update(of=("self",), skip_locked=True)
            .filter(
                kind,
                Q(probe_claimed_until=None) | Q(probe_claimed_until__lt=now),
                Exists(Deployment.objects.filter(environment=OuterRef("environment_id"), is_active=True))
                | Exists(Remote.objects.filter(environment=OuterRef("environment_id"))),
                next_probe_at__lte=now,
                environment__state=Environment.State.ACTIVE,
                environment__server__state=Server.State.ACTIVE,
                tenant__state=Tenant.State.ACTIVE,
            )
            .order_by("next_probe_at")
            .values_list(
                "id",
                "tenant_id",
                "environment_id",
                "tenant__slug",
                "environment__server__slug",
                "environment__slug",
                named=True,
            )[:limit]
        )
        if not due:
            return []
        HealthState.objects.filter(id__in=[row.id for row in due]).update(probe_claimed_until=until)
        ids = [row.environment_id for row in due]
        served = DeploymentTarget.objects.filter(
            deployment__is_active=True, deployment__environment_id__in=ids
        ).values_list("deployment__environment_id", "release__eras")
        elsewhere = Remote.objects.filter(environment_id__in=ids).values_list("environment_id", "eras")
        eras = dict([*served, *elsewhere])
    return [
        Address(
            tenant=row.tenant_id,
            environment=row.environment_id,
            url=f"{settings.PROBE_URL}/{row.tenant__slug}/{row.environment__server__slug}~{row.environment__slug}/mcp",
            era="modern" if "modern" in eras.get(row.environment_id, []) else "legacy",
            claimed_until=until,
            is_doubtful=is_doubtful,
        )
        for row in due
    ]


def release(addresses: Iterable[Address]) -> set[str]:
    """Ends claims, and returns the Environments whose claim was still this one. Call inside `as_system()`.

    Locks the rows in id order, as everybody does who locks more than one of them and waits.
    """
    until = {address.environment: address.claimed_until for address in addresses}
    rows = (
        HealthState.objects.select_for_update()
        .filter(environment_id__in=until)
        .order_by("id")
        .values_list("id", "environment_id", "probe_claimed_until")
    )
    held = {id_: environment for id_, environment, claim in rows if claim == until[environment]}
    HealthState.objects.filter(id__in=held).update(probe_claimed_until=None)
    return set(held.values())
