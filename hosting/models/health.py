"""Health as a user would see it: the state now, how it changed, and the numbers behind it."""

from __future__ import annotations

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.utils import timezone

from hosting.models.server import Environment
from smcp.common.tenancy import TenantModel


class Health(models.TextChoices):
    UNKNOWN = "unknown", "Not seen yet"
    HEALTHY = "healthy", "Healthy"
    SLOW = "slow", "Slow"
    UNHEALTHY = "unhealthy", "Not answering"


class HealthState(TenantModel):
    """One row an Environment: what we believe, and when to look again. Real traffic counts first, probes when it is quiet."""

    environment = models.OneToOneField(Environment, on_delete=models.CASCADE, related_name="health")
    state = models.CharField(max_length=10, choices=Health, default=Health.UNKNOWN)
    since = models.DateTimeField(default=timezone.now)
    failures_in_a_row = models.PositiveIntegerField(default=0)
    successes_in_a_row = models.PositiveIntegerField(default=0)
    last_seen_at = models.DateTimeField(null=True, blank=True)  # last evidence of any kind
    last_latency_ms = models.FloatField(null=True, blank=True)
    last_failure = models.CharField(max_length=120, blank=True)  # one of a closed list
    interval_s = models.PositiveIntegerField(default=60)  # backs off while all is well and nobody calls
    next_probe_at = models.DateTimeField(default=timezone.now)
    probe_claimed_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["next_probe_at"], name="health_next_probe")]

    def __str__(self) -> str:
        return self.state


class Probe(TenantModel):
    """One check of an Environment through the gateway's real path. Kept for a day."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="probes")
    at = models.DateTimeField(default=timezone.now)
    is_ok = models.BooleanField()
    latency_ms = models.FloatField()
    era = models.CharField(max_length=8)
    failure = models.CharField(max_length=120, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["tenant", "environment", "-id"], name="probe_latest")]

    def __str__(self) -> str:
        return "ok" if self.is_ok else self.failure


class Flip(TenantModel):
    """A change of the health state."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="flips")
    at = models.DateTimeField(default=timezone.now)
    old = models.CharField(max_length=10, choices=Health)
    new = models.CharField(max_length=10, choices=Health)
    reason = models.CharField(max_length=120, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["tenant", "environment", "-id"], name="flip_latest")]

    def __str__(self) -> str:
        return f"{self.old} → {self.new}"


class Incident(TenantModel):
    """The time between down and up."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="incidents")
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=120, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.reason


class LatencySample(TenantModel):
    """Latency of one Environment in one minute, from traffic or probes. Kept for 30 days."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="latencies")
    minute = models.DateTimeField()
    source = models.CharField(max_length=8)  # traffic, probe
    requests = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0)
    latency_ms_sum = models.FloatField(default=0)
    latency_ms_max = models.FloatField(default=0)

    class Meta:
        ordering = ["-minute"]
        indexes = [BrinIndex(fields=["minute"], name="latency_by_minute")]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "environment", "minute", "source"], name="latency_minute_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.minute:%H:%M}"


class ReportCursor(models.Model):
    """How far the reports of the data plane were read. Moves in the transaction that applies them: each counts once."""

    stream = models.CharField(max_length=120, primary_key=True)
    position = models.CharField(max_length=40, default="0-0")
    updated_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.position
