"""One Operation: what was asked, every step with what became of it, and why it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hosting.models import Operation, Step, Version
from smcp.console.pages.people import describe

#: What the steps are called on screen. A step without a line here shows its own name.
_STEP_WORDS = {
    "choose_names": "Choose names",
    "ensure_kv_namespaces": "Make KV namespaces",
    "ensure_r2_buckets": "Make R2 buckets",
    "ensure_d1_databases": "Make D1 databases",
    "upload": "Upload the code",
    "probe": "Wait until it answers",
    "publish": "Publish the route",
    "drain": "Let old requests end",
    "remove_releases": "Remove old releases",
    "withdraw_route": "Withdraw the route",
    "drain_requests": "Let requests end",
    "remove_scripts": "Remove scripts",
    "delete_kv_namespaces": "Delete KV namespaces",
    "delete_d1_databases": "Delete D1 databases",
    "delete_r2_buckets": "Empty and delete R2 buckets",
    "close_books": "Close the books",
}


@dataclass(frozen=True, kw_only=True)
class StepView:
    """A step as the page shows it."""

    row: Step
    title: str
    icon: str
    is_active: bool


_ICONS = {
    "pending": "circle",
    "started": "progress_activity",
    "done": "check_circle",
    "failed": "error",
    "undoing": "undo",
    "undone": "block",
}


def context(operation: Operation) -> dict[str, Any]:
    """Also what the page fetches again while the Operation runs."""
    steps = [
        StepView(
            row=step,
            title=title_of(step.name),
            icon=_ICONS.get(step.state, "circle"),
            is_active=step.state in {Step.State.STARTED, Step.State.UNDOING},
        )
        for step in operation.steps.all()
    ]
    done = sum(1 for s in steps if s.row.state == Step.State.DONE)
    error = operation.error or {}
    return {
        "operation": operation,
        "steps": steps,
        "done": done,
        "stopped_at": _stopped_at(operation, steps),
        "error": error,
        "failed_step": title_of(error["step"]) if error.get("step") else "",
        "people": describe([operation.requested_by]),
        "targets": targets_of(operation),
        "duration_end": operation.finished_at,
    }


def _stopped_at(operation: Operation, steps: list[StepView]) -> int | None:
    """Counted from one; None while it goes on, or went well."""
    failed = (n for n, step in enumerate(steps, 1) if step.row.state == Step.State.FAILED)
    return next(failed, None) if operation.state == Operation.State.FAILED else None


def targets_of(operation: Operation) -> list[dict[str, Any]]:
    """The versions a deploy was asked for, with their shares; empty for other kinds."""
    shares = {t["version"]: t["percentage"] for t in operation.input.get("targets", [])}
    versions = Version.objects.filter(tenant_id=operation.tenant_id, id__in=shares)
    return [{"version": version, "percentage": shares[version.id]} for version in versions]


def title_of(step_name: str) -> str:
    """`ensure_resources` → `Ensure resources`."""
    return _STEP_WORDS.get(step_name, step_name.replace("_", " ").replace("-", " ").capitalize())
