"""Who: tenants, the people in them, and their API keys."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.models import AbstractUser, UserManager
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from smcp.common.ids import UlidField
from smcp.common.slugs import TENANT_SLUG_MAX, validate_tenant_slug
from smcp.common.tenancy import TenantModel


class Accounts(UserManager["User"]):
    """People sign in with their e-mail address; there is no user name."""

    def create_user(  # type: ignore[override]
        self, email: str, password: str | None = None, **extra: Any
    ) -> User:
        user = self.model(email=self.normalize_email(email).lower(), **extra)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(  # type: ignore[override]
        self, email: str, password: str | None = None, **extra: Any
    ) -> User:
        return self.create_user(email, password, is_staff=True, is_superuser=True, **extra)


class User(AbstractUser):
    """A person. `is_staff` makes an operator of the platform, who may enter the console."""

    id = UlidField(primary_key=True)
    username = None  # type: ignore[assignment]
    email = models.EmailField(unique=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects: ClassVar[Accounts] = Accounts()

    def __str__(self) -> str:
        return self.email


class Tenant(models.Model):
    """An organisation. Its slug is part of every endpoint and never changes."""

    class State(models.TextChoices):
        ACTIVE = "active", "Active"
        SUSPENDED = "suspended", "Suspended"

    id = UlidField(primary_key=True)
    slug = models.CharField(max_length=TENANT_SLUG_MAX, unique=True, validators=[validate_tenant_slug])
    name = models.CharField(max_length=120)
    plan = models.CharField(max_length=40, default="standard")
    state = models.CharField(max_length=16, choices=State, default=State.ACTIVE)
    suspended_reason = models.CharField(max_length=300, blank=True)
    suspended_at = models.DateTimeField(null=True, blank=True)
    version = models.PositiveBigIntegerField(
        default=1
    )  # grows with every change the data plane must learn of
    last_served_at = models.DateTimeField(
        default=timezone.now
    )  # the worker serves the longest-waiting tenant first
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.slug


class Member(TenantModel):
    """A person in a tenant, with one role."""

    class Role(models.TextChoices):
        OWNER = "owner", "Owner"
        ADMIN = "admin", "Admin"
        DEVELOPER = "developer", "Developer"
        VIEWER = "viewer", "Viewer"
        CALLER = "caller", "Caller"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="members")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["tenant", "user"], name="member_once")]

    def __str__(self) -> str:
        return f"{self.user} ({self.role})"


class ApiKey(TenantModel):
    """A key of a tenant. Only its digest is kept; whoever made it saw it once.

    `smcp_<prefix>_<secret>`: the prefix (12 characters) finds the row, the secret is 256 random bits.
    Scopes `api:*` open the REST API, `mcp:call` opens MCP endpoints; no key has both kinds.
    """

    class Scope(models.TextChoices):
        API_READ = "api:read", "Read through the REST API"
        API_WRITE = "api:write", "Change things through the REST API"
        API_ADMIN = "api:admin", "Manage members and keys through the REST API"
        MCP_CALL = "mcp:call", "Call MCP servers"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="api_keys")
    name = models.CharField(max_length=120)
    prefix = models.CharField(max_length=12, unique=True)
    digest = models.CharField(max_length=64)  # sha256 of the whole key, hex
    scopes = ArrayField(models.CharField(max_length=20, choices=Scope))
    environments = ArrayField(
        models.CharField(max_length=26), default=list, blank=True
    )  # for mcp:call; empty: all
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    version = models.PositiveBigIntegerField(
        default=1
    )  # grows with every change the data plane must learn of
    created_by = models.CharField(max_length=120)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.name} (smcp_{self.prefix}_…)"


class OperatorKey(models.Model):
    """A key of the platform's operators for the REST API: creates, suspends and resumes tenants. Made on the command line."""

    id = UlidField(primary_key=True)
    name = models.CharField(max_length=120)
    prefix = models.CharField(max_length=12, unique=True)
    digest = models.CharField(max_length=64)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.name} (smcp_{self.prefix}_…)"
