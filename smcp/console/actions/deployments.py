"""Deploy a Version to an Environment (rolling back is deploying an older one), and retire an Environment."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone

from hosting.models import DeploymentTarget, Environment, Version
from hosting.operations import deployments as operations
from smcp.console.actions.answers import act, actor_of, came_from, refuse
from smcp.console.listing import url_of


def deploy(request: HttpRequest, object_id: str) -> HttpResponse:
    """`version` takes `percentage` of the traffic (all of it when absent); the rest stays where most of it is now."""
    environment = get_object_or_404(Environment, pk=object_id)
    back = came_from(request, url_of(environment))
    targets: list[tuple[str, int]] = []
    if request.method == "POST":
        version = Version.objects.filter(
            tenant_id=environment.tenant_id,
            server_id=environment.server_id,
            pk=request.POST.get("version", ""),
        ).first()
        if version is None:
            return refuse(request, "Choose a version of this server.", back=back)
        share = request.POST.get("percentage", "100")
        if not share.isascii() or not share.isdigit() or not 1 <= int(share) <= 100:
            return refuse(request, "A share is a whole number from 1 to 100.", back=back)
        targets = [(version.id, int(share))]
        if int(share) < 100:
            rest = _serving_most(environment, other_than=version)
            if rest is None:
                return refuse(request, "No other version serves here that could take the rest.", back=back)
            targets.append((rest, 100 - int(share)))
    return act(
        request,
        lambda: operations.deploy_version(
            tenant_id=environment.tenant_id,
            actor=actor_of(request),
            environment_id=environment.id,
            targets=targets,
            now=timezone.now(),
        ),
        back=back,
        done="",
        onward=url_of,
    )


def _serving_most(environment: Environment, *, other_than: Version) -> str | None:
    """Id of the Version with the largest share of the traffic now."""
    return (
        DeploymentTarget.objects.filter(
            tenant_id=environment.tenant_id, deployment__environment=environment, deployment__is_active=True
        )
        .exclude(release__version=other_than)
        .order_by("-percentage")
        .values_list("release__version_id", flat=True)
        .first()
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
