"""Who calls the REST door, and for which tenant: `Authorization: Bearer smcp_<prefix>_<secret>`.

A key is found by its prefix before its tenant is known, in a transaction that may see this one row only. Keys of a tenant
open their own tenant and nothing else: for another tenant's things the door looks as if they did not exist. Operators'
keys create, suspend and resume tenants and make their first keys; what tenants run stays closed to them here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db import connection
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone

from smcp.common.errors import Denied, NotFound, Unauthenticated
from smcp.common.tenancy import as_operator, as_tenant, with_key_prefix
from tenants import keys, queries
from tenants.models import ApiKey, OperatorKey, Tenant

READ: Final = str(ApiKey.Scope.API_READ)
WRITE: Final = str(ApiKey.Scope.API_WRITE)
ADMIN: Final = str(ApiKey.Scope.API_ADMIN)
OPERATOR: Final = "operator"

#: What a scope brings along. mcp:call brings nothing here: it opens MCP servers, never this door.
BRINGS: Final = {READ: {READ}, WRITE: {WRITE, READ}, ADMIN: {ADMIN, WRITE, READ}}
#: All that a holder of api:admin, or the platform, may grant.
GRANTABLE: Final = frozenset(scope.value for scope in ApiKey.Scope)
USED_EVERY_S: Final = 60
_NOBODY: Final = "0" * 64  # a digest no key has, so that an unknown prefix takes as long as a known one
_CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class MissingScope(Denied):
    code = "missing-scope"
    title = "The key does not have the scope this needs"


class TenantSuspended(Denied):
    code = "tenant-suspended"
    title = "The tenant is suspended"


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who calls. `actor` is how the audit trail names them: `key:<id>` or `operator:<id>`."""

    actor: str
    tenant_id: str | None
    scopes: frozenset[str]

    @property
    def is_operator(self) -> bool:
        return OPERATOR in self.scopes


@dataclass(frozen=True, kw_only=True)
class Call:
    """One authorised request. `tenant` is None where the path names none."""

    principal: Principal
    tenant: Tenant | None

    @property
    def actor(self) -> str:
        return self.principal.actor

    @property
    def tenant_id(self) -> str:
        """Of the tenant in the path."""
        assert self.tenant is not None
        return str(self.tenant.id)


class Needs:
    """One of these scopes opens the operation. ninja asks before it reads anything else of the request."""

    openapi_security_schema: Final = {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "smcp_<prefix>_<secret>",
        "description": "An API key. Scopes: api:read, api:write, api:admin; the platform's operators have keys of their own.",
    }

    def __init__(self, *scopes: str) -> None:
        self.scopes = frozenset(scopes)

    def __call__(self, request: HttpRequest) -> Any:
        return self.check(request)

    def check(self, request: HttpRequest) -> Call:
        """Raises Unauthenticated, NotFound, MissingScope, TenantSuspended; in this order."""
        principal = authenticate(request.headers.get("Authorization", ""), now=timezone.now())
        match = request.resolver_match
        slug = match.kwargs.get("tenant") if match else None
        tenant = None if slug is None else _tenant(principal, slug)
        if not self.scopes & principal.scopes:
            raise MissingScope(f"This needs {' or '.join(sorted(self.scopes))}.")
        is_stopped = tenant is not None and tenant.state == Tenant.State.SUSPENDED
        if is_stopped and tenant is not None and request.method in _CHANGING and not principal.is_operator:
            raise TenantSuspended(
                f"Nothing can be changed while the tenant is suspended: {tenant.suspended_reason}"
            )
        return Call(principal=principal, tenant=tenant)


class NeedsInLoop(Needs):
    """For views on the event loop: they hold no thread and no connection while they stream."""

    async def __call__(self, request: HttpRequest) -> Any:
        return await off_loop(self.check, request)


async def off_loop(work: Callable[..., Any], *args: Any) -> Any:
    """Runs blocking work in the shared threads and gives the connection back."""

    def run() -> Any:
        try:
            return work(*args)
        finally:
            connection.close()

    return await sync_to_async(run, thread_sensitive=False)()


def authenticate(header: str, *, now: datetime) -> Principal:
    """Raises Unauthenticated; MissingScope for a key that only calls MCP servers."""
    scheme, _, presented = header.partition(" ")
    if scheme.lower() != "bearer" or not presented:
        raise Unauthenticated("Send an API key: Authorization: Bearer smcp_…")
    prefix = keys.prefix_of(presented.strip())
    if prefix is None:
        raise Unauthenticated("This is no API key.")
    with with_key_prefix(prefix):
        found = (
            ApiKey.objects.filter(prefix=prefix).first() or OperatorKey.objects.filter(prefix=prefix).first()
        )
    is_same = keys.is_same(presented.strip(), found.digest if found else _NOBODY)
    if found is None or not is_same:
        raise Unauthenticated("This API key is unknown.")
    if found.revoked_at is not None:
        raise Unauthenticated("This API key was revoked.")
    if found.expires_at is not None and found.expires_at <= now:
        raise Unauthenticated("This API key has expired.")
    if isinstance(found, OperatorKey):
        return Principal(actor=f"operator:{found.id}", tenant_id=None, scopes=frozenset({OPERATOR}))
    scopes = frozenset().union(*(BRINGS.get(scope, set()) for scope in found.scopes))
    if not scopes:
        raise MissingScope("This key calls MCP servers; it does not open the REST API.")
    _mark_used(found, now)
    return Principal(actor=f"key:{found.id}", tenant_id=found.tenant_id, scopes=scopes)


def _mark_used(key: ApiKey, now: datetime) -> None:
    stale = now - timedelta(seconds=USED_EVERY_S)
    if key.last_used_at is None or key.last_used_at < stale:
        with as_tenant(key.tenant_id):
            ApiKey.objects.filter(Q(last_used_at=None) | Q(last_used_at__lt=stale), id=key.id).update(
                last_used_at=now
            )


def _tenant(principal: Principal, slug: str) -> Tenant:
    """The tenant of the path, for those who may know of it. Raises NotFound, the same for missing and for not yours."""
    if principal.tenant_id is None:
        with as_operator():
            return queries.get_tenant(slug=slug)
    with as_tenant(principal.tenant_id):
        tenant = queries.get_tenant(slug=slug)
    if tenant.id != principal.tenant_id:
        raise NotFound("tenant")
    return tenant
