"""Rows for tests, one function a word of the design. Each makes one thing that holds together, and nothing it was not asked for.

Call them inside `as_system()`. Only what a test is about needs to be given; the rest is sensible and, where it must be,
unique. `at` is when a thing came to be: its id (a ULID) sorts by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.utils import timezone
from ulid import ULID

from hosting.cloudflare.port import ResourceKind
from hosting.models import (
    Account,
    Binding,
    Deployment,
    DeploymentTarget,
    Environment,
    Flip,
    HealthState,
    Incident,
    LatencySample,
    Operation,
    Probe,
    Release,
    Resource,
    Secret,
    Server,
    Step,
    Version,
)
from hosting.models.health import Health
from hosting.operations.deployments import RETIRE_STEPS
from smcp.common.ids import new_id
from smcp.common.sealing import seal
from tenants.keys import make_key
from tenants.models import ApiKey, Member, Tenant, User

#: The steps of a deploy, for tests that only look at them. A retirement's stand in hosting/operations/deployments.py.
DEPLOY_STEPS = (
    "choose_names",
    "ensure_kv_namespaces",
    "ensure_r2_buckets",
    "ensure_d1_databases",
    "upload",
    "probe",
    "publish",
    "drain",
    "remove_releases",
)
BINDINGS = (
    {"name": "NOTES", "type": "kv_namespace"},
    {"name": "FILES", "type": "r2_bucket"},
    {"name": "ROWS", "type": "d1"},
)
PASSWORD = "correct horse battery staple"


def id_at(at: datetime) -> str:
    """A fresh id as it would have been made then."""
    return str(ULID.from_datetime(at.astimezone(UTC))).lower()


# ── Who ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_user(email: str = "", *, is_staff: bool = False, password: str = PASSWORD) -> User:
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


# ── What runs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_account(name: str = "", **fields: Any) -> Account:
    id_ = new_id()
    return Account.objects.create(
        **{
            "id": id_,
            "name": name or f"account-{id_[-8:]}",
            "cloudflare_account_id": ("0" * 32 + id_.encode().hex())[-32:],
            "api_base_url": "http://127.0.0.1:8787/client/v4",
            "token_sealed": seal(b"a-token", context=f"account:{id_}"),
            "dispatch_namespace": "smcp-test",
            "dispatch_url": "http://127.0.0.1:8788",
            "ready_at": timezone.now(),
            **fields,
        }
    )


def make_server(
    tenant: Tenant, slug: str = "", *, name: str = "", at: datetime | None = None, **fields: Any
) -> Server:
    at = at or timezone.now()
    id_ = id_at(at)
    slug = slug or f"s{id_[-12:]}"
    return Server.objects.create(
        id=id_,
        tenant=tenant,
        slug=slug,
        name=name or slug.capitalize(),
        created_at=at,
        **{"created_by": "system", **fields},
    )


def make_environment(
    server: Server,
    account: Account,
    slug: str = "production",
    *,
    access: Sequence[str] = (Environment.Access.API_KEY,),
    **fields: Any,
) -> Environment:
    return Environment.objects.create(
        tenant_id=server.tenant_id, server=server, account=account, slug=slug, access=list(access), **fields
    )


def make_version(
    server: Server,
    *,
    number: int = 0,
    message: str = "",
    at: datetime | None = None,
    bindings: Sequence[Mapping[str, Any]] = BINDINGS,
    **fields: Any,
) -> Version:
    at = at or timezone.now()
    number = number or server.versions.count() + 1
    digest = f"{number:02x}{new_id().encode().hex()}"[:64].ljust(64, "0")
    return Version.objects.create(
        id=id_at(at),
        tenant_id=server.tenant_id,
        server=server,
        number=number,
        created_at=at,
        **{
            "digest": digest,
            "main_module": "worker.js",
            "modules": [
                {
                    "name": "worker.js",
                    "content_type": "application/javascript+module",
                    "digest": digest,
                    "size": 262_144,
                }
            ],
            "compatibility_date": date(2026, 11, 1),
            "bindings": [dict(b) for b in bindings],
            "annotations": {"message": message} if message else {},
            "handlers": ["fetch"],
            "size_bytes": 262_144,
            "created_by": "system",
            **fields,
        },
    )


def make_release(
    environment: Environment,
    version: Version,
    *,
    state: str = Release.State.VERIFIED,
    at: datetime | None = None,
    **fields: Any,
) -> Release:
    at = at or timezone.now()
    id_ = id_at(at)
    return Release.objects.create(
        id=id_,
        tenant_id=environment.tenant_id,
        environment=environment,
        version=version,
        number=environment.releases.count() + 1,
        state=state,
        script_name=f"smcp-test-{id_}",
        created_at=at,
        **{"eras": ["legacy", "modern"], **fields},
    )


def make_deployment(
    environment: Environment,
    targets: Sequence[tuple[Release, float]],
    *,
    is_active: bool = True,
    at: datetime | None = None,
    operation: Operation | None = None,
    created_by: str = "system",
) -> Deployment:
    """An active one takes over from the one before."""
    at = at or timezone.now()
    if is_active:
        environment.deployments.filter(is_active=True).update(is_active=False)
    deployment = Deployment.objects.create(
        id=id_at(at),
        tenant_id=environment.tenant_id,
        environment=environment,
        number=environment.deployments.count() + 1,
        is_active=is_active,
        operation_id=operation.id if operation else id_at(at),
        created_by=created_by,
        created_at=at,
    )
    for release, percentage in targets:
        DeploymentTarget.objects.create(
            tenant_id=environment.tenant_id, deployment=deployment, release=release, percentage=percentage
        )
    return deployment


def make_resource(
    environment: Environment, kind: ResourceKind, *, state: str = Resource.State.LIVE, **fields: Any
) -> Resource:
    id_ = new_id()
    name = f"smcp-test-{id_}"
    own_id = kind in {ResourceKind.SCRIPT, ResourceKind.R2_BUCKET}
    return Resource.objects.create(
        id=id_,
        tenant_id=environment.tenant_id,
        environment=environment,
        account=environment.account,
        kind=kind.value,
        name=name,
        state=state,
        **{"cloudflare_id": name if own_id else id_[::-1], **fields},
    )


def make_binding(environment: Environment, name: str, resource: Resource) -> Binding:
    return Binding.objects.create(
        tenant_id=environment.tenant_id,
        environment=environment,
        name=name,
        kind=resource.kind,
        resource=resource,
    )


def make_secret(environment: Environment, name: str, *, revision: int = 1, **fields: Any) -> Secret:
    sealed = seal(b"a-secret", context=f"secret:{environment.tenant_id}:{environment.id}:{name}")
    return Secret.objects.create(
        tenant_id=environment.tenant_id,
        environment=environment,
        name=name,
        revision=revision,
        sealed=sealed,
        **{"created_by": "system", **fields},
    )


# ── What happens ─────────────────────────────────────────────────────────────────────────────────────────────────────


def make_operation(
    environment: Environment,
    *,
    kind: str = Operation.Kind.DEPLOY,
    state: str = Operation.State.SUCCEEDED,
    step_names: Sequence[str] = (),
    at_step: int = 2,
    error: str = "",
    version: Version | None = None,
    at: datetime | None = None,
    step_s: float = 0.8,
    requested_by: str = "system",
) -> Operation:
    """An Operation in any state, with its Steps as they would stand then.

    `at_step`: the step that runs, failed, or is being undone; the ones before it are done. `error`: the failed step's message.
    """
    names = step_names or (DEPLOY_STEPS if kind == Operation.Kind.DEPLOY else RETIRE_STEPS)
    at = at or timezone.now()
    is_over = state in {Operation.State.SUCCEEDED, Operation.State.FAILED}
    reached = len(names) if state == Operation.State.SUCCEEDED else at_step
    operation = Operation.objects.create(
        id=id_at(at),
        tenant_id=environment.tenant_id,
        server=environment.server,
        environment=environment,
        kind=kind,
        state=state,
        input={"targets": [{"version": version.id, "number": version.number, "percentage": "100"}]}
        if version
        else {},
        error={"code": "upstream", "message": error, "step": names[at_step]} if error else None,
        requested_by=requested_by,
        created_at=at,
        finished_at=at + timedelta(seconds=step_s * (reached + 1)) if is_over else None,
    )
    for position, name in enumerate(names):
        step_state, message = _step_state(state, position, reached, error)
        has_started = step_state != Step.State.PENDING
        has_finished = step_state not in {Step.State.PENDING, Step.State.STARTED, Step.State.UNDOING}
        started_at = at + timedelta(seconds=step_s * position)
        Step.objects.create(
            tenant_id=environment.tenant_id,
            operation=operation,
            position=position,
            name=name,
            state=step_state,
            attempts=(3 if message else 1) if has_started else 0,
            message=message,
            started_at=started_at if has_started else None,
            finished_at=started_at + timedelta(seconds=step_s) if has_finished else None,
        )
    return operation


def _step_state(state: str, position: int, reached: int, error: str) -> tuple[str, str]:
    if state == Operation.State.PENDING:
        return Step.State.PENDING, ""
    if position > reached:
        return Step.State.PENDING, ""
    if state == Operation.State.FAILED:
        return Step.State.UNDONE, error if position == reached else ""
    if state == Operation.State.UNWINDING:
        if position == reached:
            return Step.State.UNDONE, error
        return (Step.State.UNDOING if position == reached - 1 else Step.State.DONE), ""
    if position == reached:
        return Step.State.STARTED, ""
    return Step.State.DONE, ""


def make_health(
    environment: Environment, state: str = Health.HEALTHY, *, since: datetime | None = None, **fields: Any
) -> HealthState:
    now = timezone.now()
    return HealthState.objects.create(
        tenant_id=environment.tenant_id,
        environment=environment,
        state=state,
        since=since or now - timedelta(hours=5),
        **{
            "last_seen_at": None if state == Health.UNKNOWN else now - timedelta(seconds=20),
            "last_latency_ms": None if state == Health.UNKNOWN else 42.0,
            "last_failure": "timeout" if state == Health.UNHEALTHY else "",
            "failures_in_a_row": 7 if state == Health.UNHEALTHY else 0,
            "next_probe_at": now + timedelta(seconds=40),
            **fields,
        },
    )


def make_flip(environment: Environment, old: str, new: str, *, at: datetime, reason: str = "") -> Flip:
    return Flip.objects.create(
        id=id_at(at),
        tenant_id=environment.tenant_id,
        environment=environment,
        at=at,
        old=old,
        new=new,
        reason=reason,
    )


def make_incident(
    environment: Environment,
    *,
    started_at: datetime,
    ended_at: datetime | None = None,
    reason: str = "timeout",
) -> Incident:
    return Incident.objects.create(
        id=id_at(started_at),
        tenant_id=environment.tenant_id,
        environment=environment,
        started_at=started_at,
        ended_at=ended_at,
        reason=reason,
    )


def make_probe(
    environment: Environment,
    *,
    at: datetime,
    latency_ms: float = 40.0,
    failure: str = "",
    era: str = "modern",
) -> Probe:
    return Probe.objects.create(
        id=id_at(at),
        tenant_id=environment.tenant_id,
        environment=environment,
        at=at,
        is_ok=not failure,
        latency_ms=latency_ms,
        era=era,
        failure=failure,
    )


def make_latencies(
    environment: Environment,
    *,
    hours: int = 24,
    every_minutes: int = 5,
    mean_ms: float = 45.0,
    requests: int = 60,
    outage: tuple[int, int] | None = None,
    now: datetime | None = None,
) -> list[LatencySample]:
    """A history with the shape of a day, the same each time. `outage`: (from, to) in minutes before now, when all fails."""
    end = (now or timezone.now()).replace(second=0, microsecond=0)
    samples = []
    for back in range(0, hours * 60, every_minutes):
        at = end - timedelta(minutes=back)
        day = (at.hour * 60 + at.minute) / 1440
        wave = 1 + 0.35 * math.sin(2 * math.pi * (day - 0.3)) + 0.12 * math.sin(back * 0.37)
        asked = max(1, round(requests * (0.5 + 0.5 * wave)))
        failed = asked if outage and outage[1] <= back <= outage[0] else 0
        latency = mean_ms * wave * (4 if failed else 1)
        samples.append(
            LatencySample(
                tenant_id=environment.tenant_id,
                environment=environment,
                minute=at,
                source="traffic",
                requests=asked,
                failures=failed,
                latency_ms_sum=latency * asked,
                latency_ms_max=latency * 2.4,
            )
        )
    return LatencySample.objects.bulk_create(samples)
