"""Where an Environment of a `remote` Server really is, and what we know of the server there."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from hosting.models.server import Environment
from smcp.common.ids import new_id
from smcp.common.tenancy import TenantModel


class Remote(TenantModel):
    """One row an Environment. Values of headers are secrets of the Environment; here are their names only."""

    class Transport(models.TextChoices):
        STREAMABLE_HTTP = "streamable-http", "Streamable HTTP"
        SSE = "sse", "HTTP+SSE"

    CHECK_FIRST_S = 60
    CHECK_MAX_S = 900

    environment = models.OneToOneField(Environment, on_delete=models.CASCADE, related_name="remote")
    url = models.CharField(max_length=2048)
    transport = models.CharField(max_length=16, choices=Transport, default=Transport.STREAMABLE_HTTP)
    headers = models.JSONField(default=list)  # [{"name", "prefix", "secret"}]
    is_public_confirmed = models.BooleanField(default=False)  # anybody may use what the headers open
    target = models.CharField(max_length=26, default=new_id)  # another one with every URL and transport
    eras = ArrayField(models.CharField(max_length=8), default=list)  # as last seen; empty: not seen yet
    issues_sessions = models.BooleanField(default=True)
    checked_at = models.DateTimeField(null=True, blank=True)
    check_failure = models.CharField(max_length=200, blank=True)  # ours, never the server's words
    check_interval_s = models.PositiveIntegerField(default=CHECK_FIRST_S)
    check_due_at = models.DateTimeField(default=timezone.now)
    changed_by = models.CharField(max_length=120)
    changed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["check_due_at"], name="remote_check_due")]

    def __str__(self) -> str:
        return self.url
