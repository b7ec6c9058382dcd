"""Servers and the Environments they run in."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from hosting.models.account import Account
from smcp.common.slugs import ENVIRONMENT_SLUG_MAX, SERVER_SLUG_MAX, validate_slug
from smcp.common.tenancy import TenantModel


class Server(TenantModel):
    """One MCP server of a tenant. The slug is part of its endpoints, never changes and is never given again."""

    class Kind(models.TextChoices):
        WORKER = "worker", "Hosted Worker"
        REMOTE = "remote", "Runs elsewhere"
        HUB = "hub", "Aggregates Servers"

    class State(models.TextChoices):
        ACTIVE = "active", "Active"
        SUSPENDED = "suspended", "Suspended"
        RETIRING = "retiring", "Being retired"
        RETIRED = "retired", "Retired"

    slug = models.CharField(max_length=SERVER_SLUG_MAX, validators=[validate_slug])
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.WORKER)
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE)
    suspended_reason = models.CharField(max_length=300, blank=True)
    version = models.PositiveBigIntegerField(default=1)  # of what the data plane knows of its suspension
    catalog_slug = models.CharField(max_length=40, blank=True)
    created_by = models.CharField(max_length=120)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["tenant", "slug"], name="server_slug_once")]

    def __str__(self) -> str:
        return self.slug


class Environment(TenantModel):
    """Where a Server runs. Its account never changes: the data lives there. Of a `remote` Server nothing of ours runs: no account."""

    class State(models.TextChoices):
        ACTIVE = "active", "Active"
        RETIRING = "retiring", "Being retired"
        RETIRED = "retired", "Retired"

    class Access(models.TextChoices):
        PUBLIC = "public", "Anybody"
        API_KEY = "api_key", "Holders of an API key"

    class ModernClients(models.TextChoices):
        AUTO = "auto", "bridged, unless the code keeps sessions"
        BRIDGE = "bridge", "bridged"
        DECLINE = "decline", "told to use an older revision"

    server = models.ForeignKey(Server, on_delete=models.PROTECT, related_name="environments")
    slug = models.CharField(max_length=ENVIRONMENT_SLUG_MAX, validators=[validate_slug])
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    state = models.CharField(max_length=8, choices=State, default=State.ACTIVE)
    access = ArrayField(models.CharField(max_length=10, choices=Access), default=list)
    allowed_origins = ArrayField(models.CharField(max_length=255), default=list, blank=True)
    egress_allow = ArrayField(models.CharField(max_length=255), default=list, blank=True)  # host:port
    limits = models.JSONField(default=dict, blank=True)  # overrides of contract.Limits
    variables = models.JSONField(default=dict, blank=True)  # name → text, for plain_text bindings
    releases_kept = models.PositiveSmallIntegerField(default=3)
    heals_sessions = models.BooleanField(
        default=True
    )  # False: a session the code has lost is over for its client
    sessions_after = models.PositiveBigIntegerField(
        default=0
    )  # as in contract.Route: sessions issued until this second were ended
    other_paths = models.BooleanField(default=False)  # whether its hosts carry the code's own paths, and /ws
    modern_clients = models.CharField(
        max_length=7, choices=ModernClients, default=ModernClients.AUTO
    )  # before code that speaks only legacy revisions
    route_version = models.PositiveBigIntegerField(default=0)  # of the Route last composed
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "server", "slug"], name="environment_slug_once")
        ]

    def __str__(self) -> str:
        return self.slug
