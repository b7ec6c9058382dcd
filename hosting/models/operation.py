"""Operations and their Steps: the journal of a long-running change. It survives crashes; see provisioning/engine.py."""

from __future__ import annotations

from typing import Final

from django.db import models
from django.db.models import Q
from django.utils import timezone

from hosting.models.server import Environment, Server
from smcp.common.tenancy import TenantModel

UNFINISHED: Final = (
    "pending",
    "running",
    "unwinding",
)  # states in which an Operation still has something to do


class Operation(TenantModel):
    """One long-running change, as a journal of named steps.

    A worker claims it by raising `fence` and setting `lease_until`; every later write names the fence it holds, so a
    worker that lost its lease changes nothing.
    """

    class Kind(models.TextChoices):
        DEPLOY = "deploy", "Deploy"
        RETIRE = "retire", "Retire"

    class State(models.TextChoices):
        PENDING = "pending", "Waiting"
        RUNNING = "running", "Running"
        UNWINDING = "unwinding", "Undoing what it did"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"

    server = models.ForeignKey(Server, on_delete=models.PROTECT, related_name="operations")
    environment = models.ForeignKey(
        Environment, on_delete=models.PROTECT, related_name="operations", null=True, blank=True
    )
    kind = models.CharField(max_length=16, choices=Kind)
    state = models.CharField(max_length=10, choices=State, default=State.PENDING)
    input = models.JSONField(default=dict)  # what was asked
    context = models.JSONField(default=dict)  # names and ids chosen on the way, never secrets
    error = models.JSONField(null=True, blank=True)  # {code, message, step}
    due_at = models.DateTimeField(default=timezone.now)
    lease_until = models.DateTimeField(null=True, blank=True)
    lease_owner = models.CharField(max_length=80, blank=True)
    fence = models.PositiveIntegerField(default=0)
    requested_by = models.CharField(max_length=120)
    correlation = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["due_at"],
                condition=Q(state__in=UNFINISHED),
                name="operation_due",
            )
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "environment"],
                condition=Q(state__in=UNFINISHED),
                name="operation_one_per_environment",
                violation_error_message="Another operation on this environment is under way.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @property
    def is_finished(self) -> bool:
        return self.state in {self.State.SUCCEEDED, self.State.FAILED}


class Step(TenantModel):
    """One step of an Operation. Rows exist from the start, so progress can be read as done of all."""

    class State(models.TextChoices):
        PENDING = "pending", "Waiting"
        STARTED = "started", "Running"
        DONE = "done", "Done"
        FAILED = "failed", "Failed"
        UNDOING = "undoing", "Being undone"
        UNDONE = "undone", "Undone"

    operation = models.ForeignKey(Operation, on_delete=models.CASCADE, related_name="steps")
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=60)
    state = models.CharField(max_length=8, choices=State, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    message = models.CharField(max_length=500, blank=True)  # what it waits for, or why it failed
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "operation", "position"], name="step_position_once")
        ]

    def __str__(self) -> str:
        return self.name
