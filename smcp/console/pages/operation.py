"""One Operation: what was asked, every step with what became of it, and why it stopped."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from hosting.models import Operation, Step, Version
from smcp.console.pages.people import describe
from smcp.console.pages.steps import title_of, view_steps


def context(operation: Operation) -> dict[str, Any]:
    """Also what the page fetches again while the Operation runs."""
    error = operation.error or {}
    rows = list(operation.steps.all())
    failed_at = next((row for row in rows if row.name == error.get("step")), None)
    was_undone = any(row.state == Step.State.UNDONE for row in rows)
    stopped_at = failed_at if was_undone and operation.is_finished else None
    done = sum(1 for row in rows if row.state == Step.State.DONE)
    return {
        "operation": operation,
        "steps": view_steps(
            operation, rows, failed_at=failed_at, now=operation.finished_at or timezone.now()
        ),
        "done": done,
        # How far it came: what it did before it stopped, although that has been undone since.
        "reached": stopped_at.position if stopped_at else done,
        "error": error,
        "failed_step": title_of(failed_at.name) if failed_at else "",
        "stopped_at": stopped_at.position + 1 if stopped_at else None,
        "was_undone": was_undone,
        "people": describe([operation.requested_by]),
        "targets": targets_of(operation),
        "duration_end": operation.finished_at,
    }


def targets_of(operation: Operation) -> list[dict[str, Any]]:
    """The versions a deploy was asked for, with their shares; empty for other kinds."""
    shares = {t["version"]: t["percentage"] for t in operation.input.get("targets", [])}
    versions = Version.objects.filter(tenant_id=operation.tenant_id, id__in=shares)
    return [{"version": version, "percentage": shares[version.id]} for version in versions]
