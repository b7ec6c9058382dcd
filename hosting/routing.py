"""Database → facts → Redis: what the data plane knows comes from here, and from nowhere else.

Whoever changes something that the data plane must know raises its version in the same transaction (an Environment's
`route_version`, the `version` of a tenant, Server or key) and tells the signals, so that it is published right after the commit. If that does not happen (a crash between the two, Redis away), the
sweep `republish` finds that Redis holds an older version than the database, or none, and publishes it. It compares version
numbers only: ten thousand Environments cost one query and a few HMGETs.

Redis emptied: the sweep finds no epoch, publishes everything, and then names a new epoch, which tells every node to read
everything again. Redis ahead of the database (restored from a backup): the rows get versions above what Redis holds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, cast

import redis
from django.conf import settings
from django.db.models import Q, QuerySet

from hosting import names
from hosting.dataplane.contract import (
    CHANGES_KEPT,
    PUBLISH_LUA,
    AnyFact,
    Credential,
    Dispatch,
    Era,
    Keys,
    Limits,
    Route,
    Suspension,
    Target,
    encode,
)
from hosting.dataplane.contract import Remote as RemoteFact
from hosting.dataplane.remotes import RemoteHeaders, seal_headers
from hosting.elsewhere import HeadersUnusable, headers_of, secrets_of
from hosting.models import DeploymentTarget, Environment, Remote, Server, Session
from hosting.revocations import compose_revocations, compose_standing
from smcp.common.ids import new_id
from smcp.common.tenancy import as_system, as_tenant
from tenants.models import ApiKey, Tenant

logger = logging.getLogger(__name__)
BATCH: Final = 500
REDIS_TIMEOUT_S: Final = 3.0
GONE_SERVERS: Final = (Server.State.RETIRING, Server.State.RETIRED)


class NoRouteKeys(Exception):
    """Headers of servers elsewhere cannot be sealed here."""


# ── Publishing what changed ──────────────────────────────────────────────────────────────────────────────────────────


def publish_environments(*, tenant_id: str, environment_ids: Sequence[str]) -> None:
    """Their Routes as the database has them now. Raises redis.RedisError."""
    with as_tenant(tenant_id):
        facts = compose_routes(Environment.objects.filter(tenant_id=tenant_id, id__in=environment_ids))
    publish(facts)


def publish_server(*, tenant_id: str, server_id: str) -> None:
    """Whether the Server is suspended. Raises redis.RedisError."""
    with as_tenant(tenant_id):
        facts = compose_server_suspensions(Server.objects.filter(tenant_id=tenant_id, id=server_id))
    publish(facts)


def publish_tenant(*, tenant_id: str) -> None:
    """Whether the tenant is suspended. Raises redis.RedisError."""
    with as_tenant(tenant_id):
        facts = compose_tenant_suspensions(Tenant.objects.filter(id=tenant_id))
    publish(facts)


def publish_api_key(*, tenant_id: str, api_key_id: str) -> None:
    """The key as a Credential, or that it is no more. Raises redis.RedisError."""
    with as_tenant(tenant_id):
        facts = compose_credentials(ApiKey.objects.filter(tenant_id=tenant_id, id=api_key_id))
    publish(facts)


def publish_revocations(*, tenant_id: str, session_ids: Sequence[str]) -> None:
    """That these sessions have ended. Raises redis.RedisError."""
    for ids in _batches(session_ids, BATCH):
        with as_tenant(tenant_id):
            facts = compose_revocations(Session.objects.filter(tenant_id=tenant_id, id__in=ids))
        publish(facts)


def publish(facts: Iterable[AnyFact]) -> int:
    """Returns how many were news. Older ones than the data plane has change nothing. Raises redis.RedisError."""
    keys = Keys(installation=settings.INSTALLATION)
    news = 0
    for batch in _batches(list(facts), BATCH):
        arguments: list[Any] = [CHANGES_KEPT]
        for fact in batch:
            arguments += [fact.key, fact.version, "1" if fact.is_gone else "0", encode(fact)]
        news += cast(int, connection().eval(PUBLISH_LUA, 2, keys.facts, keys.changes, *arguments))
    return news


@cache
def connection() -> redis.Redis:
    """The data plane's Redis."""
    return redis.Redis.from_url(
        settings.DATAPLANE_REDIS_URL,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
    )


