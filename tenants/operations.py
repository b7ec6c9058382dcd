"""Everything that changes a tenant, its members and its keys. Each acts as the tenant, inside one transaction, with its audit.

DomainError
├── Invalid:   SlugInvalid · NoSuchPerson · ScopesInvalid · PasswordTooWeak
├── Conflict:  SlugTaken · AlreadyMember · LastOwner
└── Denied:    ScopeAboveOwn
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F, Q

from smcp.common import audit
from smcp.common.errors import Conflict, Denied, Invalid, NotFound
from smcp.common.ids import is_id
from smcp.common.slugs import TENANT_SLUG_MAX, validate_tenant_slug
from smcp.common.tenancy import as_tenant
from tenants.keys import make_key
from tenants.models import ApiKey, Member, OperatorKey, Tenant, User
from tenants.signals import tell_api_key_changed, tell_tenant_changed


class SlugInvalid(Invalid):
    code = "slug-invalid"
    title = "The slug cannot be used"


class SlugTaken(Conflict):
    code = "slug-taken"
    title = "The slug is taken"


class NoSuchPerson(Invalid):
    code = "no-such-person"
    title = "Nobody has this address"


class AlreadyMember(Conflict):
    code = "already-member"
    title = "Already a member"


class LastOwner(Conflict):
    code = "last-owner"
    title = "A tenant keeps one owner"


class ScopesInvalid(Invalid):
    code = "scopes-invalid"
    title = "These scopes do not go together"


class PasswordTooWeak(Invalid):
    code = "password-too-weak"
    title = "The password is too weak"


class ScopeAboveOwn(Denied):
    code = "scope-above-own"
    title = "Nobody grants more than they have"


# ── Tenants ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def create_tenant(*, actor: str, slug: str, name: str, plan: str = "standard") -> Tenant:
    """Raises SlugInvalid, SlugTaken: a slug is never given again."""
    try:
        validate_tenant_slug(slug)
    except ValidationError as exc:
        raise SlugInvalid(exc.messages[0], fields={"slug": exc.messages[0]}) from exc
    if len(slug) > TENANT_SLUG_MAX:
        raise SlugInvalid(fields={"slug": f"At most {TENANT_SLUG_MAX} characters."})
    tenant = Tenant(slug=slug, name=name, plan=plan)
    try:
        with as_tenant(tenant.id):
            tenant.save(force_insert=True)
            audit.record(
                tenant_id=tenant.id,
                actor=actor,
                action="tenant.created",
                object_kind="tenant",
                object_id=tenant.id,
                detail={"slug": slug, "name": name, "plan": plan},
            )
    except IntegrityError as exc:
        raise SlugTaken(f"The slug “{slug}” is taken.", fields={"slug": "Taken."}) from exc
    tell_tenant_changed(tenant.id)
    return tenant


def update_tenant(*, tenant_id: str, actor: str, name: str | None = None, plan: str | None = None) -> Tenant:
    with as_tenant(tenant_id):
        tenant = _lock(tenant_id)
        changed = {
            key: value
            for key, value in {"name": name, "plan": plan}.items()
            if value not in {None, getattr(tenant, key)}
        }
        if changed:
            before = {key: getattr(tenant, key) for key in changed}
            Tenant.objects.filter(id=tenant_id).update(**changed)
            audit.record(
                tenant_id=tenant_id,
                actor=actor,
                action="tenant.updated",
                object_kind="tenant",
                object_id=tenant_id,
                detail={"before": before, "after": changed},
            )
        tenant.refresh_from_db()
        return tenant


def suspend_tenant(*, tenant_id: str, actor: str, reason: str, now: datetime) -> Tenant:
    """Every endpoint of the tenant answers 403 with the reason until it is resumed; nothing is deleted. May be repeated."""
    with as_tenant(tenant_id):
        tenant = _lock(tenant_id)
        if (tenant.state, tenant.suspended_reason) != (Tenant.State.SUSPENDED, reason):
            Tenant.objects.filter(id=tenant_id).update(
                state=Tenant.State.SUSPENDED,
                suspended_reason=reason,
                suspended_at=tenant.suspended_at or now,
                version=F("version") + 1,
            )
            audit.record(
                tenant_id=tenant_id,
                actor=actor,
                action="tenant.suspended",
                object_kind="tenant",
                object_id=tenant_id,
                detail={"reason": reason},
            )
            tell_tenant_changed(tenant_id)
        tenant.refresh_from_db()
        return tenant


def resume_tenant(*, tenant_id: str, actor: str) -> Tenant:
    """May be repeated."""
    with as_tenant(tenant_id):
        tenant = _lock(tenant_id)
        if tenant.state == Tenant.State.SUSPENDED:
            Tenant.objects.filter(id=tenant_id).update(
                state=Tenant.State.ACTIVE, suspended_reason="", suspended_at=None, version=F("version") + 1
            )
            audit.record(
                tenant_id=tenant_id,
                actor=actor,
                action="tenant.resumed",
                object_kind="tenant",
                object_id=tenant_id,
                detail={"reason": tenant.suspended_reason},
            )
            tell_tenant_changed(tenant_id)
        tenant.refresh_from_db()
        return tenant


def _lock(tenant_id: str) -> Tenant:
    tenant = Tenant.objects.select_for_update().filter(id=tenant_id).first()
    if tenant is None:
        raise NotFound("tenant")
    return tenant


# ── Members ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_member(*, tenant_id: str, actor: str, email: str, role: str) -> Member:
    """The person must have an account. Raises NoSuchPerson, AlreadyMember."""
    with as_tenant(tenant_id):
        user = User.objects.only("id", "email").filter(email=email.lower(), is_active=True).first()
        if user is None:
            raise NoSuchPerson(fields={"email": "Nobody has an account with this address."})
        try:
            with transaction.atomic():
                member = Member.objects.create(tenant_id=tenant_id, user=user, role=role)
        except IntegrityError as exc:
            raise AlreadyMember(fields={"email": "Already a member."}) from exc
        _record_member(tenant_id, actor, "member.added", member, {"user": user.id, "role": role})
        return member


def change_role(*, tenant_id: str, actor: str, member_id: str, role: str) -> Member:
    """Raises NotFound, LastOwner."""
    with as_tenant(tenant_id):
        member = _lock_member(tenant_id, member_id)
        if member.role != role:
            _keep_an_owner(tenant_id, member)
            before, member.role = member.role, role
            member.save(update_fields=["role"])
            _record_member(tenant_id, actor, "member.role_changed", member, {"before": before, "after": role})
        return member


def remove_member(*, tenant_id: str, actor: str, member_id: str) -> None:
    """Raises NotFound, LastOwner."""
    with as_tenant(tenant_id):
        member = _lock_member(tenant_id, member_id)
        _keep_an_owner(tenant_id, member)
        _record_member(
            tenant_id, actor, "member.removed", member, {"user": member.user_id, "role": member.role}
        )
        member.delete()


def _lock_member(tenant_id: str, member_id: str) -> Member:
    # All members are locked: two owners who remove each other at once must not both succeed.
    members = list(Member.objects.select_for_update(of=("self",)).filter(tenant_id=tenant_id).order_by("id"))
    for member in members:
        if member.id == member_id:
            return member
    raise NotFound("member")


def _keep_an_owner(tenant_id: str, member: Member) -> None:
    owners = Member.objects.filter(tenant_id=tenant_id, role=Member.Role.OWNER)
    if member.role == Member.Role.OWNER and not owners.exclude(id=member.id).exists():
        raise LastOwner("This is the last owner. Make somebody else an owner first.")


def _record_member(tenant_id: str, actor: str, action: str, member: Member, detail: dict[str, str]) -> None:
    audit.record(
        tenant_id=tenant_id,
        actor=actor,
        action=action,
        object_kind="member",
        object_id=member.id,
        detail=detail,
    )


# ── Keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def create_api_key(
    *,
    tenant_id: str,
    actor: str,
    name: str,
    scopes: Collection[str],
    may_grant: Collection[str] | None = None,
    environments: Sequence[str] = (),
    expires_at: datetime | None = None,
    now: datetime,
) -> tuple[ApiKey, str]:
    """The row and the key's text, which nobody can show again.

    `may_grant`: the scopes of whoever asks; None for the platform itself. `environments`: ids, for mcp:call; empty: all.
    Raises ScopesInvalid, ScopeAboveOwn, Invalid.
    """
    wanted = sorted(set(scopes))
    calls = [scope for scope in wanted if scope == ApiKey.Scope.MCP_CALL]
    if not wanted or (calls and len(wanted) > 1):
        raise ScopesInvalid(
            "A key opens either the REST API (api:read, api:write, api:admin) or MCP servers (mcp:call).",
            fields={"scopes": "Give at least one scope, and never mcp:call together with others."},
        )
    if may_grant is not None and not set(wanted) <= {*may_grant}:
        raise ScopeAboveOwn(fields={"scopes": "More than your own key has."})
    if environments and not calls:
        raise Invalid(fields={"environments": "Only a key with mcp:call is bound to Environments."})
    if not all(is_id(environment) for environment in environments):
        raise Invalid(fields={"environments": "Give ids of Environments, not their slugs."})
    if expires_at is not None and expires_at <= now:
        raise Invalid(fields={"expires_at": "In the past."})
    made = make_key()
    with as_tenant(tenant_id):
        key = ApiKey.objects.create(
            tenant_id=tenant_id,
            name=name,
            prefix=made.prefix,
            digest=made.digest,
            scopes=wanted,
            environments=sorted(set(environments)),
            expires_at=expires_at,
            created_by=actor,
        )
        audit.record(
            tenant_id=tenant_id,
            actor=actor,
            action="api_key.created",
            object_kind="api_key",
            object_id=key.id,
            detail={"name": name, "prefix": made.prefix, "scopes": wanted},
        )
        tell_api_key_changed(tenant_id, key.id)
    return key, made.text


def note_key_uses(uses: Mapping[tuple[str, str], datetime]) -> None:
    """When keys last called MCP servers: (tenant, key) → time. An earlier time changes nothing. Call inside `as_system()`."""
    for (tenant_id, key_id), at in uses.items():
        unknown = Q(last_used_at=None) | Q(last_used_at__lt=at)
        ApiKey.objects.filter(unknown, tenant_id=tenant_id, id=key_id).update(last_used_at=at)


def revoke_api_key(*, tenant_id: str, actor: str, api_key_id: str, now: datetime) -> ApiKey:
    """For good. May be repeated. Raises NotFound."""
    with as_tenant(tenant_id):
        news = ApiKey.objects.filter(tenant_id=tenant_id, id=api_key_id, revoked_at=None).update(
            revoked_at=now, version=F("version") + 1
        )
        key = ApiKey.objects.filter(tenant_id=tenant_id, id=api_key_id).first()
        if key is None:
            raise NotFound("API key")
        if news:
            audit.record(
                tenant_id=tenant_id,
                actor=actor,
                action="api_key.revoked",
                object_kind="api_key",
                object_id=key.id,
                detail={"name": key.name, "prefix": key.prefix},
            )
            tell_api_key_changed(tenant_id, key.id)
        return key


def ensure_operator(*, email: str, password: str) -> User:
    """A person who may enter the console, with this password. Needs `as_system` around it. Raises PasswordTooWeak."""
    try:
        validate_password(password)
    except ValidationError as exc:
        raise PasswordTooWeak(" ".join(exc.messages), fields={"password": " ".join(exc.messages)}) from exc
    user = User.objects.filter(email=email.lower()).first()
    if user is None:
        return User.objects.create_user(email, password, is_staff=True, is_superuser=True)
    user.is_staff = user.is_superuser = user.is_active = True
    if not user.check_password(password):
        user.set_password(password)
    user.save()
    return user


def create_operator_key(*, name: str, expires_at: datetime | None = None) -> tuple[OperatorKey, str]:
    """Needs `as_system` around it: the REST API cannot make operators."""
    made = make_key()
    key = OperatorKey.objects.create(name=name, prefix=made.prefix, digest=made.digest, expires_at=expires_at)
    return key, made.text
