"""Sessions of clients: who is connected, and ending it."""

from __future__ import annotations

from typing import cast

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router

from hosting.operations import sessions
from hosting.queries.servers import get_environment, get_server
from hosting.queries.sessions import SessionCounts, count_sessions, get_session, list_sessions
from hosting.schemas.sessions import SessionOut, SessionPage, SessionsEndedOut, SessionsQuery
from smcp.common.rest import Answer, PageOf, page_answer
from tenants.auth import READ, WRITE, Needs
from tenants.door import call_of

router = Router(tags=["sessions"])
SERVER = "/tenants/{tenant}/servers/{server}"
ALL = f"{SERVER}/environments/{{environment}}/sessions"
ONE = f"{ALL}/{{session}}"


@router.get(f"{SERVER}/sessions", response=SessionPage, auth=Needs(READ))
def list_server_sessions(
    request: HttpRequest, tenant: str, server: str, page: Query[SessionsQuery]
) -> Answer:
    """Of all its environments. What is told is up to a minute old."""
    call = call_of(request)
    row = get_server(tenant_id=call.tenant_id, slug=server)
    rows = list_sessions(tenant_id=call.tenant_id, server_id=row.id, state=page.state)
    counts = count_sessions(tenant_id=call.tenant_id, server_id=row.id)
    return _with(counts, page_answer(request, rows, page, SessionOut.of))


@router.get(ALL, response=SessionPage, auth=Needs(READ))
def list_environment_sessions(
    request: HttpRequest, tenant: str, server: str, environment: str, page: Query[SessionsQuery]
) -> Answer:
    """What is told is up to a minute old."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    rows = list_sessions(tenant_id=call.tenant_id, environment_id=row.id, state=page.state)
    counts = count_sessions(tenant_id=call.tenant_id, environment_id=row.id)
    return _with(counts, page_answer(request, rows, page, SessionOut.of))


@router.get(ONE, response=SessionOut, auth=Needs(READ))
def get_environment_session(
    request: HttpRequest, tenant: str, server: str, environment: str, session: str
) -> Answer:
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    found = get_session(tenant_id=call.tenant_id, environment_id=row.id, handle=session)
    return Answer(SessionOut.of(found))


@router.delete(ONE, response={204: None}, auth=Needs(WRITE))
def end_session(request: HttpRequest, tenant: str, server: str, environment: str, session: str) -> Answer:
    """Over within a second, its streams too, and the server is told. The client may open a new one."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    sessions.end_session(
        tenant_id=call.tenant_id,
        actor=call.actor,
        environment_id=row.id,
        handle=session,
        now=timezone.now(),
    )
    return Answer(None, status=204)


@router.delete(ALL, response=SessionsEndedOut, auth=Needs(WRITE))
def end_environment_sessions(request: HttpRequest, tenant: str, server: str, environment: str) -> Answer:
    """All there are, also those that are not listed."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    ended = sessions.end_sessions(
        tenant_id=call.tenant_id, actor=call.actor, environment_id=row.id, now=timezone.now()
    )
    return Answer(SessionsEndedOut(ended=ended))


def _with(counts: SessionCounts, answer: Answer) -> Answer:
    page = cast("PageOf[SessionOut]", answer.body)
    body = SessionPage(items=page.items, next=page.next, open=counts.open, unlisted=counts.unlisted)
    return Answer(body, headers=answer.headers)