# ── Composing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def compose_routes(environments: QuerySet[Environment]) -> list[Route]:
    """Call inside `as_tenant` or `as_system`. Reads no column the REST API's role may not read."""
    rows = list(
        environments.order_by().values(
            "id",
            "tenant_id",
            "route_version",
            "slug",
            "state",
            "access",
            "allowed_origins",
            "heals_sessions",
            "other_paths",
            "sessions_after",
            "modern_clients",
            "limits",
            "tenant__slug",
            "server__slug",
            "server__state",
            "account__dispatch_url",
            "account__dispatch_host",
            "account__cloudflare_account_id",
        )
    )
    ids = [row["id"] for row in rows]
    targets = {**_active_targets(ids), **_targets_elsewhere(ids)}
    return [_route(row, targets.get(row["id"], ())) for row in rows]


def _route(row: Mapping[str, Any], targets: Sequence[Target]) -> Route:
    if row["state"] != Environment.State.ACTIVE or row["server__state"] in GONE_SERVERS:
        return Route(
            tenant=row["tenant_id"],
            version=row["route_version"],
            is_gone=True,
            environment=row["id"],
            tenant_slug=row["tenant__slug"],
            server_slug=row["server__slug"],
            environment_slug=row["slug"],
        )
    return Route(
        tenant=row["tenant_id"],
        version=row["route_version"],
        environment=row["id"],
        tenant_slug=row["tenant__slug"],
        server_slug=row["server__slug"],
        environment_slug=row["slug"],
        targets=tuple(targets),
        dispatch=_dispatch(row),
        access=tuple(row["access"]) or ("api_key",),
        limits=Limits(**{key: value for key, value in row["limits"].items() if key in LIMITS}),
        allowed_origins=tuple(row["allowed_origins"]),
        heals=row["heals_sessions"],
        other_paths=row["other_paths"],
        sessions_after=row["sessions_after"],
        modern_clients=row["modern_clients"],
    )


LIMITS: Final = frozenset(Limits.__struct_fields__)


def _dispatch(row: Mapping[str, Any]) -> Dispatch | None:
    """None where nothing of ours runs."""
    if row["account__cloudflare_account_id"] is None:
        return None
    return Dispatch(
        url=row["account__dispatch_url"],
        host=row["account__dispatch_host"],
        audience=names.audience(row["account__cloudflare_account_id"]),
    )


def _targets_elsewhere(environment_ids: Sequence[str]) -> dict[str, list[Target]]:
    """One for each server that runs elsewhere. One whose headers cannot be told gets no traffic: without them it is another's."""
    rows = list(Remote.objects.filter(environment_id__in=environment_ids))
    secrets = secrets_of(rows)
    found: dict[str, list[Target]] = {}
    for row in rows:
        try:
            headers = headers_of(row, secrets[row.environment_id])
            sealed = _sealed(row, headers)
        except (HeadersUnusable, NoRouteKeys) as exc:
            logger.error("routing.remote.unusable environment=%s error=%s", row.environment_id, exc)
            continue
        target = Target(
            release=row.target,
            weight=10_000,
            eras=cast("tuple[Era, ...]", tuple(row.eras)) or ("legacy", "modern"),
            issues_sessions=row.issues_sessions,
            remote=RemoteFact(url=row.url, transport=cast("Any", row.transport), headers=sealed),
        )
        found[row.environment_id] = [target]
    return found


