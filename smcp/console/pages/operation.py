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
    """A step as the page shows it. `state`: the row's, except that the step that failed stays failed after it was undone."""

    row: Step
    title: str
    state: str
    label: str
    icon: str


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
    error = operation.error or {}
    rows = list(operation.steps.all())
    failed_at = next((row for row in rows if row.name == error.get("step")), None)
    return {
        "operation": operation,
        "steps": [_view(row, is_culprit=row is failed_at) for row in rows],
        "done": sum(1 for row in rows if row.state == Step.State.DONE),
        "error": error,
        "failed_step": title_of(failed_at.name) if failed_at else "",
        "stopped_at": failed_at.position + 1 if failed_at and operation.is_finished else None,
        "was_undone": any(row.state == Step.State.UNDONE for row in rows),
        "people": describe([operation.requested_by]),
        "targets": targets_of(operation),
        "duration_end": operation.finished_at,
    }


def _view(row: Step, *, is_culprit: bool) -> StepView:
    was_undone = is_culprit and row.state == Step.State.UNDONE
    state = Step.State.FAILED if was_undone else row.state
    return StepView(
        row=row,
        title=title_of(row.name),
        state=state,
        label="Failed and undone" if was_undone else row.get_state_display(),
        icon=_ICONS.get(state, "circle"),
    )


def targets_of(operation: Operation) -> list[dict[str, Any]]:
    """The versions a deploy was asked for, with their shares; empty for other kinds."""
    shares = {t["version"]: t["percentage"] for t in operation.input.get("targets", [])}
    versions = Version.objects.filter(tenant_id=operation.tenant_id, id__in=shares)
    return [{"version": version, "percentage": shares[version.id]} for version in versions]


def title_of(step_name: str) -> str:
    """`ensure_resources` → `Ensure resources`."""
    return _STEP_WORDS.get(step_name, step_name.replace("_", " ").replace("-", " ").capitalize())
