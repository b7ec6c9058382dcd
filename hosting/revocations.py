"""Sessions that were ended here, as the data plane hears of them. Each is one fact; where all of an Environment's were ended, its Route
says so for good and the facts only last until one node has told each server.
"""

from __future__ import annotations

from typing import Final

from django.db.models import F, QuerySet
from django.db.models.functions import Extract, Floor
from django.utils import timezone

from hosting.dataplane.contract import Revocation
from hosting.models import Session

TOLD_WITHIN_S: Final = 600  # how long a node that was away may still tell a server


def compose_revocations(sessions: QuerySet[Session]) -> list[Revocation]:
    """Call inside `as_tenant` or `as_system`."""
    return [
        Revocation(
            tenant=row.tenant_id,
            version=int(row.opened_at.timestamp()),
            session=row.handle,
            until=_until(row),
            environment=row.environment_id,
        )
        for row in sessions.select_related("environment").order_by()
    ]


def compose_standing() -> list[Revocation]:
    """All that must hold now: sessions ended one by one whose ids are still good. Call inside `as_system`."""
    ended = Session.objects.filter(state=Session.State.ENDED, expires_at__gt=timezone.now()).exclude(
        ended_by=""
    )
    issued = ended.annotate(issued_at=Floor(Extract("opened_at", "epoch")))
    return compose_revocations(issued.filter(issued_at__gt=F("environment__sessions_after")))


def _until(session: Session) -> float:
    until = session.expires_at.timestamp()
    if session.ended_at and int(session.opened_at.timestamp()) <= session.environment.sessions_after:
        return min(until, session.ended_at.timestamp() + TOLD_WITHIN_S)
    return until
