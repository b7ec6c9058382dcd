"""Runs Operations: claims the due one of the tenant that waited longest, takes it through its steps, records every outcome.

A claim raises the Operation's `fence` and sets a lease. Every write names the fence it holds, inside the transaction that does
the writing; a worker that was paused past its lease finds another fence there and changes nothing. Before each call to
Cloudflare the lease is made to last longer than the call may take. No transaction is open while we call out.

If we crash: the lease runs out, the sweep claims the Operation again, and the step that was started is done (or undone) once more.
A step that fails is tried again, ever more slowly, up to its bound; then states.py says whether to go back or on. A turn is
bounded, so that long work lets others pass. Told to stop, a worker finishes the step it is in and lets go.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from hosting.cloudflare.errors import CloudflareError, RateLimited
from hosting.cloudflare.port import Cloudflare
from hosting.models import UNFINISHED, Operation
from hosting.models import Step as StepRow
from hosting.provisioning import deploy, retire
from hosting.provisioning.accounts import open_cloudflare
from hosting.provisioning.states import (
    Failure,
    Finish,
    Journal,
    OperationState,
    StepState,
    Undo,
    Verdict,
    backoff_s,
    judge,
    next_move,
)
from hosting.provisioning.steps import NotYet, Run, Step, StepFailed
from smcp.common.audit import correlation_id
from smcp.common.tenancy import as_system, as_tenant
from tenants.models import Tenant

logger = logging.getLogger(__name__)

STEPS: Final[Mapping[str, Mapping[str, Step]]] = {deploy.KIND: deploy.STEPS, retire.KIND: retire.STEPS}
TURN_S: Final = 20.0  # a turn ends with the step that passes this
WAIT_HERE_S: Final = 1.0  # a wait this short is not worth letting go for

Stop = Callable[[], bool]


class LostLease(Exception):
    """Another worker has taken over. Whoever sees this stops at once and writes nothing."""


@dataclass
class Held:
    """An Operation that is ours as long as its `fence` is the one we set. See `steps.Hold`."""

    tenant_id: str
    operation_id: str
    fence: int
    lease_until: datetime
    step_id: str = ""

    @contextmanager
    def transaction(self) -> Iterator[Operation]:
        """As the tenant, with the row locked. Raises LostLease."""
        with as_tenant(self.tenant_id):
            operation = (
                Operation.objects.select_for_update()
                .filter(tenant_id=self.tenant_id, id=self.operation_id, fence=self.fence)
                .first()
            )
            if operation is None:
                raise LostLease(self.operation_id)
            yield operation

    def assure(self) -> None:
        """The lease outlasts one call to Cloudflare. Raises LostLease."""
        now = timezone.now()
        if (self.lease_until - now).total_seconds() > settings.CLOUDFLARE_TIMEOUT_S:
            return
        until = now + timedelta(seconds=settings.LEASE_S)
        with self.transaction() as operation:
            operation.lease_until = until
            operation.save(update_fields=["lease_until"])
        self.lease_until = until

    def say(self, message: str) -> None:
        with self.transaction():
            StepRow.objects.filter(tenant_id=self.tenant_id, id=self.step_id).update(message=message[:500])

    def cloudflare(self, account_id: str, *, is_priority: bool) -> Cloudflare:
        return open_cloudflare(account_id, gate=self.assure, is_priority=is_priority)


# ── Claiming ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_next(*, owner: str, should_stop: Stop = lambda: False) -> bool:
    """One turn for whoever waited longest. Returns whether there was anything to do."""
    held = claim(owner=owner, now=timezone.now())
    if held is None:
        return False
    try:
        _turn(held, should_stop)
    except LostLease:
        logger.warning("operation.lease_lost operation=%s fence=%s", held.operation_id, held.fence)
    return True


def claim(*, owner: str, now: datetime) -> Held | None:
    """The due Operation of the least recently served tenant, ours until the lease runs out."""
    lease_until = now + timedelta(seconds=settings.LEASE_S)
    with as_system():
        row = (
            Operation.objects.select_for_update(of=("self",), skip_locked=True)
            .filter(Q(lease_until=None) | Q(lease_until__lt=now), state__in=UNFINISHED, due_at__lte=now)
            .order_by("tenant__last_served_at", "due_at", "id")
            .first()
        )
        if row is None:
            return None
        Operation.objects.filter(id=row.id).update(
            fence=row.fence + 1, lease_until=lease_until, lease_owner=owner[:80]
        )
        Tenant.objects.filter(id=row.tenant_id).update(last_served_at=now)
    return Held(tenant_id=row.tenant_id, operation_id=row.id, fence=row.fence + 1, lease_until=lease_until)


def has_due(*, now: datetime) -> bool:
    with as_system():
        return Operation.objects.filter(
            Q(lease_until=None) | Q(lease_until__lt=now), state__in=UNFINISHED, due_at__lte=now
        ).exists()


# ── A turn ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _turn(held: Held, should_stop: Stop) -> None:
    ends_at = time.monotonic() + TURN_S
    with held.transaction() as operation:
        rows = list(
            StepRow.objects.filter(tenant_id=held.tenant_id, operation=operation).order_by("position")
        )
    correlation_id.set(operation.correlation)
    while True:
        # Under the lease nobody else writes these rows: what we recorded is how they are.
        journal = journal_of(operation, rows)
        move = next_move(journal)
        if isinstance(move, Finish):
            _finish(held, move.state)
            return
        row = rows[move.position]
        held.step_id = row.id
        operation, after_s = _carry_out(held, operation, journal, row, is_undo=isinstance(move, Undo))
        if after_s <= WAIT_HERE_S and not should_stop():
            time.sleep(after_s)
            after_s = 0.0
        if after_s or should_stop() or time.monotonic() > ends_at:
            _let_go(held, after_s)
            return


def journal_of(operation: Operation, rows: list[StepRow]) -> Journal:
    """As recorded. The pivot is named in the Operation's context; RETIRE has none, and only goes forward."""
    pivot_name = operation.context.get("pivot", "")
    pivot = next((row.position for row in rows if row.name == pivot_name), -1)
    return Journal(
        state=OperationState(operation.state), steps=[StepState(row.state) for row in rows], pivot=pivot
    )


