"""Versions: what a tenant uploaded, never changed afterwards."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from hosting.models.server import Server
from smcp.common.tenancy import TenantModel


class Version(TenantModel):
    """One immutable upload of a Server's code.

    `modules`: [{name, content_type, digest, size}]; the bytes are blobs of the tenant.
    `bindings`: declared [{type, name, …}] without ids: an Environment fills them with its own Resources.
    `migrations`: Durable Object migrations as uploaded, or null.
    """

    server = models.ForeignKey(Server, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    digest = models.CharField(max_length=64)  # of everything below that makes it behave
    main_module = models.CharField(max_length=255)
    modules = models.JSONField()
    compatibility_date = models.DateField()
    compatibility_flags = ArrayField(models.CharField(max_length=80), default=list, blank=True)
    bindings = models.JSONField(default=list)
    migrations = models.JSONField(null=True, blank=True)
    limits = models.JSONField(default=dict, blank=True)  # {cpu_ms}
    annotations = models.JSONField(default=dict, blank=True)  # {message, tag}
    handlers = ArrayField(models.CharField(max_length=40), default=list, blank=True)
    size_bytes = models.PositiveBigIntegerField()
    contract = models.JSONField(null=True, blank=True)  # tools, prompts, resources as first seen
    created_by = models.CharField(max_length=120)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "server", "number"], name="version_number_once")
        ]

    def __str__(self) -> str:
        return f"v{self.number}"

    @property
    def has_durable_objects(self) -> bool:
        return any(b["type"] == "durable_object_namespace" for b in self.bindings)
