"""Slugs: immutable DNS labels people choose. They appear in hosts (`server--environment--tenant`), so `--` is ours alone."""

from __future__ import annotations

import re

from django.core.exceptions import ValidationError

# Together with two `--` they fill exactly one DNS label of 63.
TENANT_SLUG_MAX = 20
SERVER_SLUG_MAX = 24
ENVIRONMENT_SLUG_MAX = 15

#: First labels and path segments that are the platform's own.
RESERVED_TENANTS = frozenset(
    [
        "admin",
        "api",
        "app",
        "assets",
        "auth",
        "console",
        "dashboard",
        "docs",
        "favicon",
        "gateway",
        "health",
        "healthz",
        "help",
        "hub",
        "login",
        "logout",
        "mcp",
        "metrics",
        "oauth",
        "operator",
        "platform",
        "public",
        "readyz",
        "register",
        "root",
        "security",
        "smcp",
        "sse",
        "static",
        "status",
        "support",
        "system",
        "test",
        "well-known",
        "www",
        "ws",
    ]
)
_SLUG_RE = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


def validate_slug(slug: str) -> None:
    """Raises django.core.exceptions.ValidationError with a sentence a person can act on."""
    if not _SLUG_RE.fullmatch(slug) or "--" in slug:
        raise ValidationError(
            "A slug is lowercase letters, digits and single hyphens, and starts and ends with a letter or digit.",
            code="slug_invalid",
        )


def validate_tenant_slug(slug: str) -> None:
    """As validate_slug, and not one of the platform's own names."""
    validate_slug(slug)
    if slug in RESERVED_TENANTS:
        raise ValidationError(f"The slug “{slug}” is reserved.", code="slug_reserved")
