"""Where a server is that runs elsewhere: told, changed, taken away. All of it is a change of the Route and holds at once.

Headers say what secrets of the Environment hold; the trail, the answers and the tasks know names only. Another URL or transport is
another server: sessions with the old one are opened anew, and what it speaks is found out again.

DomainError
├── Invalid:   what policies.check_remote refuses · OpenProxy
└── Conflict:  IsHosted
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.utils import timezone

from hosting import policies
from hosting.elsewhere import HeadersUnusable, headers_of
from hosting.models import Environment, Remote
from hosting.operations.rows import check_again, check_elsewhere, lock_environment, refuse_open_proxy
from hosting.signals import tell_environment_changed
from smcp.common import audit
from smcp.common.errors import Invalid, NotFound
from smcp.common.ids import new_id
from smcp.common.tenancy import as_tenant


@dataclass(frozen=True, kw_only=True)
class RemoteWish:
    """Where to, and with which headers: {"name", "prefix", "secret"}."""

    url: str
    transport: str = Remote.Transport.STREAMABLE_HTTP
    headers: Sequence[Mapping[str, str]] = field(default_factory=tuple)
    is_public_confirmed: bool = False


def set_remote(*, tenant_id: str, actor: str, environment_id: str, wish: RemoteWish) -> Remote:
    """Replaces the whole. May be repeated: then the server is only looked at again. Raises NotFound, EnvironmentGone, and the above."""
    with as_tenant(tenant_id):
        environment = lock_environment(tenant_id=tenant_id, environment_id=environment_id)
        return put_remote(environment=environment, actor=actor, wish=wish)


def put_remote(*, environment: Environment, actor: str, wish: RemoteWish) -> Remote:
    """Needs a transaction as the tenant, with the Environment's row held. Raises as `set_remote`."""
    check_elsewhere(environment.server)
    headers = [
        {"name": each["name"], "prefix": each.get("prefix", ""), "secret": each["secret"]}
        for each in wish.headers
    ]
    policies.check_remote(
        url=wish.url, transport=wish.transport, headers=headers, allowed=settings.REMOTE_ALLOW
    )
    refuse_open_proxy(environment.access, headers, is_confirmed=wish.is_public_confirmed)
    mine = Remote.objects.filter(tenant_id=environment.tenant_id, environment=environment)
    before = mine.first()
    wanted: dict[str, Any] = {
        "url": wish.url,
        "transport": wish.transport,
        "headers": headers,
        "is_public_confirmed": wish.is_public_confirmed,
    }
    changed = {key: value for key, value in wanted.items() if before is None or value != getattr(before, key)}
    if changed:
        fields = {
            **changed,
            **_of_another_server(changed, wish),
            "changed_by": actor,
            "changed_at": timezone.now(),
        }
        if before is None:
            Remote.objects.create(tenant_id=environment.tenant_id, environment=environment, **fields)
        else:
            mine.update(**fields)
    remote = mine.get()
    _check_headers(remote)
    if changed:
        shown = {"before": _shown(before) if before else None, "after": _shown(remote)}
        _record(environment, actor, "remote.set", shown)
        tell_environment_changed(environment.tenant_id, environment.id)
    check_again(remote)
    return remote


def clear_remote(*, tenant_id: str, actor: str, environment_id: str) -> None:
    """Its endpoint answers that nothing is there, until it is told another. Raises NotFound, EnvironmentGone, IsHosted."""
    with as_tenant(tenant_id):
        environment = lock_environment(tenant_id=tenant_id, environment_id=environment_id)
        check_elsewhere(environment.server)
        remote = Remote.objects.filter(tenant_id=tenant_id, environment=environment).first()
        if remote is None:
            raise NotFound("remote")
        remote.delete()
        _record(environment, actor, "remote.cleared", {"before": _shown(remote)})
        tell_environment_changed(tenant_id, environment_id)


def reseal() -> int:
    """After the key ring of the gateways got another first key: every Route with headers is sealed anew. Returns how many.

    Needs `as_system()`.
    """
    remotes = list(Remote.objects.exclude(headers=[]).values_list("tenant_id", "environment_id"))
    for tenant_id, environment_id in remotes:
        tell_environment_changed(tenant_id, environment_id)
    return len(remotes)


def _of_another_server(changed: Mapping[str, Any], wish: RemoteWish) -> dict[str, Any]:
    """What is not known of the server at another URL."""
    if not {"url", "transport"} & changed.keys():
        return {}
    eras = ["legacy"] if wish.transport == Remote.Transport.SSE else []
    return {
        "target": new_id(),
        "eras": eras,
        "issues_sessions": True,
        "checked_at": None,
        "check_failure": "",
    }


def _check_headers(remote: Remote) -> None:
    """Raises Invalid."""
    try:
        headers_of(remote)
    except HeadersUnusable as exc:
        fields = {f"headers.{position}.secret": why for position, why in exc.problems.items()}
        raise Invalid(fields=fields) from exc


def _shown(remote: Remote) -> dict[str, Any]:
    """For the trail: no query, since people put keys into it."""
    return {
        "url": remote.url.partition("?")[0],
        "transport": remote.transport,
        "headers": {header["name"]: header["secret"] for header in remote.headers},
        "confirm_public": remote.is_public_confirmed,
    }


def _record(environment: Environment, actor: str, action: str, detail: dict[str, Any]) -> None:
    audit.record(
        tenant_id=environment.tenant_id,
        actor=actor,
        action=action,
        object_kind="environment",
        object_id=environment.id,
        detail=detail,
    )
