"""Sessions of clients, as the gateways told of them."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Substr

from hosting.models import Session, UnlistedSessions
from smcp.common.errors import NotFound
from tenants.models import ApiKey

_KEY = "key:"  # how the Principal of an API key begins


@dataclass(frozen=True, kw_only=True)
class SessionCounts:
    """`unlisted`: opened while their Environment's list was full, and perhaps still open."""

    open: int
    unlisted: int


def list_sessions(
    *,
    tenant_id: str,
    server_id: str | None = None,
    environment_id: str | None = None,
    state: str | None = None,
) -> QuerySet[Session]:
    """With their environment, and the name of the API key that opened each (`key_name`)."""
    sessions = Session.objects.filter(tenant_id=tenant_id)
    if server_id is not None:
        sessions = sessions.filter(environment__server_id=server_id)
    if environment_id is not None:
        sessions = sessions.filter(environment_id=environment_id)
    if state is not None:
        sessions = sessions.filter(state=state)
    return with_key_names(sessions.select_related("environment"))


def with_key_names(sessions: QuerySet[Session]) -> QuerySet[Session]:
    """`key_name`: of the API key that opened each; None for whoever is none, or is no more."""
    key = ApiKey.objects.filter(
        tenant_id=OuterRef("tenant_id"), id=Substr(OuterRef("principal"), len(_KEY) + 1)
    )
    return sessions.annotate(key_name=Subquery(key.values("name")[:1]))


def get_session(*, tenant_id: str, environment_id: str, handle: str) -> Session:
    """Raises NotFound."""
    found = list_sessions(tenant_id=tenant_id, environment_id=environment_id).filter(handle=handle).first()
    if found is None:
        raise NotFound("session")
    return found


def count_sessions(
    *, tenant_id: str, server_id: str | None = None, environment_id: str | None = None
) -> SessionCounts:
    unlisted = UnlistedSessions.objects.filter(tenant_id=tenant_id)
    if server_id is not None:
        unlisted = unlisted.filter(environment__server_id=server_id)
    if environment_id is not None:
        unlisted = unlisted.filter(environment_id=environment_id)
    listed = list_sessions(
        tenant_id=tenant_id, server_id=server_id, environment_id=environment_id, state=Session.State.OPEN
    )
    return SessionCounts(open=listed.count(), unlisted=unlisted.aggregate(total=Sum("count"))["total"] or 0)
