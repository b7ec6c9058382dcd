"""People, tenants and their keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.utils import timezone

from smcp.common.ids import new_id
from tenants.keys import make_key
from tenants.models import ApiKey, Member, Tenant, User
from tests.factories.ids import id_at

PASSWORD = "correct horse battery staple"


def make_user(email: str = "", *, is_staff: bool = False, password: str | None = PASSWORD) -> User:
    """`password` None: nobody can sign in, and nothing is spent on hashing."""
    return User.objects.create_user(email or f"{new_id()[-10:]}@example.com", password, is_staff=is_staff)


def make_tenant(slug: str = "", *, name: str = "", at: datetime | None = None, **fields: Any) -> Tenant:
    at = at or timezone.now()
    id_ = id_at(at)
    slug = slug or f"t{id_[-12:]}"
    return Tenant.objects.create(id=id_, slug=slug, name=name or slug.capitalize(), created_at=at, **fields)


def make_member(tenant: Tenant, user: User, role: str = Member.Role.DEVELOPER) -> Member:
    return Member.objects.create(tenant=tenant, user=user, role=role)


def make_api_key(
    tenant: Tenant, *, name: str = "A key", scopes: Sequence[str] = (ApiKey.Scope.MCP_CALL,), **fields: Any
) -> tuple[ApiKey, str]:
    """The row, and the text nobody else can show."""
    made = make_key()
    row = ApiKey.objects.create(
        tenant=tenant,
        name=name,
        prefix=made.prefix,
        digest=made.digest,
        scopes=list(scopes),
        **{"created_by": "system", **fields},
    )
    return row, made.text
