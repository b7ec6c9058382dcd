"""Reads the data plane's reports: health from real traffic, its latency history, sessions, and which keys are in use.

The cursor moves in the transaction that applies the reports, so a crash reads them again and none counts twice. One collector
at a time (a row lock on the cursor); a second one finds nothing to do. What was read is then removed from the stream.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec
import redis
from django.conf import settings
from django.utils import timezone

from hosting.dataplane.contract import (
    AnyReport,
    CredentialReport,
    HealthReport,
    Keys,
    SessionReport,
    decode_report,
)
from hosting.models import ReportCursor
from hosting.monitoring.beliefs import Minute, add_minutes, observe
from hosting.monitoring.sessions import store_sessions
from hosting.monitoring.verdict import FAILURES_TO_FLIP, Evidence
from smcp.common.tenancy import as_system
from tenants.operations import note_key_uses

logger = logging.getLogger(__name__)
BATCH: Final = 2000
COLLECT_S: Final = 4.0  # less than the schedule's


def collect_all(*, should_stop: Callable[[], bool] = lambda: False) -> None:
    """What has come since the last time, for COLLECT_S at most. Raises redis.RedisError."""
    until = time.monotonic() + COLLECT_S
    while collect() == BATCH and time.monotonic() < until and not should_stop():
        pass


def collect(client: redis.Redis | None = None) -> int:
    """Applies what is new on the reports stream, up to BATCH entries; returns how many it read. Raises redis.RedisError."""
    connection = client or redis.Redis.from_url(settings.DATAPLANE_REDIS_URL)
    stream = Keys(installation=settings.INSTALLATION).reports
    try:
        with as_system():
            cursor, _ = ReportCursor.objects.get_or_create(stream=stream)
            cursor = ReportCursor.objects.select_for_update().get(stream=stream)
            position = _known_position(connection, stream, cursor.position)
            entries = cast(list[Any], connection.xrange(stream, f"({position}", "+", count=BATCH))
            if not entries:
                return 0
            apply(_decoded(entries))
            cursor.position = entries[-1][0].decode()
            cursor.updated_at = timezone.now()
            cursor.save()
        connection.xtrim(stream, minid=cursor.position, approximate=True)
    finally:
        if client is None:
            connection.close()
    return len(entries)


def apply(reports: Iterable[AnyReport]) -> None:
    """Weighs health reports, stores what is told of sessions, and notes the use of keys. Call inside `as_system()`."""
    uses: dict[tuple[str, str], datetime] = {}
    evidence: dict[tuple[str, str], list[Evidence]] = defaultdict(list)
    minutes: list[Minute] = []
    sessions: list[SessionReport] = []
    for report in reports:
        if isinstance(report, CredentialReport):
            uses[report.tenant, report.credential] = datetime.fromtimestamp(report.at, UTC)
        if isinstance(report, SessionReport):
            sessions.append(report)
        if not isinstance(report, HealthReport) or report.requests <= 0:
            continue
        evidence[report.tenant, report.environment].append(evidence_of(report))
        start = datetime.fromtimestamp(report.window_start, UTC)
        minutes.append(
            Minute(
                tenant=report.tenant,
                environment=report.environment,
                minute=start.replace(second=0, microsecond=0),
                source="traffic",
                requests=report.requests,
                failures=report.failures,
                latency_ms_sum=report.latency_ms_sum,
                latency_ms_max=report.latency_ms_max,
            )
        )
    note_key_uses(uses)
    store_sessions(sessions)
    if minutes:
        add_minutes(minutes)
        observe(evidence)


def evidence_of(report: HealthReport) -> Evidence:
    """A window speaks against the server when at least half of it failed; it weighs as many failures as it holds, up to
    what flips the state by itself."""
    is_ok = report.failures * 2 < report.requests
    successes = report.requests - report.failures
    return Evidence(
        at=datetime.fromtimestamp(report.window_start + report.window_s, UTC),
        is_ok=is_ok,
        source="traffic",
        latency_ms=report.latency_ms_sum / report.requests if is_ok else None,
        failure="" if is_ok else report.last_failure or "upstream_error",
        weight=successes if is_ok else min(report.failures, FAILURES_TO_FLIP),
    )


def _known_position(connection: redis.Redis, stream: str, position: str) -> str:
    """The cursor, or the start when this Redis never issued it: emptied or replaced, its ids begin anew."""
    last = cast(list[Any], connection.xrevrange(stream, count=1))
    newest = last[0][0].decode() if last else "0-0"
    return position if _id(position) <= _id(newest) else "0-0"


def _id(text: str) -> tuple[int, int]:
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence or 0)


def _decoded(entries: Iterable[Any]) -> Iterable[AnyReport]:
    for entry_id, fields in entries:
        try:
            yield decode_report(fields[b"report"])
        except (KeyError, msgspec.MsgspecError):
            logger.warning("monitoring.report.unreadable entry=%s", entry_id.decode())