def _carry_out(
    held: Held, operation: Operation, journal: Journal, row: StepRow, *, is_undo: bool
) -> tuple[Operation, float]:
    """Does or undoes one step and records the outcome. Returns the Operation as it is then, and in how many seconds to go on."""
    step = STEPS[operation.kind][row.name]
    _record_start(held, row, is_undo=is_undo)
    run = Run(held, operation, started_at=row.started_at or timezone.now())
    try:
        (step.undo if is_undo else step.do)(run)
    except LostLease:
        raise
    except NotYet as exc:
        return _record_wait(held, row, str(exc)), exc.after_s
    except RateLimited as exc:
        waiting = _record_wait(held, row, "waiting for room in Cloudflare's API limit")
        return waiting, exc.retry_after_s or backoff_s(row.attempts)
    except CloudflareError as exc:
        failed = _Failed(
            code=_code_of(exc),
            message=str(exc),
            is_permanent=exc.permanent,
            is_outcome_unknown=exc.outcome_unknown,
            retry_after_s=exc.retry_after_s or 0.0,
        )
        return _record_failure(held, journal, row, step, failed, is_undo=is_undo)
    except StepFailed as exc:
        failed = _Failed(code=exc.code, message=str(exc), is_permanent=exc.is_permanent)
        return _record_failure(held, journal, row, step, failed, is_undo=is_undo)
    except Exception:
        logger.exception("operation.step.surprise operation=%s step=%s", held.operation_id, row.name)
        failed = _Failed(
            code="internal", message="Something unexpected happened on our side.", is_outcome_unknown=True
        )
        _, after_s = _record_failure(held, journal, row, step, failed, is_undo=is_undo)
        _let_go(held, after_s)
        raise
    return _record_done(held, row, is_undo=is_undo), 0.0


@dataclass(frozen=True, kw_only=True)
class _Failed:
    """How a step failed, in words for the tenant. `retry_after_s`: the vendor's wish, if it has one."""

    code: str
    message: str
    is_permanent: bool = False
    is_outcome_unknown: bool = False
    retry_after_s: float = 0.0