def _sealed(row: Remote, headers: RemoteHeaders) -> str:
    """Raises NoRouteKeys."""
    if not headers:
        return ""
    if not settings.ROUTE_KEYS:
        raise NoRouteKeys("this process has no SMCP_ROUTE_KEYS")
    return seal_headers(
        headers, ring=settings.ROUTE_KEYS, tenant=row.tenant_id, environment=row.environment_id, url=row.url
    )


def _active_targets(environment_ids: Sequence[str]) -> dict[str, list[Target]]:
    found: dict[str, list[Target]] = {}
    rows = (
        DeploymentTarget.objects.filter(
            deployment__environment_id__in=environment_ids, deployment__is_active=True
        )
        .order_by("-percentage", "id")
        .values(
            "deployment__environment_id",
            "percentage",
            "release_id",
            "release__script_name",
            "release__eras",
            "release__issues_sessions",
            "release__mcp_path",
            "release__egress_allow",
        )
    )
    for row in rows:
        target = Target(
            script=row["release__script_name"],
            release=row["release_id"],
            weight=int(row["percentage"] * 100),
            eras=cast("tuple[Era, ...]", tuple(row["release__eras"])) or ("legacy", "modern"),
            issues_sessions=row["release__issues_sessions"],
            path=row["release__mcp_path"],
            egress=tuple(row["release__egress_allow"]),
        )
        found.setdefault(row["deployment__environment_id"], []).append(target)
    return found


def compose_credentials(api_keys: QuerySet[ApiKey]) -> list[Credential]:
    """Keys that may call MCP servers; others are none of the data plane's business."""
    rows = api_keys.filter(scopes__contains=[ApiKey.Scope.MCP_CALL]).order_by()
    return [
        Credential(
            tenant=key.tenant_id,
            version=key.version,
            is_gone=key.revoked_at is not None,
            id=key.id,
            digest=key.digest,
            scopes=tuple(key.scopes),
            environments=tuple(key.environments),
            expires_at=key.expires_at.timestamp() if key.expires_at else None,
        )
        for key in rows
    ]


def compose_tenant_suspensions(tenants: QuerySet[Tenant]) -> list[Suspension]:
    return [
        Suspension(
            tenant=row.id,
            version=row.version,
            is_gone=row.state != Tenant.State.SUSPENDED,
            reason=row.suspended_reason,
        )
        for row in tenants.only("id", "version", "state", "suspended_reason").order_by()
    ]


def compose_server_suspensions(servers: QuerySet[Server]) -> list[Suspension]:
    rows = servers.only("id", "tenant_id", "slug", "version", "state", "suspended_reason").order_by()
    return [
        Suspension(
            tenant=row.tenant_id,
            version=row.version,
            is_gone=row.state != Server.State.SUSPENDED,
            server_slug=row.slug,
            reason=row.suspended_reason,
        )
        for row in rows
    ]


# ── The sweep ────────────────────────────────────────────────────────────────────────────────────────────────────────


def republish() -> int:
    """Publishes what Redis does not hold in the version the database has. Runs as the system.

    Returns how many facts were news. Raises redis.RedisError.
    """
    keys = Keys(installation=settings.INSTALLATION)
    epoch = connection().get(keys.epoch)
    news = _sweep_environments() + _sweep_credentials() + _sweep_suspensions() + _sweep_revocations()
    if epoch is None:
        # Only now is the hash complete; whoever reads it after this misses nothing.
        connection().set(keys.epoch, new_id(), nx=True)
        logger.info("routing.epoch.begun facts=%s", news)
    elif news:
        logger.info("routing.republished facts=%s", news)
    return news


def _sweep_environments() -> int:
    news = 0
    with as_system():
        rows = Environment.objects.order_by("id").values_list("id", "route_version", "state")
        behind: list[str] = []
        for batch in _batches(list(rows), BATCH * 10):
            held = _held_versions(f"route/{row[0]}" for row in batch)
            for (environment_id, version, state), at in zip(batch, held, strict=True):
                is_news = at is None and state != Environment.State.RETIRED
                if at is not None and at > version:
                    _overtake(environment_id, version, at)
                if is_news or (at is not None and at != version):
                    behind.append(environment_id)
        for batch_of_ids in _batches(behind, BATCH):
            news += publish(compose_routes(Environment.objects.filter(id__in=batch_of_ids)))
    return news


