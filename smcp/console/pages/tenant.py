"""One Tenant: its people, keys and servers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import Prefetch
from django.utils import timezone

from hosting.models import Environment, Operation, Server
from smcp.common.audit import AuditEvent
from smcp.console.pages.people import describe
from tenants.models import ApiKey, Member, Tenant


def context(tenant: Tenant) -> dict[str, Any]:
    now = timezone.now()
    keys = list(tenant.api_keys.all())
    servers = list(
        Server.objects.filter(tenant=tenant)
        .exclude(state=Server.State.RETIRED)
        .prefetch_related(
            Prefetch(
                "environments",
                queryset=Environment.objects.exclude(state=Environment.State.RETIRED)
                .select_related("health")
                .order_by("id"),
            )
        )
        .order_by("slug")
    )
    events = list(AuditEvent.objects.filter(tenant=tenant)[:8])
    return {
        "title": tenant.name,
        "tenant": tenant,
        "members": tenant.members.select_related("user"),
        "keys": [{"row": key, "state": key_state(key, now)} for key in keys],
        "servers": servers,
        "operations": Operation.objects.filter(tenant=tenant).select_related("server", "environment")[:6],
        "events": events,
        "people": describe([*(k.created_by for k in keys), *(e.actor for e in events)]),
        "roles": Member.Role.choices,
    }


def key_state(key: ApiKey, now: datetime) -> str:
    if key.revoked_at:
        return "revoked"
    if key.expires_at and key.expires_at <= now:
        return "expired"
    return "live"
