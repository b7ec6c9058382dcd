"""MCP sessions as people see them: told by the data plane, known by a handle. The id, and the server's own id, never get here."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from hosting.models.server import Environment
from smcp.common.tenancy import TenantModel


class Session(TenantModel):
    """One session of a client at an Environment. What is not open is kept for a while, then removed."""

    class State(models.TextChoices):
        OPEN = "open", "Open"
        ENDED = "ended", "Ended"
        EXPIRED = "expired", "Expired"

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="sessions")
    handle = models.CharField(max_length=16)  # as in contract.SessionReport
    state = models.CharField(max_length=8, choices=State, default=State.OPEN)
    principal = models.CharField(max_length=120)  # `key:<id>`, `public`
    client_name = models.CharField(max_length=100, blank=True)  # what the client calls itself
    client_version = models.CharField(max_length=100, blank=True)
    protocol_version = models.CharField(max_length=16, blank=True)
    opened_at = models.DateTimeField(default=timezone.now)
    last_active_at = models.DateTimeField(default=timezone.now)  # to the minute
    expires_at = models.DateTimeField()  # its id, whatever happens
    ended_at = models.DateTimeField(null=True, blank=True)
    ended_by = models.CharField(
        max_length=120, blank=True
    )  # an actor of ours; empty: the client or its server

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "environment", "handle"], name="session_handle_once")
        ]
        indexes = [
            models.Index(fields=["tenant", "environment", "state", "-id"], name="session_of_environment"),
            models.Index(fields=["last_active_at"], condition=Q(state="open"), name="session_open_idle"),
            models.Index(fields=["ended_at"], condition=~Q(state="open"), name="session_over"),
            models.Index(
                fields=["expires_at"], condition=Q(state="ended") & ~Q(ended_by=""), name="session_ended_here"
            ),
        ]

    def __str__(self) -> str:
        return self.handle


class UnlistedSessions(TenantModel):
    """How many sessions of an Environment were opened while its list was full. Gone when the last of them must have expired."""

    environment = models.OneToOneField(
        Environment, on_delete=models.CASCADE, related_name="unlisted_sessions"
    )
    count = models.PositiveIntegerField(default=0)
    last_at = models.DateTimeField()  # when one of them was last told of

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return str(self.count)
