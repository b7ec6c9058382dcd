"""Deploy a Version to an Environment (rolling back is deploying an older one), and retire an Environment."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone

from hosting.models import Environment, Version
from hosting.operations import deployments as operations
from smcp.console.actions.answers import act, actor_of, came_from, refuse
from smcp.console.listing import url_of


def deploy(request: HttpRequest, object_id: str) -> HttpResponse:
    environment = get_object_or_404(Environment, pk=object_id)
    back = came_from(request, url_of(environment))
    version = Version.objects.filter(
        tenant_id=environment.tenant_id, server_id=environment.server_id, pk=request.POST.get("version", "")
    ).first()
    if request.method == "POST" and version is None:
        return refuse(request, "Choose a version of this server.", back=back)
    return act(
        request,
        lambda: operations.deploy_version(
            tenant_id=environment.tenant_id,
            actor=actor_of(request),
            environment_id=environment.id,
            targets=[(version.id if version else "", 100)],
            now=timezone.now(),
        ),
        back=back,
        done="",
        onward=url_of,
    )


def retire(request: HttpRequest, object_id: str) -> HttpResponse:
    """Deletes the Environment's Workers and data for good, so its slug has to be typed."""
    environment = get_object_or_404(Environment, pk=object_id)
    if request.method == "POST" and request.POST.get("confirm", "") != environment.slug:
        return refuse(
            request, f"Nothing was retired: type “{environment.slug}” to confirm.", back=url_of(environment)
        )
    return act(
        request,
        lambda: operations.retire_environment(
            tenant_id=environment.tenant_id,
            actor=actor_of(request),
            environment_id=environment.id,
            now=timezone.now(),
        ),
        back=url_of(environment),
        done="Retiring has begun.",
        onward=url_of,
    )
