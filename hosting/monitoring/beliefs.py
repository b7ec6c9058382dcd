"""Evidence into the database: HealthState rows, Flips, Incidents and the latency history. As the system, in one transaction.

Rows are locked in id order, so two collectors cannot deadlock, and evidence of one moment is weighed once. A claim is not
touched: traffic seen while a probe is in flight must not let another one begin.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from hosting.models import Flip, HealthState, Incident
from hosting.monitoring.verdict import Belief, Change, Evidence, weigh
from smcp.common.ids import new_id


@dataclass(frozen=True, kw_only=True)
class Minute:
    """What to add to one Environment's latency history."""

    tenant: str
    environment: str
    minute: datetime
    source: str
    requests: int
    failures: int
    latency_ms_sum: float
    latency_ms_max: float


def observe(evidence: Mapping[tuple[str, str], Sequence[Evidence]]) -> list[Flip]:
    """Weighs evidence by (tenant id, Environment id) and returns the flips it caused. Call inside `as_system()`.

    An Environment that is not monitored (never deployed, retired) is passed over.
    """
    rows = list(
        HealthState.objects.select_for_update()
        .filter(environment_id__in=[environment for _, environment in evidence])
        .order_by("id")
    )
    flips: list[Flip] = []
    for row in rows:
        for piece in sorted(evidence.get((row.tenant_id, row.environment_id), ()), key=lambda e: e.at):
            belief, change = weigh(_belief(row), piece, phase=phase_of(row.environment_id))
            _store(row, belief)
            if change is not None:
                flips.append(_flip(row, change))
    HealthState.objects.bulk_update(
        rows,
        [
            "state", "since", "failures_in_a_row", "successes_in_a_row", "last_seen_at", "last_latency_ms",
            "last_failure", "interval_s", "next_probe_at",
        ],
        batch_size=500,
    )  # fmt: skip
    Flip.objects.bulk_create(flips)
    for flip in flips:
        _mark_incident(flip)
    return flips


def add_minutes(minutes: Sequence[Minute]) -> None:
    """Adds to the latency history, minute by minute. Call inside the transaction that makes it count once."""

    with connection.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO hosting_latencysample AS had
              (id, tenant_id, environment_id, minute, source, requests, failures, latency_ms_sum, latency_ms_max)
            SELECT %s, e.tenant_id, e.id, %s, %s, %s, %s, %s, %s
              FROM hosting_environment e WHERE e.id = %s AND e.tenant_id = %s
            ON CONFLICT (tenant_id, environment_id, minute, source) DO UPDATE SET
              requests = had.requests + excluded.requests,
              failures = had.failures + excluded.failures,
              latency_ms_sum = had.latency_ms_sum + excluded.latency_ms_sum,
              latency_ms_max = greatest(had.latency_ms_max, excluded.latency_ms_max)
            """,
            [
                (
                    new_id(),
                    m.minute,
                    m.source,
                    m.requests,
                    m.failures,
                    m.latency_ms_sum,
                    m.latency_ms_max,
                    m.environment,
                    m.tenant,
                )
                for m in minutes
            ],
        )


def phase_of(environment_id: str) -> float:
    """A stable place in [0, 1) for an Environment: where in the interval its probes fall."""
    return zlib.crc32(environment_id.encode()) / 2**32


def _belief(row: HealthState) -> Belief:
    return Belief(
        state=row.state,  # type: ignore[arg-type]  # the column's choices are the literal's values
        since=row.since,
        failures_in_a_row=row.failures_in_a_row,
        successes_in_a_row=row.successes_in_a_row,
        interval_s=row.interval_s,
        next_probe_at=row.next_probe_at,
        last_seen_at=row.last_seen_at,
        last_latency_ms=row.last_latency_ms,
        last_failure=row.last_failure,
    )


def _store(row: HealthState, belief: Belief) -> None:
    row.state = belief.state
    row.since = belief.since
    row.failures_in_a_row = belief.failures_in_a_row
    row.successes_in_a_row = belief.successes_in_a_row
    row.interval_s = belief.interval_s
    row.next_probe_at = belief.next_probe_at
    row.last_seen_at = belief.last_seen_at
    row.last_latency_ms = belief.last_latency_ms
    row.last_failure = belief.last_failure


def _flip(row: HealthState, change: Change) -> Flip:
    return Flip(
        tenant_id=row.tenant_id,
        environment_id=row.environment_id,
        at=change.at,
        old=change.old,
        new=change.new,
        reason=change.reason[:120],
    )


def _mark_incident(flip: Flip) -> None:
    if flip.new == "unhealthy":
        Incident.objects.create(
            tenant_id=flip.tenant_id,
            environment_id=flip.environment_id,
            started_at=flip.at,
            reason=flip.reason,
        )
    elif flip.old == "unhealthy":
        Incident.objects.filter(
            tenant_id=flip.tenant_id, environment_id=flip.environment_id, ended_at=None
        ).update(ended_at=flip.at)
