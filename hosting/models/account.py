"""Accounts at Cloudflare: a pool, because one account holds 1,000 KV namespaces. Environments are placed in one for good."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from smcp.common.ids import UlidField


class Account(models.Model):
    """One account of ours. The token is sealed under the context `account:<id>`."""

    class State(models.TextChoices):
        OPEN = "open", "Takes new Environments"
        FULL = "full", "Serves what it has"

    id = UlidField(primary_key=True)
    name = models.CharField(max_length=80, unique=True)
    cloudflare_account_id = models.CharField(max_length=32, unique=True)
    api_base_url = models.URLField()
    token_sealed = models.TextField()
    dispatch_namespace = models.CharField(max_length=80)
    dispatch_url = models.CharField(max_length=255)  # origin the gateway connects to
    dispatch_host = models.CharField(max_length=255, blank=True)  # Host header when it is another one
    state = models.CharField(max_length=8, choices=State, default=State.OPEN)
    capacity = models.PositiveIntegerField(default=900)  # Environments; below Cloudflare's own limit
    ready_at = models.DateTimeField(null=True, blank=True)  # namespace and dispatcher stand
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
