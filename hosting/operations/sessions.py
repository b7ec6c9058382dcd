"""Sessions of clients, ended by whoever owns the server: over on every gateway within a second, streams and all, and the server is told.

Ending a session again changes nothing; one that has expired may be ended, lest a gateway still know it. Ended one by one, each is remembered until its id would have
expired, so there is a bound; all of an Environment's at once need one number, and hold for sessions that nobody has listed too.

DomainError
└── Conflict:  TooManyEnded
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from django.db.models import F

from hosting.models import Environment, Session, UnlistedSessions
from hosting.operations.rows import lock_environment
from hosting.signals import tell_environment_changed, tell_sessions_ended
from smcp.common import audit
from smcp.common.errors import Conflict, NotFound
from smcp.common.tenancy import as_tenant

ENDED_MAX: Final = 1000  # sessions of an Environment that were ended one by one and whose ids are still good


class TooManyEnded(Conflict):
    code = "too-many-ended"
    title = "Too many sessions were ended one by one"


def end_session(*, tenant_id: str, actor: str, environment_id: str, handle: str, now: datetime) -> Session:
    """May be repeated. Raises NotFound, EnvironmentGone, TooManyEnded."""
    with as_tenant(tenant_id):
        environment = lock_environment(tenant_id=tenant_id, environment_id=environment_id)
        of_environment = Session.objects.filter(tenant_id=tenant_id, environment_id=environment_id)
        session = of_environment.select_for_update().filter(handle=handle).first()
        if session is None:
            raise NotFound("session")
        if session.state == Session.State.ENDED:
            return session
        ended_here = of_environment.filter(state=Session.State.ENDED, expires_at__gt=now).exclude(ended_by="")
        if ended_here.count() >= ENDED_MAX:
            raise TooManyEnded(
                f"{ENDED_MAX} sessions of “{environment.slug}” were ended one by one, and their ids are still good. End all."
            )
        session.state, session.ended_at, session.ended_by = Session.State.ENDED, now, actor
        session.save(update_fields=["state", "ended_at", "ended_by"])
        audit.record(
            tenant_id=tenant_id,
            actor=actor,
            action="session.ended",
            object_kind="session",
            object_id=session.id,
            detail={"environment": environment_id, "session": handle, "principal": session.principal},
        )
        tell_sessions_ended(tenant_id, [session.id])
        return session


def end_sessions(*, tenant_id: str, actor: str, environment_id: str, now: datetime) -> int:
    """All that were issued until this second; how many of them were listed. Raises NotFound, EnvironmentGone."""
    after = int(now.timestamp())
    with as_tenant(tenant_id):
        lock_environment(tenant_id=tenant_id, environment_id=environment_id)
        listed = Session.objects.filter(
            tenant_id=tenant_id, environment_id=environment_id, state=Session.State.OPEN, opened_at__lte=now
        )
        ended = list(listed.select_for_update().values_list("id", flat=True))
        Session.objects.filter(tenant_id=tenant_id, id__in=ended).update(
            state=Session.State.ENDED, ended_at=now, ended_by=actor
        )
        UnlistedSessions.objects.filter(tenant_id=tenant_id, environment_id=environment_id).delete()
        Environment.objects.filter(tenant_id=tenant_id, id=environment_id).update(
            sessions_after=after, route_version=F("route_version") + 1
        )
        audit.record(
            tenant_id=tenant_id,
            actor=actor,
            action="environment.sessions_ended",
            object_kind="environment",
            object_id=environment_id,
            detail={"sessions": len(ended)},
        )
        tell_environment_changed(tenant_id, environment_id)
        tell_sessions_ended(tenant_id, ended)
        return len(ended)
