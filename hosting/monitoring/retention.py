"""What history is kept, and for how long. Deletes in batches, so that nothing else waits for long."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from django.db.models import Manager, Q, QuerySet

from hosting.models import LatencySample, Probe, Session
from smcp.common.idempotency import IdempotentRequest
from smcp.common.tenancy import as_system

PROBES_KEPT: Final = timedelta(days=1)
SESSIONS_KEPT: Final = timedelta(days=7)  # after their end
LATENCIES_KEPT: Final = timedelta(days=30)
IDEMPOTENCY_KEPT: Final = timedelta(days=1)
BATCH: Final = 5000


def prune(*, now: datetime) -> int:
    """Removes what is past its time and returns how many rows went."""
    return sum(
        _delete(rows)
        for rows in (
            Probe.objects.filter(at__lt=now - PROBES_KEPT),
            LatencySample.objects.filter(minute__lt=now - LATENCIES_KEPT),
            _sessions_over(now),
            IdempotentRequest.objects.filter(created_at__lt=now - IDEMPOTENCY_KEPT),
        )
    )


def _sessions_over(now: datetime) -> QuerySet[Session]:
    """But not those ended by hand while their ids are still good: they are what an emptied Redis is told."""
    over = Session.objects.filter(ended_at__lt=now - SESSIONS_KEPT).exclude(state=Session.State.OPEN)
    return over.filter(Q(ended_by="") | Q(expires_at__lt=now))


def _delete(rows: QuerySet) -> int:
    gone = 0
    manager: Manager = rows.model._default_manager
    while True:
        with as_system():
            deleted, _ = manager.filter(pk__in=rows.values("pk")[:BATCH]).delete()
        gone += deleted
        if deleted < BATCH:
            return gone
