"""One Server: where it runs, what was uploaded, and how to reach it."""

from __future__ import annotations

from typing import Any

from django.db.models import Prefetch

from hosting.models import Deployment, Environment, Operation, Server
from hosting.queries.sessions import count_sessions
from smcp.console import charts
from smcp.console.pages import history
from smcp.console.pages.endpoints import describe_endpoint
from smcp.console.pages.health import health_of
from smcp.console.pages.people import describe

RETIRE_HOSTED = (
    "Its Workers and all of its data are deleted: KV namespaces, R2 buckets and D1 databases of every environment."
    " This cannot be undone, and the slug is never given again."
)
RETIRE_ELSEWHERE = (
    "Its endpoints answer 404, and where it runs and with which secrets is forgotten. The server itself stays where it is."
    " This cannot be undone, and the slug is never given again."
)


def context(server: Server) -> dict[str, Any]:
    environments = list(
        server.environments.select_related("server__tenant", "account", "health", "remote")
        .prefetch_related(
            Prefetch(
                "deployments",
                queryset=Deployment.objects.filter(is_active=True).prefetch_related(
                    "targets__release__version"
                ),
                to_attr="active",
            )
        )
        .order_by("slug")
    )
    environments.sort(key=lambda e: (e.slug != "production", e.slug))
    versions = list(server.versions.all()[:20])
    return {
        "title": server.name,
        "server": server,
        "environments": [_environment(e) for e in environments],
        "primary": next((e for e in environments if e.slug == "production"), next(iter(environments), None)),
        "versions": versions,
        "operations": Operation.objects.filter(tenant_id=server.tenant_id, server=server).select_related(
            "environment"
        )[:8],
        "retire_text": RETIRE_ELSEWHERE if server.kind == Server.Kind.REMOTE else RETIRE_HOSTED,
        "people": describe([server.created_by, *(v.created_by for v in versions)]),
    }


def _environment(environment: Environment) -> dict[str, Any]:
    active = getattr(environment, "active", [])
    buckets = history.buckets(
        environment.latencies.filter(tenant_id=environment.tenant_id), hours=24, count=48
    )
    return {
        "row": environment,
        "endpoint": describe_endpoint(environment),
        "health": health_of(environment),
        "deployment": active[0] if active else None,
        "remote": getattr(environment, "remote", None),
        "strip": charts.uptime_strip(buckets),
        "requests": sum(b.requests for b in buckets),
        "sessions": count_sessions(tenant_id=environment.tenant_id, environment_id=environment.id).open,
    }
