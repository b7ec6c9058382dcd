"""Suspend, resume and retire a Server."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone

from hosting.models import Server
from hosting.operations import deployments
from hosting.operations import servers as operations
from smcp.console.actions.answers import act, actor_of, refuse
from smcp.console.listing import url_of


def suspend(request: HttpRequest, object_id: str) -> HttpResponse:
    server = get_object_or_404(Server, pk=object_id)
    reason = request.POST.get("reason", "").strip()
    if request.method == "POST" and not 0 < len(reason) <= 300:
        return refuse(
            request, "Give a reason of at most 300 characters: callers will read it.", back=url_of(server)
        )
    return act(
        request,
        lambda: operations.suspend_server(
            tenant_id=server.tenant_id,
            actor=actor_of(request),
            server_id=server.id,
            reason=reason,
        ),
        back=url_of(server),
        done=f"{server.name} is suspended. Its endpoints answer 403 with the reason.",
    )


def resume(request: HttpRequest, object_id: str) -> HttpResponse:
    server = get_object_or_404(Server, pk=object_id)
    return act(
        request,
        lambda: operations.resume_server(
            tenant_id=server.tenant_id, actor=actor_of(request), server_id=server.id
        ),
        back=url_of(server),
        done=f"{server.name} serves again.",
    )


def retire(request: HttpRequest, object_id: str) -> HttpResponse:
    """Deletes Workers and data for good, so the slug has to be typed."""
    server = get_object_or_404(Server, pk=object_id)
    if request.method == "POST" and request.POST.get("confirm", "") != server.slug:
        return refuse(request, f"Nothing was retired: type “{server.slug}” to confirm.", back=url_of(server))
    return act(
        request,
        lambda: deployments.retire_server(
            tenant_id=server.tenant_id, actor=actor_of(request), server_id=server.id, now=timezone.now()
        ),
        back=url_of(server),
        done="Retiring has begun.",
        onward=url_of,
    )
