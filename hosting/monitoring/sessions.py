"""Session reports into the database: who opened which session, when it was last used, whether it is over. As the system.

Reports come in any order, more than once, and some not at all: each only ever adds to what is known of its session (the
earliest opening, the latest use, an end), so the row is the same whatever the order. Rows of an Environment are bounded: what is over
makes room first, then new sessions are counted instead of listed. A report that makes no sense is passed over.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import connection
from django.db.models import Count, F, Q
from django.db.models.functions import Least

from hosting.dataplane.contract import SESSION_TOLD_EVERY_S, SessionReport
from hosting.models import Session, UnlistedSessions
from smcp.common.ids import new_id
from smcp.common.tenancy import as_system

LISTED_MAX: Final = 10_000  # rows of an Environment
LATE_S: Final = (
    2 * SESSION_TOLD_EVERY_S
)  # so much later than the idle time a gateway may still let a session in
LONGEST_LIFE_S: Final = 30 * 24 * 3600
BATCH: Final = 5000
_HANDLE = re.compile(r"[0-9a-f]{16}")
_LATEST: Final = 4_102_444_800.0  # the year 2100

Key = tuple[str, str, str]  # tenant, Environment, handle


@dataclass(slots=True)
class Heard:
    """What a batch of reports says of one session."""

    opened_at: float
    last_active_at: float
    expires_at: float
    ended_at: float | None = None
    is_opening: bool = False
    principal: str = ""
    client_name: str = ""
    client_version: str = ""
    protocol_version: str = ""


def store_sessions(reports: Iterable[SessionReport], *, most: int = LISTED_MAX) -> None:
    """Call inside `as_system()`, in the transaction that makes the reports count."""
    heard: dict[Key, Heard] = {}
    for report in filter(_makes_sense, reports):
        key = (report.tenant, report.environment, report.session)
        heard[key] = _merged(heard.get(key), report)
    if not heard:
        return
    left_out = _left_out(heard, most=most)
    _upsert({key: one for key, one in heard.items() if key not in left_out})
    _count_unlisted({key: heard[key] for key in left_out})


def expire_sessions(*, now: datetime) -> int:
    """Marks as expired what nobody has used for the idle time; returns how many. Forgets who was not listed when that is long ago."""
    idle = timedelta(seconds=settings.SESSION_IDLE_S)
    last = now - idle - timedelta(seconds=LATE_S)
    over = Session.objects.filter(
        Q(last_active_at__lt=last) | Q(expires_at__lte=now), state=Session.State.OPEN
    )
    expired = 0
    while True:
        with as_system():
            news = Session.objects.filter(
                state=Session.State.OPEN, pk__in=list(over.order_by().values_list("pk", flat=True)[:BATCH])
            ).update(state=Session.State.EXPIRED, ended_at=Least(F("last_active_at") + idle, F("expires_at")))
            if news < BATCH:
                UnlistedSessions.objects.filter(last_at__lt=last).delete()
        expired += news
        if news < BATCH:
            return expired


def _makes_sense(report: SessionReport) -> bool:
    return _HANDLE.fullmatch(report.session) is not None and 0 < report.at < _LATEST


def _merged(had: Heard | None, report: SessionReport) -> Heard:
    opened_at = report.opened_at if 0 < report.opened_at <= report.at else report.at
    expires_at = min(report.expires_at or _LATEST, opened_at + LONGEST_LIFE_S)
    one = had or Heard(opened_at, report.at, expires_at)
    one.opened_at = min(one.opened_at, opened_at)
    one.last_active_at = max(one.last_active_at, report.at)
    one.expires_at = max(one.expires_at, expires_at)
    if report.event == "ended":
        one.ended_at = report.at if one.ended_at is None else min(one.ended_at, report.at)
    one.is_opening = one.is_opening or report.event == "opened"
    one.principal = _text(report.principal, 120) or one.principal
    one.client_name = _text(report.client_name, 100) or one.client_name
    one.client_version = _text(report.client_version, 100) or one.client_version
    one.protocol_version = _text(report.protocol_version, 16) or one.protocol_version
    return one


def _text(said: str, longest: int) -> str:
    return said.replace("\0", "")[:longest]


def _left_out(heard: dict[Key, Heard], *, most: int) -> set[Key]:
    """Sessions for which their Environment has no room, after what is over has made some."""
    environments = {environment for _, environment, _ in heard}
    rows = Session.objects.filter(environment_id__in=environments)
    known = set(
        rows.filter(handle__in={handle for *_, handle in heard}).values_list(
            "tenant_id", "environment_id", "handle"
        )
    )
    new: dict[str, list[Key]] = defaultdict(list)
    for key in heard:
        if key not in known:
            new[key[1]].append(key)
    counts = dict(
        rows.filter(environment_id__in=new).order_by().values_list("environment_id").annotate(n=Count("pk"))
    )
    left_out: set[Key] = set()
    for environment, keys in new.items():
        missing = counts.get(environment, 0) + len(keys) - most
        if missing > 0:
            missing -= _make_room(environment, missing)
        if missing > 0:
            left_out.update(keys[max(0, len(keys) - missing) :])
    return left_out


def _make_room(environment: str, missing: int) -> int:
    """Removes what has been over for longest; returns how many rows. What was ended here stays: it tells an emptied Redis."""
    over = Session.objects.filter(environment_id=environment, ended_by="").exclude(state=Session.State.OPEN)
    oldest = list(over.order_by("ended_at").values_list("pk", flat=True)[:missing])
    removed, _ = Session.objects.filter(pk__in=oldest).delete()
    return removed


def _upsert(heard: dict[Key, Heard]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO hosting_session AS had
              (id, tenant_id, environment_id, handle, state, principal, client_name, client_version, protocol_version,
               opened_at, last_active_at, expires_at, ended_at, ended_by)
            SELECT %s, e.tenant_id, e.id, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, ''
              FROM hosting_environment e WHERE e.id = %s AND e.tenant_id = %s
            ON CONFLICT (tenant_id, environment_id, handle) DO UPDATE SET
              state = CASE
                WHEN 'ended' IN (had.state, excluded.state) THEN 'ended'
                WHEN excluded.last_active_at > had.last_active_at THEN 'open'
                ELSE had.state END,
              ended_at = CASE
                WHEN had.state = 'ended' OR excluded.state = 'ended' THEN
                  least(CASE WHEN had.state = 'ended' THEN had.ended_at END, excluded.ended_at)
                WHEN excluded.last_active_at > had.last_active_at THEN NULL
                ELSE had.ended_at END,
              principal = coalesce(nullif(excluded.principal, ''), had.principal),
              client_name = coalesce(nullif(excluded.client_name, ''), had.client_name),
              client_version = coalesce(nullif(excluded.client_version, ''), had.client_version),
              protocol_version = coalesce(nullif(excluded.protocol_version, ''), had.protocol_version),
              opened_at = least(had.opened_at, excluded.opened_at),
              last_active_at = greatest(had.last_active_at, excluded.last_active_at),
              expires_at = greatest(had.expires_at, excluded.expires_at)
            """,
            [_parameters(key, one) for key, one in sorted(heard.items())],
        )


