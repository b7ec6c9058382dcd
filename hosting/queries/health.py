"""Health of an Environment: what we believe now, how it came, and the numbers behind it."""

from __future__ import annotations

from datetime import datetime

from django.db.models import QuerySet

from hosting.models import Environment, Flip, HealthState, Incident, LatencySample


def get_health(*, tenant_id: str, environment_id: str) -> HealthState | None:
    """None: nothing was deployed yet, so nobody looked; or it is retired."""
    beliefs = HealthState.objects.filter(tenant_id=tenant_id, environment_id=environment_id)
    return beliefs.exclude(environment__state=Environment.State.RETIRED).first()


def list_flips(*, tenant_id: str, environment_id: str) -> QuerySet[Flip]:
    return Flip.objects.filter(tenant_id=tenant_id, environment_id=environment_id)


def list_incidents(*, tenant_id: str, environment_id: str) -> QuerySet[Incident]:
    return Incident.objects.filter(tenant_id=tenant_id, environment_id=environment_id)


def list_latencies(*, tenant_id: str, environment_id: str, since: datetime) -> QuerySet[LatencySample]:
    """A row a minute and source, oldest first."""
    return LatencySample.objects.filter(
        tenant_id=tenant_id, environment_id=environment_id, minute__gte=since
    ).order_by("minute", "source")
