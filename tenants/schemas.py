"""What the REST door says and hears about tenants. Times are RFC 3339 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import AfterValidator, AwareDatetime, Field

from smcp.common.audit import AuditEvent
from smcp.common.rest import Wish
from tenants.models import ApiKey, Member, Tenant

Role = Literal["owner", "admin", "developer", "viewer", "caller"]
Scope = Literal["api:read", "api:write", "api:admin", "mcp:call"]


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError("No such moment in UTC.") from exc


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class TenantIn(Wish):
    slug: str = Field(max_length=63, examples=["acme"])
    name: str = Field(min_length=1, max_length=120)
    plan: str = Field("standard", min_length=1, max_length=40)


class TenantPatch(Wish):
    """What is left out stays."""

    name: str | None = Field(None, min_length=1, max_length=120)
    plan: str | None = Field(None, min_length=1, max_length=40)


class Reason(Wish):
    """Callers see the reason."""

    reason: str = Field(min_length=1, max_length=300)


class TenantOut(Schema):
    id: str
    slug: str
    name: str
    plan: str
    state: str
    suspended_reason: str
    suspended_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, tenant: Tenant) -> TenantOut:
        return cls.from_orm(tenant)


class MemberIn(Wish):
    email: str = Field(min_length=3, max_length=254)
    role: Role


class MemberPatch(Wish):
    role: Role


class MemberOut(Schema):
    id: str
    email: str
    role: str
    created_at: datetime

    @classmethod
    def of(cls, member: Member) -> MemberOut:
        return cls(id=member.id, email=member.user.email, role=member.role, created_at=member.created_at)


class ApiKeyIn(Wish):
    """Either scopes of the REST API, or mcp:call. `environments`: ids, for mcp:call only; empty means all."""

    name: str = Field(min_length=1, max_length=120)
    scopes: list[Scope] = Field(min_length=1, max_length=4)
    environments: list[str] = Field(default_factory=list, max_length=100)
    expires_at: Moment | None = None


class ApiKeyOut(Schema):
    """`prefix` is how a key is recognised: it begins with smcp_<prefix>_."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    environments: list[str]
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    created_by: str
    created_at: datetime

    @classmethod
    def of(cls, key: ApiKey) -> ApiKeyOut:
        return cls.from_orm(key)


class NewApiKeyOut(ApiKeyOut):
    """Shown once: nobody can read `key` again."""

    key: str

    @classmethod
    def revealing(cls, row: ApiKey, key: str) -> NewApiKeyOut:
        return cls(**ApiKeyOut.of(row).model_dump(), key=key)


class AuditEventOut(Schema):
    id: str
    at: datetime
    actor: str
    action: str
    object_kind: str
    object_id: str
    detail: dict[str, Any]
    request_id: str

    @classmethod
    def of(cls, event: AuditEvent) -> AuditEventOut:
        return cls(
            id=event.id,
            at=event.at,
            actor=event.actor,
            action=event.action,
            object_kind=event.object_kind,
            object_id=event.object_id,
            detail=event.detail,
            request_id=event.correlation,
        )
