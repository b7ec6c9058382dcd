"""One Environment: what serves, what was released before, what it owns, and how it is doing."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from hosting.cloudflare.port import ResourceKind
from hosting.dataplane.contract import Limits
from hosting.models import (
    UNFINISHED,
    Deployment,
    DeploymentTarget,
    Environment,
    Operation,
    Release,
    Server,
)
from hosting.queries.servers import find_remote
from smcp.console import charts
from smcp.console.pages import history, sessions
from smcp.console.pages.endpoints import describe_endpoint
from smcp.console.pages.health import health_of
from smcp.console.pages.people import describe

#: What the chart may show: name in the address → (hours, buckets, words).
RANGES = {
    "3h": (3, 90, "3 hours"),
    "24h": (24, 96, "24 hours"),
    "7d": (168, 84, "7 days"),
    "30d": (720, 90, "30 days"),
}


def context(environment: Environment, *, shown_range: str = "24h") -> dict[str, Any]:
    shown_range = shown_range if shown_range in RANGES else "24h"
    hours, count, words = RANGES[shown_range]
    samples = environment.latencies.filter(tenant_id=environment.tenant_id)
    buckets = history.buckets(samples, hours=hours, count=count)
    requests = sum(b.requests for b in buckets)
    failures = sum(b.failures for b in buckets)
    spent = sum((b.mean_ms or 0.0) * b.requests for b in buckets)
    deployments = list(
        environment.deployments.prefetch_related("targets__release__version").order_by("-number")[:10]
    )
    active = next((d for d in deployments if d.is_active), None) or _active(environment)
    serving = {t.release_id: t.percentage for t in active.targets.all()} if active else {}
    served = set(
        DeploymentTarget.objects.filter(
            tenant_id=environment.tenant_id, deployment__environment=environment
        ).values_list("release_id", flat=True)
    )
    health = health_of(environment)
    newest = {t.release.number for t in active.targets.all()} if active else set()
    releases = list(environment.releases.select_related("version")[:20])
    secrets = list(environment.secrets.filter(is_current=True))
    remote = find_remote(tenant_id=environment.tenant_id, environment_id=environment.id)
    return {
        **sessions.of_environment(environment),
        "title": environment.slug,
        "here": environment,  # the theme has a use of its own for the name `environment`
        "server": environment.server,
        "endpoint": describe_endpoint(environment),
        "health": health,
        "next_look": max(health.next_probe_at, timezone.now()) if health else None,
        "range": shown_range,
        "ranges": [(name, label) for name, (_, _, label) in RANGES.items()],
        "range_words": words,
        "chart": charts.latency_chart(buckets),
        "strip": charts.uptime_strip(buckets),
        "requests": requests,
        "failures": failures,
        "answered": 100 * (requests - failures) / requests if requests else None,
        "mean_ms": spent / requests if requests else None,
        "max_ms": max((b.max_ms or 0.0 for b in buckets), default=0.0) if requests else None,
        "active": active,
        "deployments": deployments,
        "releases": [_release(r, serving, served, newest) for r in releases],
        "versions": environment.server.versions.all()[:20],
        "bindings": environment.bindings.select_related("resource"),
        "unbound": environment.resources.filter(bindings=None)
        .exclude(state="deleted")
        .exclude(kind=ResourceKind.SCRIPT),
        "secrets": secrets,
        "flips": environment.flips.all()[:8],
        "incidents": environment.incidents.all()[:5],
        "probes": environment.probes.all()[:8],
        "limits": _limits(environment),
        "operations": Operation.objects.filter(
            tenant_id=environment.tenant_id, environment=environment
        ).select_related("server")[:6],
        "open_operation": Operation.objects.filter(
            tenant_id=environment.tenant_id,
            environment=environment,
            state__in=UNFINISHED,
        ).first(),
        "is_elsewhere": environment.server.kind == Server.Kind.REMOTE,
        "remote": remote,
        "people": describe(
            [
                *(d.created_by for d in deployments),
                *(s.created_by for s in secrets),
                *([remote.changed_by] if remote else []),
            ]
        ),
        "access": [Environment.Access(a).label for a in environment.access if a in Environment.Access.values],
    }


def _active(environment: Environment) -> Deployment | None:
    return (
        environment.deployments.filter(is_active=True).prefetch_related("targets__release__version").first()
    )


def _release(release: Release, serving: dict[str, Any], served: set[str], newest: set[int]) -> dict[str, Any]:
    share = serving.get(release.id)
    has_served = release.id in served
    return {
        "row": release,
        "share": share,
        "has_served": has_served,
        # What has worked can come back: its version is deployed again, under a new release when its script is gone.
        "can_return": share is None and (has_served or release.state == Release.State.VERIFIED),
        "word": "Roll back" if release.number < max(newest, default=0) else "Go forward",
    }


def _limits(environment: Environment) -> list[tuple[str, str, bool]]:
    """(name, value, is it this Environment's own?) for every bound of the gateway."""
    defaults = Limits()
    return [
        (
            name.replace("_", " ").removesuffix(" s") + (" (s)" if name.endswith("_s") else ""),
            f"{environment.limits.get(name, getattr(defaults, name)):,}",
            name in environment.limits,
        )
        for name in Limits.__struct_fields__
    ]
