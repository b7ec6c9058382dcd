"""Servers, Environments, and what is kept in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from ninja import Schema
from pydantic import Field, StrictBool, model_validator

from hosting.dataplane.contract import Limits
from hosting.models import Binding, Environment, Secret, Server
from hosting.schemas.remotes import RemoteIn
from hosting.stdio import refuse_command
from smcp.common.rest import Wish


class ServerIn(Wish):
    """`catalog`: make it from an entry of the catalog, Version and all; then name and description come from there.

    `kind`: `worker`, hosted here, or `remote`, which runs elsewhere; `remote` says where, now or later.
    """

    slug: str | None = Field(None, max_length=63, examples=["weather"])
    name: str | None = Field(None, min_length=1, max_length=120)
    description: str = Field("", max_length=2000)
    kind: str = Field("worker", max_length=20)
    catalog: str | None = Field(None, max_length=40, examples=["starter"])
    remote: RemoteIn | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_no_program(cls, wish: Any) -> Any:
        if isinstance(wish, dict):
            refuse_command(wish)
        return wish


class ServerPatch(Wish):
    """What is left out stays."""

    name: str | None = Field(None, min_length=1, max_length=120)
    description: str | None = Field(None, max_length=2000)


class ServerOut(Schema):
    id: str
    slug: str
    name: str
    description: str
    kind: str
    state: str
    suspended_reason: str
    catalog: str
    created_by: str
    created_at: datetime

    @classmethod
    def of(cls, server: Server) -> ServerOut:
        return cls(
            id=server.id,
            slug=server.slug,
            name=server.name,
            description=server.description,
            kind=server.kind,
            state=server.state,
            suspended_reason=server.suspended_reason,
            catalog=server.catalog_slug,
            created_by=server.created_by,
            created_at=server.created_at,
        )


class EnvironmentIn(Wish):
    slug: str = Field(max_length=63, examples=["staging"])
    access: list[str] = Field(default_factory=lambda: ["api_key"], max_length=4)


class EnvironmentPatch(Wish):
    """What is left out stays; what is given replaces the whole.

    Access, origins, limits, healing, other paths and what becomes of modern clients hold at once; egress and variables from the next
    deployment on.
    """

    access: list[str] | None = Field(None, max_length=4)
    allowed_origins: list[str] | None = Field(None, max_length=50)
    egress_allow: list[str] | None = Field(None, max_length=50)
    limits: dict[str, Any] | None = None
    variables: dict[str, str] | None = None
    releases_kept: int | None = None
    heals_sessions: bool | None = None
    other_paths: StrictBool | None = None
    modern_clients: str | None = Field(None, max_length=7, examples=["bridge"])


class EnvironmentOut(Schema):
    """`endpoint` is what MCP clients connect to. `limits` are all that hold, defaults and overrides."""

    id: str
    server: str
    slug: str
    state: str
    endpoint: str
    access: list[str]
    allowed_origins: list[str]
    egress_allow: list[str]
    limits: dict[str, int | float]
    variables: dict[str, str]
    releases_kept: int
    heals_sessions: bool
    other_paths: bool
    modern_clients: str
    created_at: datetime

    @classmethod
    def of(cls, environment: Environment, *, tenant_slug: str) -> EnvironmentOut:
        defaults = {name: getattr(Limits(), name) for name in Limits.__struct_fields__}
        return cls(
            id=environment.id,
            server=environment.server.slug,
            slug=environment.slug,
            state=environment.state,
            endpoint=endpoint_of(tenant_slug, environment.server.slug, environment.slug),
            access=environment.access,
            allowed_origins=environment.allowed_origins,
            egress_allow=environment.egress_allow,
            limits={**defaults, **environment.limits},
            variables=environment.variables,
            releases_kept=environment.releases_kept,
            heals_sessions=environment.heals_sessions,
            other_paths=environment.other_paths,
            modern_clients=environment.modern_clients,
            created_at=environment.created_at,
        )


def endpoint_of(tenant_slug: str, server_slug: str, environment_slug: str) -> str:
    """Where MCP clients connect, on the gateway's shared host."""
    suffix = "" if environment_slug == "production" else f"~{environment_slug}"
    return f"{settings.GATEWAY_URL}/{tenant_slug}/{server_slug}{suffix}/mcp"


class BindingOut(Schema):
    """Under which name the code sees which resource."""

    name: str
    kind: str
    resource: str

    @classmethod
    def of(cls, binding: Binding) -> BindingOut:
        return cls(name=binding.name, kind=binding.kind, resource=binding.resource_id)


class SecretIn(Wish):
    # Not stripped: spaces may belong to a secret.
    model_config = {**Wish.model_config, "str_strip_whitespace": False}

    value: str = Field(min_length=1)


class SecretOut(Schema):
    """Never the value."""

    name: str
    revision: int
    created_by: str
    created_at: datetime

    @classmethod
    def of(cls, secret: Secret) -> SecretOut:
        return cls(
            name=secret.name,
            revision=secret.revision,
            created_by=secret.created_by,
            created_at=secret.created_at,
        )
