"""Everything one may ask about tenants. Call inside `as_tenant`, `as_operator` or `as_system`."""

from __future__ import annotations

from django.db.models import QuerySet

from smcp.common.audit import AuditEvent
from smcp.common.errors import NotFound
from tenants.models import ApiKey, Member, Tenant


def get_tenant(*, slug: str) -> Tenant:
    """Raises NotFound."""
    tenant = Tenant.objects.filter(slug=slug).first()
    if tenant is None:
        raise NotFound("tenant")
    return tenant


def list_tenants() -> QuerySet[Tenant]:
    """Those the transaction may see: all for operators, one for a tenant."""
    return Tenant.objects.all()


def get_member(*, tenant_id: str, member_id: str) -> Member:
    """Raises NotFound."""
    member = list_members(tenant_id=tenant_id).filter(id=member_id).first()
    if member is None:
        raise NotFound("member")
    return member


def list_members(*, tenant_id: str) -> QuerySet[Member]:
    # Column by column: the REST API's role may not read a password, not even by accident.
    return (
        Member.objects.filter(tenant_id=tenant_id)
        .select_related("user")
        .only("id", "tenant_id", "role", "created_at", "user__id", "user__email")
    )


def get_api_key(*, tenant_id: str, api_key_id: str) -> ApiKey:
    """Raises NotFound."""
    key = ApiKey.objects.filter(tenant_id=tenant_id, id=api_key_id).first()
    if key is None:
        raise NotFound("API key")
    return key


def list_api_keys(*, tenant_id: str) -> QuerySet[ApiKey]:
    return ApiKey.objects.filter(tenant_id=tenant_id)


def list_audit_events(*, tenant_id: str) -> QuerySet[AuditEvent]:
    return AuditEvent.objects.filter(tenant_id=tenant_id)
