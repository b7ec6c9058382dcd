"""One round of probing: claim what is due, probe it, weigh what was seen.

A claim lasts CLAIM_S; a worker that dies in a round leaves its Environments to the next one after that. Due times are spread
over the interval by the Environment's id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from hosting.models import Deployment, DeploymentTarget, Environment, HealthState, Probe, Server
from hosting.monitoring.beliefs import Minute, add_minutes, observe
from hosting.monitoring.prober import Address, Outcome, probe_all
from hosting.monitoring.verdict import QUIET_INTERVAL_S, Evidence
from smcp.common.tenancy import as_system
from tenants.models import Tenant

CLAIM_S: Final = 90
BATCH: Final = 1000


def run_round(*, now: datetime, limit: int = BATCH) -> int:
    """Probes up to `limit` due Environments and returns how many. Runs as the system."""
    watch_new(now=now)
    addresses = claim_due(now=now, limit=limit)
    if addresses:
        outcomes = asyncio.run(probe_all(addresses, key=settings.PROBE_KEY))
        record(outcomes, now=timezone.now())
    return len(addresses)


def watch_new(*, now: datetime) -> None:
    """A HealthState for every active Environment that serves something and has none yet."""
    with as_system():
        unwatched = Environment.objects.filter(
            Exists(Deployment.objects.filter(environment=OuterRef("pk"), is_active=True)),
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


def claim_due(*, now: datetime, limit: int) -> list[Address]:
    """Takes due Environments of active tenants and Servers, so that no other worker probes them in this round."""
    with as_system():
        due = list(
            HealthState.objects.select_for_update(of=("self",), skip_locked=True)
            .filter(
                Q(probe_claimed_until=None) | Q(probe_claimed_until__lt=now),
                Exists(Deployment.objects.filter(environment=OuterRef("environment_id"), is_active=True)),
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
        HealthState.objects.filter(id__in=[row.id for row in due]).update(
            probe_claimed_until=now + timedelta(seconds=CLAIM_S)
        )
        eras = dict(
            DeploymentTarget.objects.filter(
                deployment__is_active=True, deployment__environment_id__in=[row.environment_id for row in due]
            ).values_list("deployment__environment_id", "release__eras")
        )
    return [
        Address(
            tenant=row.tenant_id,
            environment=row.environment_id,
            url=f"{settings.PROBE_URL}/{row.tenant__slug}/{row.environment__server__slug}~{row.environment__slug}/mcp",
            era="modern" if "modern" in eras.get(row.environment_id, []) else "legacy",
        )
        for row in due
    ]


def record(outcomes: Sequence[Outcome], *, now: datetime) -> None:
    """Weighs a round's outcomes, all or nothing. What says nothing of the server only moves its next probe."""
    judged = [o for o in outcomes if o.is_ok is not None]
    with as_system():
        Probe.objects.bulk_create([_probe(o, now) for o in judged], batch_size=500)
        add_minutes([_minute(o, now) for o in judged])
        observe({(o.address.tenant, o.address.environment): [_evidence(o, now)] for o in judged})
        undecided = [o.address.environment for o in outcomes if o.is_ok is None]
        HealthState.objects.filter(environment_id__in=undecided).update(
            probe_claimed_until=None, next_probe_at=now + timedelta(seconds=QUIET_INTERVAL_S)
        )


def _evidence(outcome: Outcome, now: datetime) -> Evidence:
    return Evidence(
        at=now,
        is_ok=bool(outcome.is_ok),
        source="probe",
        latency_ms=outcome.latency_ms if outcome.is_ok else None,
        failure=outcome.failure,
    )


def _probe(outcome: Outcome, now: datetime) -> Probe:
    return Probe(
        tenant_id=outcome.address.tenant,
        environment_id=outcome.address.environment,
        at=now,
        is_ok=bool(outcome.is_ok),
        latency_ms=outcome.latency_ms,
        era=outcome.address.era,
        failure=outcome.failure,
    )


def _minute(outcome: Outcome, now: datetime) -> Minute:
    return Minute(
        tenant=outcome.address.tenant,
        environment=outcome.address.environment,
        minute=now.replace(second=0, microsecond=0),
        source="probe",
        requests=1,
        failures=0 if outcome.is_ok else 1,
        latency_ms_sum=outcome.latency_ms,
        latency_ms_max=outcome.latency_ms,
    )
