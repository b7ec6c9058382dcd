"""`Idempotency-Key`: a repeated request gets the first one's answer instead of a second effect.

The row is inserted before the work, in the work's transaction: two requests with one key cannot both do it, and a crash
half-way rolls the claim back with the work. Source: draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from smcp.common.ids import UlidField


class IdempotentRequest(models.Model):
    """One claimed key and, once the work is done, its answer."""

    id = UlidField(primary_key=True)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="+")
    principal = models.CharField(max_length=120)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)  # sha256 of method, path and body
    status = models.PositiveSmallIntegerField(null=True)  # null: still under way
    body = models.JSONField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        app_label = "common"
        constraints = [
            models.UniqueConstraint(fields=["tenant", "principal", "key"], name="idempotency_key_once")
        ]

    def __str__(self) -> str:
        return self.key
