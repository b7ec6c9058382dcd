"""The id that follows one request through REST, Celery, Cloudflare calls and logs."""

from __future__ import annotations

from contextvars import ContextVar

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
