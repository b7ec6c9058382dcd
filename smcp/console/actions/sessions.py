"""End one session, or all of an Environment's."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone

from hosting.models import Environment, Session
from hosting.operations import sessions as operations
from smcp.console.actions.answers import act, actor_of, came_from
from smcp.console.listing import url_of


def end(request: HttpRequest, object_id: str) -> HttpResponse:
    session = get_object_or_404(Session, pk=object_id)
    return act(
        request,
        lambda: operations.end_session(
            tenant_id=session.tenant_id,
            actor=actor_of(request),
            environment_id=session.environment_id,
            handle=session.handle,
            now=timezone.now(),
        ),
        back=came_from(request, url_of(session)),
        done="The session has ended. Its client is told 404 and may open a new one.",
    )


def end_all(request: HttpRequest, object_id: str) -> HttpResponse:
    environment = get_object_or_404(Environment, pk=object_id)
    return act(
        request,
        lambda: operations.end_sessions(
            tenant_id=environment.tenant_id,
            actor=actor_of(request),
            environment_id=environment.id,
            now=timezone.now(),
        ),
        back=url_of(environment),
        done=f"All sessions of {environment.slug} have ended.",
    )
