"""The audit trail: one append-only row for every change, with who, what, and the request it came from."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils import timezone

from smcp.common.correlation import correlation_id as correlation_id
from smcp.common.ids import UlidField


class AuditEvent(models.Model):
    """Written in the same transaction as the change it tells of; `smcp_app` may insert and read, never alter."""

    id = UlidField(primary_key=True)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField(default=timezone.now)
    actor = models.CharField(max_length=120)  # `user:<id>`, `key:<id>`, `system`
    action = models.CharField(max_length=80)  # `server.created`
    object_kind = models.CharField(max_length=40)
    object_id = models.CharField(max_length=40)
    detail = models.JSONField(default=dict)  # before and after, redacted
    correlation = models.CharField(max_length=64, blank=True)

    class Meta:
        app_label = "common"
        ordering = ["-id"]
        indexes = [models.Index(fields=["tenant", "-id"], name="audit_by_tenant")]

    def __str__(self) -> str:
        return f"{self.action} {self.object_id}"


def record(
    *,
    tenant_id: str,
    actor: str,
    action: str,
    object_kind: str,
    object_id: str,
    detail: dict[str, Any] | None = None,
) -> None:
    """Call inside the transaction of the change."""
    AuditEvent.objects.create(
        tenant_id=tenant_id,
        actor=actor,
        action=action,
        object_kind=object_kind,
        object_id=object_id,
        detail=detail or {},
        correlation=correlation_id.get(),
    )
