"""The first page: what an operator wants to know in ten seconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db.models import Count, Q
from django.utils import timezone

from hosting.models import (
    Account,
    Environment,
    Flip,
    HealthState,
    Incident,
    LatencySample,
    Operation,
    Server,
    Step,
)
from hosting.models.health import Health
from smcp.console import charts
from smcp.console.charts import Bucket
from smcp.console.pages import history
from smcp.console.pages.steps import title_of
from tenants.models import Tenant

_OPEN = [Operation.State.PENDING, Operation.State.RUNNING, Operation.State.UNWINDING]


def context() -> dict[str, Any]:
    now = timezone.now()
    day = now - timedelta(hours=24)
    tenants = Tenant.objects.aggregate(n=Count("id"), suspended=Count("id", filter=Q(state="suspended")))
    servers = Server.objects.exclude(state=Server.State.RETIRED).aggregate(
        n=Count("id"), suspended=Count("id", filter=Q(state="suspended"))
    )
    buckets = history.buckets(LatencySample.objects.all(), hours=24, count=96, now=now)
    requests = sum(b.requests for b in buckets)
    failures = sum(b.failures for b in buckets)
    spent = sum((b.mean_ms or 0.0) * b.requests for b in buckets)
    accounts = _accounts()
    return {
        "tenants": tenants,
        "servers": servers,
        "health": _health(),
        "chart": charts.latency_chart(buckets),
        "spark": charts.sparkline(_hourly(buckets)),
        "requests": requests,
        "failures": failures,
        "failure_share": 100 * failures / requests if requests else 0.0,
        "mean_ms": spent / requests if requests else None,
        "operations": {
            "open": Operation.objects.filter(state__in=_OPEN).count(),
            "failed": Operation.objects.filter(state=Operation.State.FAILED, finished_at__gte=day).count(),
            "succeeded": Operation.objects.filter(
                state=Operation.State.SUCCEEDED, finished_at__gte=day
            ).count(),
        },
        "running": _running(),
        "failed": Operation.objects.filter(state=Operation.State.FAILED)
        .select_related("server", "server__tenant", "environment")
        .order_by("-id")[:5],
        "flips": Flip.objects.select_related("environment__server__tenant")[:6],
        "incidents": Incident.objects.filter(ended_at=None)
        .exclude(environment__state=Environment.State.RETIRED)
        .select_related("environment__server__tenant")[:6],
        "accounts": accounts,
        "first_steps": _first_steps(
            has_account=bool(accounts), has_tenant=bool(tenants["n"]), has_server=bool(servers["n"])
        ),
    }


def _hourly(buckets: Sequence[Bucket]) -> list[float]:
    """Requests an hour, without the bucket that is still filling."""
    whole = buckets[:-1]
    return [float(sum(b.requests for b in whole[i : i + 4])) for i in range(len(whole) % 4, len(whole), 4)]


def _health() -> dict[str, Any]:
    rows = dict(
        HealthState.objects.exclude(environment__state=Environment.State.RETIRED)
        .order_by()
        .values_list("state")
        .annotate(n=Count("id"))
        .values_list("state", "n")
    )
    order = [
        (Health.HEALTHY, "good"),
        (Health.SLOW, "warn"),
        (Health.UNHEALTHY, "bad"),
        (Health.UNKNOWN, "quiet"),
    ]
    parts: list[dict[str, Any]] = [
        {"state": state.value, "tone": tone, "label": state.label, "n": rows.get(state.value, 0)}
        for state, tone in order
    ]
    total = sum(rows.values())
    return {
        "parts": parts,
        "total": total,
        "healthy": rows.get(Health.HEALTHY, 0),
        "bar": charts.stack([(p["tone"], p["label"], p["n"]) for p in parts]),
    }


def _running() -> list[dict[str, Any]]:
    """What is under way, each with how far it got."""
    rows = list(
        Operation.objects.filter(state__in=_OPEN)
        .select_related("server", "server__tenant", "environment")
        .prefetch_related("steps")
        .order_by("-id")[:6]
    )
    shown = []
    for operation in rows:
        steps = list(operation.steps.all())
        now = next((s for s in steps if s.state in {Step.State.STARTED, Step.State.UNDOING}), None)
        shown.append(
            {
                "row": operation,
                "done": sum(1 for s in steps if s.state == Step.State.DONE),
                "all": len(steps),
                "step": title_of(now.name) if now else "",
            }
        )
    return shown


def _accounts() -> list[dict[str, Any]]:
    used: dict[str, int] = dict(
        Environment.objects.exclude(state=Environment.State.RETIRED)
        .order_by()
        .values_list("account_id")
        .annotate(n=Count("id"))
        .values_list("account_id", "n")
    )
    return [
        {"row": account, "used": used.get(account.id, 0), "free": account.capacity - used.get(account.id, 0)}
        for account in Account.objects.defer("token_sealed")
    ]


def _first_steps(*, has_account: bool, has_tenant: bool, has_server: bool) -> list[dict[str, Any]]:
    """What a fresh installation still needs; empty when all of it is there."""
    steps = [
        {
            "done": has_account,
            "title": "Connect an account",
            "text": "Servers run in a Cloudflare account, or in the local edge. “make up” connects one; its state stands under Accounts.",
            "link": "admin:hosting_account_changelist",
            "action": "Open Accounts",
        },
        {
            "done": has_tenant,
            "title": "Create a tenant",
            "text": "An organisation that owns servers, members and API keys.",
            "link": "admin:console_create_tenant",
            "action": "Create a tenant",
        },
        {
            "done": has_server,
            "title": "Deploy a server",
            "text": "Pick one from the catalog and watch it go live, step by step.",
            "link": "admin:console_deploy",
            "action": "Deploy from the catalog",
        },
    ]
    return [] if all(s["done"] for s in steps) else steps
