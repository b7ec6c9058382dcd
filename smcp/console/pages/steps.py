"""The Steps of an Operation as its page shows them: what each is called, what became of it, and how long it took.

A row remembers when its step was first begun and when it last ended; undoing writes over the end. Steps are done one after the
other and undone backwards one after the other, so what the row forgot follows from its neighbours, and the lengths on the page
never add up to more than the Operation took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from hosting.models import Operation, Step
from smcp.console.templatetags.console import length_of

#: What the steps are called on screen, by `Step.name`.
TITLES: Final = {
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

_ICONS: Final = {
    "pending": "circle",
    "started": "progress_activity",
    "done": "check_circle",
    "failed": "error",
    "undoing": "undo",
    "undone": "block",
    "skipped": "remove",
}


@dataclass(frozen=True, kw_only=True)
class StepView:
    """A step as the page shows it.

    `state`: the row's, except that the step that failed stays failed after it was undone, and that one the Operation will
    never come to is skipped. `length`: how long it took, and its undoing.
    """

    row: Step
    title: str
    state: str
    label: str
    icon: str
    length: str


def title_of(step_name: str) -> str:
    """A step without a title of its own shows its name: `ensure_resources` → `Ensure resources`."""
    return TITLES.get(step_name, step_name.replace("_", " ").replace("-", " ").capitalize())


def view_steps(
    operation: Operation, rows: Sequence[Step], *, failed_at: Step | None, now: datetime
) -> list[StepView]:
    """`rows` in their order. `failed_at`: the one of them that the Operation's error names."""
    goes_on = operation.state in {Operation.State.PENDING, Operation.State.RUNNING}
    views = []
    for i, row in enumerate(rows):
        state, label = str(row.state), row.get_state_display()
        if row is failed_at and state == Step.State.UNDONE:
            state, label = str(Step.State.FAILED), "Failed and undone"
        elif state == Step.State.PENDING and not goes_on:
            state, label = "skipped", "Not reached"
        following = rows[i + 1] if i + 1 < len(rows) and rows[i + 1].started_at else None
        views.append(
            StepView(
                row=row,
                title=title_of(row.name),
                state=state,
                label=label,
                icon=_ICONS.get(state, "circle"),
                length=_length(row, following, now),
            )
        )
    return views


def _length(row: Step, following: Step | None, now: datetime) -> str:
    """`0.8 s`, `0.8 s, undone in 0.1 s`. `following`: the step after it, when that was begun."""
    if row.started_at is None:
        return ""
    ended_at = row.finished_at or now
    if row.state == Step.State.UNDOING:
        since = (following.finished_at if following else None) or ended_at
        return _both(ended_at - row.started_at, now - since)
    if row.state == Step.State.UNDONE and following is None:
        return f"{length_of(ended_at - row.started_at)} with undoing it"
    if row.state == Step.State.UNDONE and following is not None and following.started_at is not None:
        return _both(following.started_at - row.started_at, ended_at - (following.finished_at or ended_at))
    return length_of((now if row.state == Step.State.STARTED else ended_at) - row.started_at)


def _both(did: timedelta, undid: timedelta) -> str:
    return f"{length_of(did)}, undone in {length_of(undid)}"
