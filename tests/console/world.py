"""A platform with a life: tenants, servers in every state, operations of every kind, a day of health.

For the browser tests, and for looking at the console (`python -m tests.console`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone

from hosting.cloudflare.port import ResourceKind
from hosting.models import Account, Environment, Operation, Server, Session, UnlistedSessions, Version
from smcp.common import audit
from tenants.models import ApiKey, Tenant, User
from tests import factories as make


@dataclass(frozen=True, kw_only=True)
class World:
    """What tests want to point at."""

    operator: User
    tenant: Tenant
    server: Server
    environment: Environment
    version: Version
    session: Session  # the last used of its Environment
    running: Operation
    failed: Operation
    account: Account
    retired: Server  # with a retired environment, which was healthy to the end


def build_world(operator: User, *, prefix: str = "") -> World:
    """Needs `as_system()` around it. `prefix` keeps slugs of several worlds apart."""
    now = timezone.now()
    actor = f"user:{operator.id}"
    account = make.make_account(f"{prefix}main", capacity=40)
    acme = make.make_tenant(f"{prefix}acme", name="Acme Corporation", at=now - timedelta(days=80))
    nova = make.make_tenant(f"{prefix}nova-labs", name="Nova Labs", at=now - timedelta(days=31))
    late = make.make_tenant(
        f"{prefix}latecomer",
        name="Latecomer Ltd",
        at=now - timedelta(days=400),
        state=Tenant.State.SUSPENDED,
        suspended_reason="The invoice of October is unpaid",
        suspended_at=now - timedelta(days=2),
    )
    make.make_member(acme, make.make_user(f"{prefix}ada@example.com", password=None), "owner")
    make.make_member(acme, make.make_user(f"{prefix}grace@example.com", password=None), "developer")
    laptop, _ = make.make_api_key(
        acme, name="Claude on Ada's laptop", created_by=actor, last_used_at=now - timedelta(minutes=4)
    )
    make.make_api_key(
        acme, name="Deploys from CI", scopes=[ApiKey.Scope.API_WRITE], expires_at=now + timedelta(days=60)
    )
    make.make_api_key(acme, name="Trial", expires_at=now - timedelta(days=3))
    make.make_api_key(acme, name="Lost notebook", revoked_at=now - timedelta(days=9))

    server = make.make_server(
        acme,
        "calculator",
        name="Calculator",
        description="Adds, multiplies and keeps notes.",
        catalog_slug="starter",
        at=now - timedelta(days=40),
        created_by=actor,
    )
    production = make.make_environment(
        server, account, variables={"LOG_LEVEL": "info"}, allowed_origins=["https://app.acme.example"]
    )
    versions = [
        make.make_version(server, message=message, at=now - timedelta(days=days), created_by=actor)
        for message, days in (("First upload", 40), ("Faster notes", 12), ("Read files by prefix", 1))
    ]
    releases = [
        make.make_release(
            production,
            version,
            at=version.created_at + timedelta(minutes=3),
            state="removed" if version.number == 1 else "verified",
        )
        for version in versions
    ]
    for release in releases[:2]:
        make.make_deployment(production, [(release, 100)], at=release.created_at, created_by=actor)
    make.make_deployment(
        production, [(releases[2], 90), (releases[1], 10)], at=releases[2].created_at, created_by=actor
    )
    for binding, kind in zip(
        make.BINDINGS,
        (ResourceKind.KV_NAMESPACE, ResourceKind.R2_BUCKET, ResourceKind.D1_DATABASE),
        strict=True,
    ):
        make.make_binding(production, binding["name"], make.make_resource(production, kind))
    make.make_resource(production, ResourceKind.SCRIPT)
    make.make_resource(production, ResourceKind.SCRIPT, state="deleted", deleted_at=now)
    make.make_secret(production, "STRIPE_KEY", revision=3, created_by=actor)
    make.make_secret(production, "WEBHOOK_SECRET")
    make.make_health(production)
    make.make_latencies(production, hours=24 * 7, every_minutes=10, outage=(9 * 60, 8 * 60 + 30))
    make.make_flip(production, "unknown", "healthy", at=now - timedelta(days=40), reason="answers")
    make.make_flip(production, "healthy", "unhealthy", at=now - timedelta(hours=9), reason="timeout")
    make.make_flip(
        production, "unhealthy", "healthy", at=now - timedelta(hours=8, minutes=30), reason="answers"
    )
    make.make_incident(
        production, started_at=now - timedelta(hours=9), ended_at=now - timedelta(hours=8, minutes=30)
    )
    for n in range(6):
        make.make_probe(
            production, at=now - timedelta(hours=8, minutes=50 - n), failure="timeout" if n < 3 else ""
        )
    session = make.make_session(
        production,
        principal=f"key:{laptop.id}",
        client_name="claude-ai",
        client_version="0.1.0",
        at=now - timedelta(hours=3),
        last_active_at=now - timedelta(minutes=1),
    )
    for n, (name, numbered) in enumerate((("mcp-inspector", "0.17.2"), ("x" * 100, "y" * 100), ("", ""))):
        make.make_session(
            production,
            principal=f"key:{laptop.id}" if n else "public",
            client_name=name,
            client_version=numbered,
            at=now - timedelta(days=n + 1),
            last_active_at=now - timedelta(minutes=5 + n),
        )
    make.make_session(production, state="ended", ended_at=now, ended_by=actor)
    make.make_session(production, state="expired", ended_at=now, client_name="<b>bold</b>")
    UnlistedSessions.objects.create(tenant=acme, environment=production, count=12_345, last_at=now)
    preview = make.make_environment(server, account, "preview", state="retired")
    make.make_health(preview)
    staging = make.make_environment(server, account, "staging", access=["public"])
    unusable = make.make_release(
        staging, versions[1], at=now - timedelta(hours=7), state="removed", removed_at=now
    )
    staged = make.make_release(staging, versions[2], at=now - timedelta(hours=6))
    make.make_deployment(staging, [(staged, 100)], at=now - timedelta(hours=6))
    make.make_health(staging, "slow", last_latency_ms=2310.0)
    make.make_latencies(staging, mean_ms=1400, requests=3, every_minutes=15)

    for slug, name, state in (
        ("search", "Document search", "healthy"),
        ("billing", "Billing", "unhealthy"),
        ("weather", "Weather", "healthy"),
    ):
        other = make.make_server(nova, slug, name=name, at=now - timedelta(days=20), catalog_slug="starter")
        where = make.make_environment(other, account)
        version = make.make_version(other, message="From the catalog", at=now - timedelta(days=20))
        release = make.make_release(where, version, at=now - timedelta(days=20))
        make.make_deployment(where, [(release, 100)], at=now - timedelta(days=20))
        make.make_health(where, state, since=now - timedelta(minutes=18))
        make.make_latencies(where, mean_ms=70, requests=25, outage=(18, 0) if state == "unhealthy" else None)
        make.make_operation(where, version=version, at=now - timedelta(hours=20), requested_by=actor)
        if state == "unhealthy":
            make.make_flip(
                where, "healthy", "unhealthy", at=now - timedelta(minutes=18), reason="upstream_error"
            )
            make.make_incident(where, started_at=now - timedelta(minutes=18), reason="upstream_error")
    retired = make.make_server(
        acme, "forecast", name="Forecast", state="retired", at=now - timedelta(days=30), created_by=actor
    )
    make.make_health(make.make_environment(retired, account, state="retired"))
    paused = make.make_server(
        late, "archive", name="Archive", state="suspended", suspended_reason="Under review"
    )
    paused_at = make.make_environment(paused, account)
    make.make_health(paused_at, "unknown")

    make.make_operation(production, version=versions[2], at=now - timedelta(days=1), requested_by=actor)
    failed = make.make_operation(
        staging,
        state=Operation.State.FAILED,
        version=versions[2],
        at=now - timedelta(minutes=52),
        at_step=5,
        error="The probe of this release was not answered within 30 s: the Worker threw “ROWS is not defined <b>here</b>”.",
        requested_by=actor,
    )
    running = make.make_operation(
        production,
        state=Operation.State.RUNNING,
        version=versions[2],
        at=now - timedelta(seconds=5),
        at_step=5,
        requested_by=actor,
    )
    make.make_operation(
        paused_at,
        kind="retire",
        state=Operation.State.UNWINDING,
        at=now - timedelta(seconds=40),
        error="Cloudflare answered 500 three times.",
        at_step=4,
    )
    for tenant, action, subject, id_, detail in (
        (acme, "server.created", "server", server.id, {"slug": "calculator", "catalog": "starter"}),
        (acme, "version.uploaded", "version", versions[2].id, {"number": 3}),
        (late, "tenant.suspended", "tenant", late.id, {"reason": late.suspended_reason}),
        (
            acme,
            "operation.deploy_requested",
            "operation",
            running.id,
            {
                "server": server.id,
                "environment": production.id,
                "targets": [{"version": versions[2].id, "number": 3, "percentage": "100"}],
            },
        ),
        (
            acme,
            "deployment.activated",
            "deployment",
            running.id,
            {
                "environment": None,
                "releases": [
                    {"id": unusable.id, "is_new": True, "percentage": "90"},
                    {"id": releases[1].id, "is_new": False, "percentage": "10"},
                ],
            },
        ),
        (
            acme,
            "environment.updated",
            "environment",
            production.id,
            {
                "before": {"access": ["api_key"], "egress_allow": []},
                "after": {"access": ["api_key", "public"], "egress_allow": ["api.example.com:443"]},
            },
        ),
    ):
        audit.record(
            tenant_id=tenant.id, actor=actor, action=action, object_kind=subject, object_id=id_, detail=detail
        )
    return World(
        operator=operator,
        tenant=acme,
        server=server,
        environment=production,
        version=versions[2],
        session=session,
        running=running,
        failed=failed,
        account=account,
        retired=retired,
    )
