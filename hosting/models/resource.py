"""The ledger of what exists at Cloudflare, the names code sees it under, and secrets."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from hosting.cloudflare.port import ResourceKind
from hosting.models.account import Account
from hosting.models.server import Environment
from smcp.common.tenancy import TenantModel


class Resource(TenantModel):
    """One thing at Cloudflare. Written before it is created, so nothing that is billed is unknown.

    `name` is ours (`smcp-<installation>-<id>`), `cloudflare_id` theirs. Data outlives Releases; only scripts come and go.
    """

    class State(models.TextChoices):
        PLANNED = "planned", "Planned"
        LIVE = "live", "Live"
        DELETING = "deleting", "Being deleted"
        DELETED = "deleted", "Deleted"

    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="resources")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=16, choices=[(k.value, k.value) for k in ResourceKind])
    name = models.CharField(max_length=63, unique=True)
    cloudflare_id = models.CharField(max_length=64, blank=True)
    location = models.CharField(max_length=16, blank=True)
    state = models.CharField(max_length=8, choices=State, default=State.PLANNED)
    made_by_id = models.CharField(max_length=26, blank=True)  # the Operation whose undo may remove it
    progress = models.JSONField(default=dict, blank=True)  # of a long deletion
    created_at = models.DateTimeField(default=timezone.now)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["account", "kind", "state"], name="resource_by_account")]

    def __str__(self) -> str:
        return self.name


class Binding(TenantModel):
    """The name under which an Environment's code sees a Resource. Kept when a Version no longer declares it."""

    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="bindings")
    name = models.CharField(max_length=80)
    kind = models.CharField(max_length=16)
    resource = models.ForeignKey(Resource, on_delete=models.PROTECT, related_name="bindings")

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "environment", "name"], name="binding_name_once")
        ]

    def __str__(self) -> str:
        return self.name


def context_of(tenant_id: str, environment_id: str, name: str) -> str:
    """What a secret's value is sealed for: an envelope copied elsewhere does not open."""
    return f"secret:{tenant_id}:{environment_id}:{name}"


class Secret(TenantModel):
    """One revision of a secret of an Environment, sealed under `secret:<tenant>:<environment>:<name>`."""

    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="secrets")
    name = models.CharField(max_length=80)
    revision = models.PositiveIntegerField()
    sealed = models.TextField()
    is_current = models.BooleanField(default=True)
    created_by = models.CharField(max_length=120)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name", "-revision"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "environment", "name", "revision"], name="secret_revision_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} (revision {self.revision})"