def _code_of(exc: CloudflareError) -> str:
    """`NotEmpty` → `cloudflare-not-empty`."""
    return "cloudflare" + re.sub(r"([A-Z])", lambda match: "-" + match[1].lower(), type(exc).__name__)


# ── Recording: every write under the fence ───────────────────────────────────────────────────────────────────────────


def _record_start(held: Held, row: StepRow, *, is_undo: bool) -> None:
    now = timezone.now()
    row.attempts = 1 if is_undo and row.state != StepState.UNDOING else row.attempts + 1
    row.state = StepRow.State.UNDOING if is_undo else StepRow.State.STARTED
    row.started_at = row.started_at or now
    with held.transaction() as operation:
        row.save(update_fields=["state", "attempts", "started_at"])
        if operation.state == Operation.State.PENDING:
            operation.state = Operation.State.RUNNING
            operation.save(update_fields=["state"])


def _record_wait(held: Held, row: StepRow, message: str) -> Operation:
    row.attempts -= 1  # waiting is no attempt
    row.message = message[:500]
    with held.transaction() as operation:
        row.save(update_fields=["attempts", "message"])
    return operation


def _record_done(held: Held, row: StepRow, *, is_undo: bool) -> Operation:
    with held.transaction() as operation:
        row.state = StepRow.State.UNDONE if is_undo else StepRow.State.DONE
        row.finished_at = timezone.now()
        fields = ["state", "finished_at"]
        if not is_undo:
            row.message = ""
            fields.append("message")
        row.save(update_fields=fields)
    _log("operation.step.undone" if is_undo else "operation.step.done", held, row)
    return operation


def _record_failure(
    held: Held, journal: Journal, row: StepRow, step: Step, failed: _Failed, *, is_undo: bool
) -> tuple[Operation, float]:
    """Returns the Operation as it is then, and when to try again, in seconds (0: it goes on, or back). Undoing never gives up."""
    _log("operation.step.failed", held, row, failed.code)
    row.message = failed.message[:500]
    verdict = Verdict.RETRY
    if not is_undo:
        failure = Failure(
            is_permanent=failed.is_permanent,
            is_outcome_unknown=failed.is_outcome_unknown,
            attempts=row.attempts,
            bound=step.bound,
            can_be_left=step.can_be_left,
        )
        verdict = judge(journal, row.position, failure)
    with held.transaction() as operation:
        if verdict != Verdict.RETRY:
            row.state, row.finished_at = StepRow.State.FAILED, timezone.now()
            if verdict == Verdict.UNWIND or step.leaves_error:
                operation.error = {"code": failed.code, "message": row.message, "step": row.name}
            if verdict == Verdict.UNWIND:
                operation.state = Operation.State.UNWINDING
            operation.save(update_fields=["error", "state"])
        row.save(update_fields=["state", "message", "finished_at"])
    after_s = max(backoff_s(row.attempts), failed.retry_after_s) if verdict == Verdict.RETRY else 0.0
    return operation, after_s


def _finish(held: Held, state: OperationState) -> None:
    with held.transaction() as operation:
        failed = state == OperationState.FAILED or operation.error is not None
        operation.state = Operation.State.FAILED if failed else Operation.State.SUCCEEDED
        operation.finished_at = timezone.now()
        operation.lease_until = None
        operation.save(update_fields=["state", "finished_at", "lease_until"])
    logger.info("operation.%s operation=%s tenant=%s", operation.state, held.operation_id, held.tenant_id)


def _let_go(held: Held, after_s: float) -> None:
    with held.transaction() as operation:
        operation.due_at = timezone.now() + timedelta(seconds=after_s)
        operation.lease_until = None
        operation.save(update_fields=["due_at", "lease_until"])


def _log(event: str, held: Held, row: StepRow, code: str = "") -> None:
    logger.log(
        logging.WARNING if code else logging.INFO,
        "%s tenant=%s operation=%s step=%s attempt=%s%s",
        event,
        held.tenant_id,
        held.operation_id,
        row.name,
        row.attempts,
        f" code={code}" if code else "",
    )