def _overtake(environment_id: str, seen: int, held: int) -> None:
    """Redis knows a later version than this database ever gave: go on above it."""
    Environment.objects.filter(id=environment_id, route_version=seen).update(route_version=held + 1)


def _sweep_credentials() -> int:
    with as_system():
        rows = list(
            ApiKey.objects.filter(scopes__contains=[ApiKey.Scope.MCP_CALL])
            .order_by("id")
            .values_list("tenant_id", "id", "version", "revoked_at")
        )
        behind = []
        for batch in _batches(rows, BATCH * 10):
            held = _held_versions(f"credential/{row[0]}/{row[1]}" for row in batch)
            for (_, key_id, version, revoked_at), at in zip(batch, held, strict=True):
                if (at is None and revoked_at is None) or (at is not None and at < version):
                    behind.append(key_id)
        return sum(
            publish(compose_credentials(ApiKey.objects.filter(id__in=ids))) for ids in _batches(behind, BATCH)
        )


def _sweep_suspensions() -> int:
    """Only what is, or ever was, suspended has a fact; a row's first version was never suspended."""
    with as_system():
        facts: list[Suspension] = [
            *compose_tenant_suspensions(
                Tenant.objects.filter(Q(version__gt=1) | Q(state=Tenant.State.SUSPENDED))
            ),
            *compose_server_suspensions(
                Server.objects.filter(Q(version__gt=1) | Q(state=Server.State.SUSPENDED))
            ),
        ]
    held = _held_versions(fact.key for fact in facts)
    return publish(
        fact
        for fact, at in zip(facts, held, strict=True)
        if (at is None and not fact.is_gone) or (at is not None and at < fact.version)
    )


def _sweep_revocations() -> int:
    with as_system():
        facts = compose_standing()
    held = _held_versions(fact.key for fact in facts)
    return publish(fact for fact, at in zip(facts, held, strict=True) if at is None)


def _held_versions(fact_keys: Iterable[str]) -> Iterator[int | None]:
    """What Redis holds of each; None: nothing."""
    fields = [f"{key}#v" for key in fact_keys]
    facts = Keys(installation=settings.INSTALLATION).facts
    for batch in _batches(fields, BATCH * 10):
        for held in cast("list[bytes | None]", connection().hmget(facts, batch)):
            yield None if held is None else int(held)


def _batches(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


# ── Listening ────────────────────────────────────────────────────────────────────────────────────────────────────────


def publish_or_leave(what: str, publishing: Any, **ids: Any) -> None:
    """Publishes at once; with Redis away the sweep does it later."""
    try:
        publishing(**ids)
    except redis.RedisError as exc:
        logger.warning("routing.publish.put_off what=%s error=%s", what, type(exc).__name__)


def on_tenant_changed(*, tenant_id: str, **_: Any) -> None:
    publish_or_leave("tenant", publish_tenant, tenant_id=tenant_id)


def on_api_key_changed(*, tenant_id: str, api_key_id: str, **_: Any) -> None:
    publish_or_leave("api_key", publish_api_key, tenant_id=tenant_id, api_key_id=api_key_id)


def on_server_changed(*, tenant_id: str, server_id: str, **_: Any) -> None:
    publish_or_leave("server", publish_server, tenant_id=tenant_id, server_id=server_id)


def on_sessions_ended(*, tenant_id: str, session_ids: Sequence[str], **_: Any) -> None:
    publish_or_leave("sessions", publish_revocations, tenant_id=tenant_id, session_ids=session_ids)


def on_environment_changed(*, tenant_id: str, environment_id: str, **_: Any) -> None:
    publish_or_leave(
        "environment", publish_environments, tenant_id=tenant_id, environment_ids=[environment_id]
    )
