"""What tenants run, and what it stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from django.utils import timezone

from hosting.cloudflare.port import ResourceKind
from hosting.models import (
    Account,
    Binding,
    Deployment,
    DeploymentTarget,
    Environment,
    Operation,
    Release,
    Remote,
    Resource,
    Secret,
    Server,
    Version,
)
from smcp.common.ids import new_id
from smcp.common.sealing import seal
from tenants.models import Tenant
from tests.factories.ids import id_at

BINDINGS = (
    {"name": "NOTES", "type": "kv_namespace"},
    {"name": "FILES", "type": "r2_bucket"},
    {"name": "ROWS", "type": "d1"},
)


def make_account(name: str = "", **fields: Any) -> Account:
    id_ = new_id()
    return Account.objects.create(
        **{
            "id": id_,
            "name": name or f"account-{id_[-8:]}",
            "cloudflare_account_id": ("0" * 32 + id_.encode().hex())[-32:],
            "api_base_url": "http://127.0.0.1:8787/client/v4",
            "token_sealed": seal(b"a-token", context=f"account:{id_}"),
            "dispatch_namespace": "smcp-test",
            "dispatch_url": "http://127.0.0.1:8788",
            "ready_at": timezone.now(),
            **fields,
        }
    )


def make_server(
    tenant: Tenant, slug: str = "", *, name: str = "", at: datetime | None = None, **fields: Any
) -> Server:
    at = at or timezone.now()
    id_ = id_at(at)
    slug = slug or f"s{id_[-12:]}"
    return Server.objects.create(
        id=id_,
        tenant=tenant,
        slug=slug,
        name=name or slug.capitalize(),
        created_at=at,
        **{"created_by": "system", **fields},
    )


def make_environment(
    server: Server,
    account: Account,
    slug: str = "production",
    *,
    access: Sequence[str] = (Environment.Access.API_KEY,),
    **fields: Any,
) -> Environment:
    return Environment.objects.create(
        tenant_id=server.tenant_id, server=server, account=account, slug=slug, access=list(access), **fields
    )


def make_remote(
    server: Server, *, url: str = "https://mcp.example.com/mcp", slug: str = "production", **fields: Any
) -> Remote:
    """An Environment of a `remote` Server, and where that is."""
    environment = Environment.objects.create(
        tenant_id=server.tenant_id, server=server, slug=slug, access=[Environment.Access.API_KEY]
    )
    return Remote.objects.create(
        tenant_id=server.tenant_id, environment=environment, url=url, **{"changed_by": "system", **fields}
    )


def make_version(
    server: Server,
    *,
    number: int = 0,
    message: str = "",
    at: datetime | None = None,
    bindings: Sequence[Mapping[str, Any]] = BINDINGS,
    **fields: Any,
) -> Version:
    at = at or timezone.now()
    number = number or server.versions.count() + 1
    digest = f"{number:02x}{new_id().encode().hex()}"[:64].ljust(64, "0")
    return Version.objects.create(
        id=id_at(at),
        tenant_id=server.tenant_id,
        server=server,
        number=number,
        created_at=at,
        **{
            "digest": digest,
            "main_module": "worker.js",
            "modules": [
                {
                    "name": "worker.js",
                    "content_type": "application/javascript+module",
                    "digest": digest,
                    "size": 262_144,
                }
            ],
            "compatibility_date": date(2026, 11, 1),
            "bindings": [dict(b) for b in bindings],
            "annotations": {"message": message} if message else {},
            "handlers": ["fetch"],
            "size_bytes": 262_144,
            "created_by": "system",
            **fields,
        },
    )


def make_release(
    environment: Environment,
    version: Version,
    *,
    state: str = Release.State.VERIFIED,
    at: datetime | None = None,
    **fields: Any,
) -> Release:
    at = at or timezone.now()
    id_ = id_at(at)
    return Release.objects.create(
        id=id_,
        tenant_id=environment.tenant_id,
        environment=environment,
        version=version,
        number=environment.releases.count() + 1,
        state=state,
        script_name=f"smcp-test-{id_}",
        created_at=at,
        **{"eras": ["legacy", "modern"], **fields},
    )


def make_deployment(
    environment: Environment,
    targets: Sequence[tuple[Release, float]],
    *,
    is_active: bool = True,
    at: datetime | None = None,
    operation: Operation | None = None,
    created_by: str = "system",
) -> Deployment:
    """An active one takes over from the one before."""
    at = at or timezone.now()
    if is_active:
        environment.deployments.filter(is_active=True).update(is_active=False)
    deployment = Deployment.objects.create(
        id=id_at(at),
        tenant_id=environment.tenant_id,
        environment=environment,
        number=environment.deployments.count() + 1,
        is_active=is_active,
        operation_id=operation.id if operation else id_at(at),
        created_by=created_by,
        created_at=at,
    )
    for release, percentage in targets:
        DeploymentTarget.objects.create(
            tenant_id=environment.tenant_id, deployment=deployment, release=release, percentage=percentage
        )
    return deployment


def make_resource(
    environment: Environment, kind: ResourceKind, *, state: str = Resource.State.LIVE, **fields: Any
) -> Resource:
    id_ = new_id()
    name = f"smcp-test-{id_}"
    assert environment.account is not None
    own_id = kind in {ResourceKind.SCRIPT, ResourceKind.R2_BUCKET}
    return Resource.objects.create(
        id=id_,
        tenant_id=environment.tenant_id,
        environment=environment,
        account=environment.account,
        kind=kind.value,
        name=name,
        state=state,
        **{"cloudflare_id": name if own_id else id_[::-1], **fields},
    )


def make_binding(environment: Environment, name: str, resource: Resource) -> Binding:
    return Binding.objects.create(
        tenant_id=environment.tenant_id,
        environment=environment,
        name=name,
        kind=resource.kind,
        resource=resource,
    )


def make_secret(environment: Environment, name: str, *, revision: int = 1, **fields: Any) -> Secret:
    sealed = seal(b"a-secret", context=f"secret:{environment.tenant_id}:{environment.id}:{name}")
    return Secret.objects.create(
        tenant_id=environment.tenant_id,
        environment=environment,
        name=name,
        revision=revision,
        sealed=sealed,
        **{"created_by": "system", **fields},
    )
