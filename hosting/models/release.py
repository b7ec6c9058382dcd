"""Releases and Deployments: what is at Cloudflare, and which of it serves."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.utils import timezone

from hosting.models.server import Environment
from hosting.models.version import Version
from smcp.common.tenancy import TenantModel


class Release(TenantModel):
    """One Version made concrete in one Environment: one script at Cloudflare.

    Without Durable Objects every Release is a script of its own. With them the Environment has one stable script, because
    their storage belongs to it, and Releases take turns in it.
    """

    class State(models.TextChoices):
        PLANNED = "planned", "Planned"
        UPLOADED = "uploaded", "Uploaded"
        VERIFIED = "verified", "Answered the probe"
        REMOVED = "removed", "Removed"

    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="releases")
    version = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="releases")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=10, choices=State, default=State.PLANNED)
    script_name = models.CharField(max_length=63)
    bindings = models.JSONField(default=list)  # resolved; a secret by name and revision, never by value
    inputs_digest = models.CharField(
        max_length=64, blank=True
    )  # of all that makes it behave: same inputs, same script
    egress_allow = ArrayField(
        models.CharField(max_length=255), default=list
    )  # host:port, as uploaded with it
    eras = ArrayField(models.CharField(max_length=8), default=list)  # what the probe found it speaks
    issues_sessions = models.BooleanField(default=False)
    mcp_path = models.CharField(max_length=255, default="/mcp")
    created_at = models.DateTimeField(default=timezone.now)
    removed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "environment", "number"], name="release_number_once")
        ]

    def __str__(self) -> str:
        return f"r{self.number}"


class Deployment(TenantModel):
    """Which Releases of an Environment serve. The active one is what the Route says."""

    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="deployments")
    number = models.PositiveIntegerField()
    is_active = models.BooleanField(default=False)
    operation_id = models.CharField(max_length=26)  # what made it
    created_by = models.CharField(max_length=120)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "environment", "number"], name="deployment_number_once"
            ),
            models.UniqueConstraint(
                fields=["tenant", "environment"], condition=Q(is_active=True), name="deployment_one_active"
            ),
        ]

    def __str__(self) -> str:
        return f"d{self.number}"


class DeploymentTarget(TenantModel):
    """One Release's share in a Deployment."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="targets")
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="+")
    percentage = models.DecimalField(max_digits=5, decimal_places=2)

    class Meta:
        ordering = ["-percentage", "id"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "deployment", "release"], name="target_release_once")
        ]

    def __str__(self) -> str:
        return f"{self.percentage} %"
