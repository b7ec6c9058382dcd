"""Deployments, and the Resources that serve an Environment."""

from __future__ import annotations

from django.db.models import QuerySet

from hosting.models import Deployment, Resource
from smcp.common.errors import NotFound


def get_deployment(*, tenant_id: str, environment_id: str, number: int) -> Deployment:
    """With its targets. Raises NotFound."""
    deployments = list_deployments(tenant_id=tenant_id, environment_id=environment_id)
    deployment = deployments.filter(number=number).first()
    if deployment is None:
        raise NotFound("deployment")
    return deployment


def list_deployments(*, tenant_id: str, environment_id: str) -> QuerySet[Deployment]:
    """With their targets, the Releases and the Versions behind them."""
    return Deployment.objects.filter(tenant_id=tenant_id, environment_id=environment_id).prefetch_related(
        "targets__release__version"
    )


def get_resource(*, tenant_id: str, resource_id: str) -> Resource:
    """Raises NotFound."""
    resource = list_resources(tenant_id=tenant_id, include_deleted=True).filter(id=resource_id).first()
    if resource is None:
        raise NotFound("resource")
    return resource


def list_resources(
    *, tenant_id: str, environment_id: str | None = None, include_deleted: bool = False
) -> QuerySet[Resource]:
    """With their environment and its server."""
    resources = Resource.objects.select_related("environment__server").filter(tenant_id=tenant_id)
    if environment_id is not None:
        resources = resources.filter(environment_id=environment_id)
    return resources if include_deleted else resources.exclude(state=Resource.State.DELETED)
