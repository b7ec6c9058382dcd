"""Sessions as the gateways tell of them: in any order, more than once, from anybody, and bounded."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from django.conf import settings
from django.utils import timezone

from hosting.dataplane.contract import Keys, SessionReport, encode
from hosting.models import Environment, Session, UnlistedSessions
from hosting.monitoring.reports import collect
from hosting.monitoring.retention import SESSIONS_KEPT, prune
from hosting.monitoring.sessions import LATE_S, expire_sessions, store_sessions
from smcp.common.tenancy import as_system, as_tenant

pytestmark = pytest.mark.acceptance("S3.10")
OPENED_AT = 1_760_000_000.0
LIFE_S = 30 * 24 * 3600
HANDLE = "00112233445566ff"


def report(environment: Environment, event: str, *, after_s: float = 0.0, **more: Any) -> SessionReport:
    """`after_s`: seconds after the opening. What the client is called is told with the opening."""
    told = {"client_name": "inspector", "client_version": "2"} if event == "opened" else {}
    return SessionReport(
        **{
            "tenant": environment.tenant_id,
            "environment": environment.id,
            "session": HANDLE,
            "principal": "public",
            "event": event,
            "at": OPENED_AT + after_s,
            "opened_at": OPENED_AT,
            "expires_at": OPENED_AT + LIFE_S,
            "protocol_version": "2025-11-25",
            **told,
            **more,
        }
    )


def store(*reports: SessionReport, most: int = 10_000) -> None:
    with as_system():
        store_sessions(reports, most=most)


def rows(environment: Environment) -> list[Session]:
    with as_tenant(environment.tenant_id):
        return list(Session.objects.filter(environment=environment).order_by("handle"))


def handles(environment: Environment) -> list[str]:
    return [row.handle for row in rows(environment)]


def unlisted(environment: Environment) -> int:
    with as_tenant(environment.tenant_id):
        return sum(UnlistedSessions.objects.filter(environment=environment).values_list("count", flat=True))


def at(after_s: float) -> datetime:
    return datetime.fromtimestamp(OPENED_AT + after_s, UTC)


def test_reports_make_the_same_row_in_whatever_order_and_however_often_they_come(deployed: Any) -> None:
    environment = deployed()
    told = [
        report(environment, "opened"),
        report(environment, "active", after_s=120),
        report(environment, "active", after_s=60),
        report(environment, "ended", after_s=180),
    ]
    seen = set()
    for number, order in enumerate(itertools.permutations(told)):
        handle = f"{number:016x}"
        renamed = [report(environment, r.event, after_s=r.at - OPENED_AT, session=handle) for r in order]
        for one in (*renamed, renamed[0]):  # each in a batch of its own, and one again
            store(one)
        [row] = [row for row in rows(environment) if row.handle == handle]
        seen.add(
            (
                row.state,
                row.opened_at,
                row.last_active_at,
                row.ended_at,
                row.expires_at,
                row.client_name,
                row.client_version,
                row.protocol_version,
                row.principal,
            )
        )
    assert seen == {
        ("ended", at(0), at(180), at(180), at(LIFE_S), "inspector", "2", "2025-11-25", "public"),
    }


def test_a_batch_says_the_same_as_its_reports_one_by_one(deployed: Any, reports_redis: Any) -> None:
    environment = deployed()
    stream = Keys(installation=settings.INSTALLATION).reports
    for one in (
        report(environment, "active", after_s=61),
        report(environment, "opened"),
        report(environment, "opened", session="f" * 16, after_s=5, opened_at=OPENED_AT + 5),
    ):
        reports_redis.xadd(stream, {"report": encode(one)})
    collect(reports_redis)
    first, second = rows(environment)
    assert (first.state, first.opened_at, first.last_active_at) == ("open", at(0), at(61))
    assert (second.handle, second.opened_at, second.client_name) == ("f" * 16, at(5), "inspector")
    assert collect(reports_redis) == 0
    assert reports_redis.xlen(stream) <= 100  # what was read is removed, but for the last block


def test_what_makes_no_sense_or_is_anothers_changes_nothing_and_stops_nobody(deployed: Any) -> None:
    environment, stranger = deployed(), deployed()
    store(
        report(environment, "opened", session="no handle"),
        report(environment, "opened", session="A" * 16),
        report(environment, "opened", at=float("1e300")),
        report(environment, "opened", at=-1.0),
        report(environment, "opened", session="1" * 16, tenant=stranger.tenant_id),
        msgspec.structs.replace(report(environment, "opened", session="2" * 16), environment="e" * 26),
        report(
            environment, "opened", session="3" * 16, client_name="a\0b" * 100, opened_at=9e99, expires_at=9e99
        ),
    )
    [row] = rows(environment)
    assert row.client_name == ("ab" * 100)[:100]
    assert (row.opened_at, row.expires_at) == (at(0), at(LIFE_S))
    assert rows(stranger) == []


def test_a_session_that_nobody_uses_expires_and_a_late_use_opens_it_again(deployed: Any) -> None:
    environment = deployed()
    store(report(environment, "opened"), report(environment, "active", after_s=600))
    last_chance = at(600 + settings.SESSION_IDLE_S + LATE_S)
    expire_sessions(now=last_chance)
    assert rows(environment)[0].state == "open"
    expire_sessions(now=last_chance + timedelta(seconds=1))
    [row] = rows(environment)
    assert (row.state, row.ended_at, row.ended_by) == ("expired", at(600 + settings.SESSION_IDLE_S), "")
    store(report(environment, "active", after_s=500))  # older than what is known
    assert rows(environment)[0].state == "expired"
    store(report(environment, "active", after_s=90_000))
    [row] = rows(environment)
    assert (row.state, row.ended_at, row.last_active_at) == ("open", None, at(90_000))
    expire_sessions(now=at(LIFE_S))
    assert rows(environment)[0].state == "expired"


def test_a_flood_of_sessions_is_counted_and_not_listed(deployed: Any) -> None:
    environment, neighbour = deployed(), deployed()
    store(*[report(environment, "opened", session=f"{n:016x}") for n in range(4)], most=5)
    store(*[report(environment, "opened", session=f"{n:016x}") for n in range(4, 1000)], most=5)
    store(report(neighbour, "opened"), most=5)
    assert handles(environment) == [f"{n:016x}" for n in range(5)]
    assert unlisted(environment) == 995
    store(report(environment, "active", session=f"{900:016x}", after_s=60), most=5)  # counts nothing twice
    store(report(environment, "active", session=f"{2:016x}", after_s=60), most=5)  # known, so still told of
    assert unlisted(environment) == 995
    assert rows(environment)[2].last_active_at == at(60)
    assert (handles(neighbour), unlisted(neighbour)) == ([HANDLE], 0)
    store(report(environment, "ended", session=f"{0:016x}", after_s=70), most=5)
    store(report(environment, "active", session=f"{900:016x}", after_s=120), most=5)
    assert handles(environment) == [f"{n:016x}" for n in (1, 2, 3, 4, 900)]
    expire_sessions(now=at(120 + settings.SESSION_IDLE_S + LATE_S + 1))
    assert unlisted(environment) == 0


def test_what_is_over_is_kept_for_a_week_and_what_was_ended_by_hand_as_long_as_its_id_is_good(
    deployed: Any,
) -> None:
    environment = deployed()
    now = timezone.now()
    of = {"tenant_id": environment.tenant_id, "environment": environment}
    with as_system():
        for number, (state, ended_at, ended_by, expires_at) in enumerate(
            [
                ("open", None, "", now + timedelta(days=1)),
                ("ended", now - timedelta(days=1), "", now + timedelta(days=20)),
                ("ended", now - SESSIONS_KEPT - timedelta(hours=1), "", now + timedelta(days=20)),
                ("expired", now - SESSIONS_KEPT - timedelta(hours=1), "", now + timedelta(days=20)),
                ("ended", now - SESSIONS_KEPT - timedelta(hours=1), "key:k", now + timedelta(days=20)),
                ("ended", now - SESSIONS_KEPT - timedelta(hours=1), "key:k", now - timedelta(hours=1)),
            ]
        ):
            Session.objects.create(
                **of,
                handle=f"{number:016x}",
                state=state,
                ended_at=ended_at,
                ended_by=ended_by,
                expires_at=expires_at,
            )
    prune(now=now)
    assert handles(environment) == [f"{n:016x}" for n in (0, 1, 4)]
