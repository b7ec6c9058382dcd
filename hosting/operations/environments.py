"""Environments: placed in an account for good, and told their policies.

Access, origins and limits are part of the Route and hold at once. Variables, egress and secrets are part of a Release: they
hold from the next deployment on.

DomainError
├── Conflict:     EnvironmentSlugTaken
└── Unavailable:  NoRoom
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F

from hosting import policies
from hosting.models import Account, Environment, Remote, Server
from hosting.operations.rows import check_slug, lock_environment, lock_server, refuse_open_proxy
from hosting.signals import tell_environment_changed
from smcp.common import audit
from smcp.common.errors import Conflict, Invalid, Unavailable
from smcp.common.slugs import ENVIRONMENT_SLUG_MAX
from smcp.common.tenancy import as_tenant


class EnvironmentSlugTaken(Conflict):
    code = "slug-taken"
    title = "The slug is taken"


class NoRoom(Unavailable):
    code = "no-room"
    title = "No account takes new environments"


def create_environment(
    *, tenant_id: str, actor: str, server_id: str, slug: str, access: Sequence[str] = ("api_key",)
) -> Environment:
    """Raises NotFound, ServerGone, SlugInvalid, EnvironmentSlugTaken, NoRoom, Invalid."""
    check_slug(slug, longest=ENVIRONMENT_SLUG_MAX)
    policies.check_access(access)
    with as_tenant(tenant_id):
        server = lock_server(tenant_id=tenant_id, server_id=server_id)
        return place_environment(server=server, actor=actor, slug=slug, access=access)


def place_environment(
    *, server: Server, actor: str, slug: str, access: Sequence[str] = ("api_key",)
) -> Environment:
    """In an account that takes new ones, if anything of ours will run in it. Needs a transaction as the tenant."""
    account_id = _choose_account() if server.kind == Server.Kind.WORKER else None
    try:
        with transaction.atomic():
            environment = Environment.objects.create(
                tenant_id=server.tenant_id,
                server=server,
                slug=slug,
                account_id=account_id,
                access=list(access),
            )
    except IntegrityError as exc:
        raise EnvironmentSlugTaken(
            f"The slug “{slug}” is taken; slugs are never given again.", fields={"slug": "Taken."}
        ) from exc
    _record(environment, actor, "environment.created", {"server": server.slug, "slug": slug})
    tell_environment_changed(environment.tenant_id, environment.id)
    return environment


def _choose_account() -> str:
    """The sweep closes an account that is full. Raises NoRoom."""
    open_accounts = Account.objects.filter(state=Account.State.OPEN, ready_at__isnull=False)
    account_ids = list(open_accounts.values_list("id", flat=True))
    if not account_ids:
        raise NoRoom("No account takes new environments at the moment.", retry_after_s=60)
    return str(random.choice(account_ids))  # noqa: S311 - spreading, not guessing


def update_environment(
    *,
    tenant_id: str,
    actor: str,
    environment_id: str,
    access: Sequence[str] | None = None,
    allowed_origins: Sequence[str] | None = None,
    egress_allow: Sequence[str] | None = None,
    limits: Mapping[str, Any] | None = None,
    variables: Mapping[str, str] | None = None,
    releases_kept: int | None = None,
    heals_sessions: bool | None = None,
    other_paths: bool | None = None,
    modern_clients: str | None = None,
) -> Environment:
    """What is None stays as it is; what is given replaces the whole. Raises NotFound, EnvironmentGone, Invalid, OpenProxy."""
    wanted: dict[str, Any] = {}
    if access is not None:
        policies.check_access(access)
        wanted["access"] = list(access)
    if allowed_origins is not None:
        policies.check_origins(allowed_origins)
        wanted["allowed_origins"] = list(allowed_origins)
    if egress_allow is not None:
        policies.check_egress(egress_allow)
        wanted["egress_allow"] = list(egress_allow)
    if limits is not None:
        policies.check_limits(limits)
        wanted["limits"] = dict(limits)
    if variables is not None:
        policies.check_variables(variables)
        wanted["variables"] = dict(variables)
    if releases_kept is not None:
        policies.check_releases_kept(releases_kept)
        wanted["releases_kept"] = releases_kept
    if heals_sessions is not None:
        wanted["heals_sessions"] = heals_sessions
    if other_paths is not None:
        wanted["other_paths"] = other_paths
    if modern_clients is not None:
        policies.check_modern_clients(modern_clients)
        wanted["modern_clients"] = modern_clients
    with as_tenant(tenant_id):
        environment = lock_environment(tenant_id=tenant_id, environment_id=environment_id)
        changed = {key: value for key, value in wanted.items() if value != getattr(environment, key)}
        _check_elsewhere(environment, changed)
        if changed:
            before = {key: getattr(environment, key) for key in changed}
            Environment.objects.filter(tenant_id=tenant_id, id=environment_id).update(
                **changed, route_version=F("route_version") + 1
            )
            _record(
                environment,
                actor,
                "environment.updated",
                {"before": _without_values(before), "after": _without_values(changed)},
            )
            tell_environment_changed(tenant_id, environment_id)
            environment.refresh_from_db()
        return environment


def _check_elsewhere(environment: Environment, changed: Mapping[str, Any]) -> None:
    """Raises Invalid for what only code of ours could heed, and OpenProxy."""
    if environment.server.kind == Server.Kind.WORKER:
        return
    if unheeded := sorted({"egress_allow", "variables", "releases_kept"} & changed.keys()):
        raise Invalid(fields=dict.fromkeys(unheeded, "This server runs elsewhere: only hosted code has it."))
    remote = Remote.objects.filter(tenant_id=environment.tenant_id, environment=environment).first()
    if remote is not None and "access" in changed:
        refuse_open_proxy(changed["access"], remote.headers, is_confirmed=remote.is_public_confirmed)


def _without_values(policy: dict[str, Any]) -> dict[str, Any]:
    # People put secrets into variables although there are secrets for them: the trail keeps names only.
    return {key: sorted(value) if key == "variables" else value for key, value in policy.items()}


def _record(environment: Environment, actor: str, action: str, detail: dict[str, Any]) -> None:
    audit.record(
        tenant_id=environment.tenant_id,
        actor=actor,
        action=action,
        object_kind="environment",
        object_id=environment.id,
        detail=detail,
    )