def _parameters(key: Key, one: Heard) -> tuple[str | datetime | None, ...]:
    tenant, environment, handle = key
    return (
        new_id(),
        handle,
        Session.State.OPEN if one.ended_at is None else Session.State.ENDED,
        one.principal,
        one.client_name,
        one.client_version,
        one.protocol_version,
        _time(one.opened_at),
        _time(one.last_active_at),
        _time(one.expires_at),
        None if one.ended_at is None else _time(one.ended_at),
        environment,
        tenant,
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _count_unlisted(heard: dict[Key, Heard]) -> None:
    """Openings count; a use of one that is not listed only says that they are still there."""
    counts: dict[tuple[str, str], list[float]] = {}
    for (tenant, environment, _), one in heard.items():
        if one.ended_at is None:
            count = counts.setdefault((tenant, environment), [0, 0.0])
            count[0] += one.is_opening
            count[1] = max(count[1], one.last_active_at)
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO hosting_unlistedsessions AS had (id, tenant_id, environment_id, count, last_at)
            SELECT %s, e.tenant_id, e.id, %s, %s FROM hosting_environment e WHERE e.id = %s AND e.tenant_id = %s
            ON CONFLICT (environment_id) DO UPDATE SET
              count = had.count + excluded.count, last_at = greatest(had.last_at, excluded.last_at)
            """,
            [
                (new_id(), int(count), _time(last_at), environment, tenant)
                for (tenant, environment), (count, last_at) in sorted(counts.items())
            ],
        )
