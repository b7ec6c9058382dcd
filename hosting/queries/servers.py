"""Servers, their Environments and their Versions."""

from __future__ import annotations

from django.db.models import QuerySet

from hosting.models import Binding, Environment, Remote, Secret, Server, Version
from smcp.common.errors import NotFound


def get_server(*, tenant_id: str, slug: str) -> Server:
    """Retired ones too: their slugs are never given again. Raises NotFound."""
    server = Server.objects.filter(tenant_id=tenant_id, slug=slug).first()
    if server is None:
        raise NotFound("server")
    return server


def list_servers(*, tenant_id: str, state: str | None = None) -> QuerySet[Server]:
    """Without `state`: all but the retired."""
    servers = Server.objects.filter(tenant_id=tenant_id)
    return servers.filter(state=state) if state else servers.exclude(state=Server.State.RETIRED)


def get_environment(*, tenant_id: str, server_slug: str, slug: str) -> Environment:
    """With its server. Raises NotFound, naming the server or the environment."""
    environment = (
        Environment.objects.select_related("server")
        .filter(tenant_id=tenant_id, server__slug=server_slug, slug=slug)
        .first()
    )
    if environment is None:
        get_server(tenant_id=tenant_id, slug=server_slug)
        raise NotFound("environment")
    return environment


def list_environments(*, tenant_id: str, server_id: str) -> QuerySet[Environment]:
    """With their server; all but the retired."""
    return (
        Environment.objects.select_related("server")
        .filter(tenant_id=tenant_id, server_id=server_id)
        .exclude(state=Environment.State.RETIRED)
    )


def get_version(*, tenant_id: str, server_id: str, number: int) -> Version:
    """Raises NotFound."""
    version = Version.objects.filter(tenant_id=tenant_id, server_id=server_id, number=number).first()
    if version is None:
        raise NotFound("version")
    return version


def list_versions(*, tenant_id: str, server_id: str) -> QuerySet[Version]:
    return Version.objects.filter(tenant_id=tenant_id, server_id=server_id)


def list_bindings(*, tenant_id: str, environment_id: str) -> QuerySet[Binding]:
    """With their resources."""
    return Binding.objects.select_related("resource").filter(
        tenant_id=tenant_id, environment_id=environment_id
    )


def get_remote(*, tenant_id: str, environment_id: str) -> Remote:
    """Raises NotFound."""
    remote = find_remote(tenant_id=tenant_id, environment_id=environment_id)
    if remote is None:
        raise NotFound("remote")
    return remote


def find_remote(*, tenant_id: str, environment_id: str) -> Remote | None:
    """None: hosted here, or not told yet where it is."""
    return Remote.objects.filter(tenant_id=tenant_id, environment_id=environment_id).first()


def list_secrets(*, tenant_id: str, environment_id: str) -> QuerySet[Secret]:
    """Current ones, without what is sealed in them."""
    return Secret.objects.defer("sealed").filter(
        tenant_id=tenant_id, environment_id=environment_id, is_current=True
    )
