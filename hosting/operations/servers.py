"""Servers: made, described, suspended, resumed. Retiring is long work and lives in `deployments`.

DomainError
├── Invalid:   KindNotOffered
└── Conflict:  ServerSlugTaken
"""

from __future__ import annotations

from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import F

from hosting.models import Server
from hosting.operations.environments import place_environment
from hosting.operations.remotes import RemoteWish, put_remote
from hosting.operations.rows import check_slug, lock_server
from hosting.signals import tell_server_changed
from smcp.common import audit
from smcp.common.errors import Conflict, Invalid
from smcp.common.slugs import SERVER_SLUG_MAX
from smcp.common.tenancy import as_tenant

OFFERED: Final = (Server.Kind.WORKER.value, Server.Kind.REMOTE.value)


class KindNotOffered(Invalid):
    code = "server-kind-not-offered"
    title = "This kind of server is not offered"


class ServerSlugTaken(Conflict):
    code = "slug-taken"
    title = "The slug is taken"


def create_server(
    *,
    tenant_id: str,
    actor: str,
    slug: str,
    name: str,
    description: str = "",
    kind: str = Server.Kind.WORKER,
    catalog_slug: str = "",
    remote: RemoteWish | None = None,
) -> Server:
    """With its Environment `production`: placed in an account, or, of a server that runs elsewhere, at `remote`.

    Raises SlugInvalid, KindNotOffered, ServerSlugTaken, NoRoom, Invalid.
    """
    if kind == "stdio":
        raise KindNotOffered(
            "A stdio server needs a machine of its own to start programs on. Servers here speak Streamable HTTP.",
            fields={"kind": "stdio servers cannot be hosted."},
        )
    if kind not in OFFERED:
        raise KindNotOffered(fields={"kind": f"Offered are: {', '.join(OFFERED)}."})
    if remote is not None and kind != Server.Kind.REMOTE:
        raise Invalid(fields={"remote": "Only a server of the kind “remote” runs elsewhere."})
    check_slug(slug, longest=SERVER_SLUG_MAX)
    with as_tenant(tenant_id):
        try:
            with transaction.atomic():
                server = Server.objects.create(
                    tenant_id=tenant_id,
                    slug=slug,
                    name=name,
                    description=description,
                    kind=kind,
                    catalog_slug=catalog_slug,
                    created_by=actor,
                )
        except IntegrityError as exc:
            raise ServerSlugTaken(
                f"The slug “{slug}” is taken; slugs are never given again.", fields={"slug": "Taken."}
            ) from exc
        _record(
            server,
            actor,
            "server.created",
            {"slug": slug, "name": name, "kind": kind, "catalog": catalog_slug},
        )
        production = place_environment(server=server, actor=actor, slug="production")
        if remote is not None:
            put_remote(environment=production, actor=actor, wish=remote)
        return server


def update_server(
    *, tenant_id: str, actor: str, server_id: str, name: str | None = None, description: str | None = None
) -> Server:
    """Raises NotFound, ServerGone."""
    with as_tenant(tenant_id):
        server = lock_server(tenant_id=tenant_id, server_id=server_id)
        changed = {
            key: value
            for key, value in {"name": name, "description": description}.items()
            if value not in {None, getattr(server, key)}
        }
        if changed:
            before = {key: getattr(server, key) for key in changed}
            Server.objects.filter(tenant_id=tenant_id, id=server_id).update(**changed)
            _record(server, actor, "server.updated", {"before": before, "after": changed})
            server.refresh_from_db()
        return server


def suspend_server(*, tenant_id: str, actor: str, server_id: str, reason: str) -> Server:
    """Its endpoints answer 403 with the reason until it is resumed; nothing is deleted. May be repeated."""
    with as_tenant(tenant_id):
        server = lock_server(tenant_id=tenant_id, server_id=server_id)
        if (server.state, server.suspended_reason) != (Server.State.SUSPENDED, reason):
            Server.objects.filter(tenant_id=tenant_id, id=server_id).update(
                state=Server.State.SUSPENDED, suspended_reason=reason, version=F("version") + 1
            )
            _record(server, actor, "server.suspended", {"reason": reason})
            tell_server_changed(tenant_id, server_id)
            server.refresh_from_db()
        return server


def resume_server(*, tenant_id: str, actor: str, server_id: str) -> Server:
    """May be repeated."""
    with as_tenant(tenant_id):
        server = lock_server(tenant_id=tenant_id, server_id=server_id)
        if server.state == Server.State.SUSPENDED:
            Server.objects.filter(tenant_id=tenant_id, id=server_id).update(
                state=Server.State.ACTIVE, suspended_reason="", version=F("version") + 1
            )
            _record(server, actor, "server.resumed", {"reason": server.suspended_reason})
            tell_server_changed(tenant_id, server_id)
            server.refresh_from_db()
        return server


def _record(server: Server, actor: str, action: str, detail: dict[str, Any]) -> None:
    audit.record(
        tenant_id=server.tenant_id,
        actor=actor,
        action=action,
        object_kind="server",
        object_id=server.id,
        detail=detail,
    )
