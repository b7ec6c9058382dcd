"""Operations in every state, and health with a history."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from hosting.models import (
    Environment,
    Flip,
    HealthState,
    Incident,
    LatencySample,
    Operation,
    Probe,
    Session,
    Step,
    Version,
)
from hosting.models.health import Health
from hosting.operations.deployments import RETIRE_STEPS
from tests.factories.ids import id_at

#: The steps of a deploy, for tests that only look at them. A retirement's stand in hosting/operations/deployments.py.
DEPLOY_STEPS = (
    "choose_names",
    "ensure_kv_namespaces",
    "ensure_r2_buckets",
    "ensure_d1_databases",
    "upload",
    "probe",
    "publish",
    "drain",
    "remove_releases",
)
_UNDO_S = 0.1  # undoing is quick


def make_operation(
    environment: Environment,
    *,
    kind: str = Operation.Kind.DEPLOY,
    state: str = Operation.State.SUCCEEDED,
    step_names: Sequence[str] = (),
    at_step: int = 2,
    error: str = "",
    version: Version | None = None,
    at: datetime | None = None,
    step_s: float = 0.8,
    requested_by: str = "system",
) -> Operation:
    """An Operation in any state, with its Steps as they would stand then.

    `at_step`: the step that runs, failed, or is being undone; the ones before it are done. `error`: the failed step's message.
    """
    names = step_names or (DEPLOY_STEPS if kind == Operation.Kind.DEPLOY else RETIRE_STEPS)
    at = at or timezone.now()
    is_over = state in {Operation.State.SUCCEEDED, Operation.State.FAILED}
    reached = len(names) if state == Operation.State.SUCCEEDED else at_step
    operation = Operation.objects.create(
        id=id_at(at),
        tenant_id=environment.tenant_id,
        server=environment.server,
        environment=environment,
        kind=kind,
        state=state,
        input={"targets": [{"version": version.id, "number": version.number, "percentage": "100"}]}
        if version
        else {},
        error={"code": "upstream", "message": error, "step": names[at_step]} if error else None,
        requested_by=requested_by,
        created_at=at,
        finished_at=at + timedelta(seconds=step_s * (reached + 1) + _UNDO_S * (reached + 2))
        if is_over
        else None,
    )
    for position, name in enumerate(names):
        step_state, message = _step_state(state, position, reached, error)
        has_started = step_state != Step.State.PENDING
        has_finished = step_state not in {Step.State.PENDING, Step.State.STARTED}
        started_at = at + timedelta(seconds=step_s * position)
        Step.objects.create(
            tenant_id=environment.tenant_id,
            operation=operation,
            position=position,
            name=name,
            state=step_state,
            attempts=(3 if message else 1) if has_started else 0,
            message=message,
            started_at=started_at if has_started else None,
            finished_at=_finished_at(started_at, step_state, step_s=step_s, left=reached - position)
            if has_finished
            else None,
        )
    return operation


def _finished_at(started_at: datetime, step_state: str, *, step_s: float, left: int) -> datetime:
    """`left`: how many steps after this one were begun. They were undone before it."""
    done_at = started_at + timedelta(seconds=step_s)
    if step_state != Step.State.UNDONE:
        return done_at
    return done_at + timedelta(seconds=step_s * left + _UNDO_S * (left + 1))


def _step_state(state: str, position: int, reached: int, error: str) -> tuple[str, str]:
    if state == Operation.State.PENDING:
        return Step.State.PENDING, ""
    if position > reached:
        return Step.State.PENDING, ""
    if state == Operation.State.FAILED:
        return Step.State.UNDONE, error if position == reached else ""
    if state == Operation.State.UNWINDING:
        if position == reached:
            return Step.State.UNDONE, error
        return (Step.State.UNDOING if position == reached - 1 else Step.State.DONE), ""
    if position == reached:
        return Step.State.STARTED, ""
    return Step.State.DONE, ""


def make_health(
    environment: Environment, state: str = Health.HEALTHY, *, since: datetime | None = None, **fields: Any
) -> HealthState:
    now = timezone.now()
    return HealthState.objects.create(
        tenant_id=environment.tenant_id,
        environment=environment,
        state=state,
        since=since or now - timedelta(hours=5),
        **{
            "last_seen_at": None if state == Health.UNKNOWN else now - timedelta(seconds=20),
            "last_latency_ms": None if state == Health.UNKNOWN else 42.0,
            "last_failure": "timeout" if state == Health.UNHEALTHY else "",
            "failures_in_a_row": 7 if state == Health.UNHEALTHY else 0,
            "next_probe_at": now + timedelta(seconds=40),
            **fields,
        },
    )


def make_flip(environment: Environment, old: str, new: str, *, at: datetime, reason: str = "") -> Flip:
    return Flip.objects.create(
        id=id_at(at),
        tenant_id=environment.tenant_id,
        environment=environment,
        at=at,
        old=old,
        new=new,
        reason=reason,
    )


def make_incident(
    environment: Environment,
    *,
    started_at: datetime,
    ended_at: datetime | None = None,
    reason: str = "timeout",
) -> Incident:
    return Incident.objects.create(
        id=id_at(started_at),
        tenant_id=environment.tenant_id,
        environment=environment,
        started_at=started_at,
        ended_at=ended_at,
        reason=reason,
    )


def make_probe(
    environment: Environment,
    *,
    at: datetime,
    latency_ms: float = 40.0,
    failure: str = "",
    era: str = "modern",
) -> Probe:
    return Probe.objects.create(
        id=id_at(at),
        tenant_id=environment.tenant_id,
        environment=environment,
        at=at,
        is_ok=not failure,
        latency_ms=latency_ms,
        era=era,
        failure=failure,
    )


def make_latencies(
    environment: Environment,
    *,
    hours: int = 24,
    every_minutes: int = 5,
    mean_ms: float = 45.0,
    requests: int = 60,
    outage: tuple[int, int] | None = None,
    now: datetime | None = None,
) -> list[LatencySample]:
    """A history with the shape of a day, the same each time. `outage`: (from, to) in minutes before now, when all fails."""
    end = (now or timezone.now()).replace(second=0, microsecond=0)
    samples = []
    for back in range(0, hours * 60, every_minutes):
        at = end - timedelta(minutes=back)
        day = (at.hour * 60 + at.minute) / 1440
        wave = 1 + 0.35 * math.sin(2 * math.pi * (day - 0.3)) + 0.12 * math.sin(back * 0.37)
        asked = max(1, round(requests * (0.5 + 0.5 * wave)))
        failed = asked if outage and outage[1] <= back <= outage[0] else 0
        latency = mean_ms * wave * (4 if failed else 1)
        samples.append(
            LatencySample(
                tenant_id=environment.tenant_id,
                environment=environment,
                minute=at,
                source="traffic",
                requests=asked,
                failures=failed,
                latency_ms_sum=latency * asked,
                latency_ms_max=latency * 2.4,
            )
        )
    return LatencySample.objects.bulk_create(samples)


def make_session(environment: Environment, *, at: datetime | None = None, **fields: Any) -> Session:
    """Open, unless `state` says something else."""
    at = at or timezone.now()
    id_ = id_at(at)
    return Session.objects.create(
        **{
            "id": id_,
            "tenant_id": environment.tenant_id,
            "environment": environment,
            "handle": secrets.token_hex(8),
            "principal": "public",
            "client_name": "a client",
            "client_version": "1.0",
            "protocol_version": "2025-11-25",
            "opened_at": at,
            "last_active_at": at,
            "expires_at": at + timedelta(days=30),
            **fields,
        }
    )
