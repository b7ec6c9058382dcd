"""Health from real traffic: the data plane's reports, each applied once."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.conf import settings
from django.utils import timezone

from hosting.dataplane.contract import CredentialReport, HealthReport, Keys, SessionReport, encode
from hosting.models import HealthState, LatencySample
from hosting.monitoring.claims import watch_new
from hosting.monitoring.reports import collect, evidence_of
from smcp.common.tenancy import as_system, as_tenant
from tenants.models import ApiKey, Tenant
from tests.factories.who import make_api_key

WINDOW_S = 10.0


@pytest.fixture
def watched(deployed):
    environment = deployed()
    watch_new(now=timezone.now())
    return environment


def report_on(
    environment, *, requests: int, failures: int, ago_s: float = 0.0, tenant: str = ""
) -> HealthReport:
    return HealthReport(
        tenant=tenant or environment.tenant_id,
        environment=environment.id,
        release="r",
        node="node-1",
        window_start=timezone.now().timestamp() - ago_s - WINDOW_S,
        window_s=WINDOW_S,
        requests=requests,
        failures=failures,
        latency_ms_sum=20.0 * requests,
        latency_ms_max=50.0,
        last_failure="timeout" if failures else "",
    )


def send(client, *reports) -> None:
    for report in reports:
        client.xadd(Keys(installation=settings.INSTALLATION).reports, {"report": encode(report)})


def seen(environment) -> tuple[str, int, int]:
    with as_tenant(environment.tenant_id):
        health = HealthState.objects.get(environment=environment)
        samples = list(LatencySample.objects.filter(environment=environment))
    return health.state, sum(s.requests for s in samples), sum(s.failures for s in samples)


@pytest.mark.acceptance("S4.7")
def test_traffic_alone_makes_a_server_healthy_and_writes_its_history(watched, reports_redis):
    send(reports_redis, report_on(watched, requests=40, failures=1))
    assert collect(reports_redis) == 1
    assert seen(watched) == ("healthy", 40, 1)


def test_a_window_in_which_most_calls_failed_turns_it_unhealthy(watched, reports_redis):
    send(
        reports_redis,
        report_on(watched, requests=5, failures=0, ago_s=30),
        report_on(watched, requests=5, failures=5),
    )
    collect(reports_redis)
    assert seen(watched) == ("unhealthy", 10, 5)


def test_a_report_counts_once_however_often_the_stream_is_read(watched, reports_redis):
    send(reports_redis, report_on(watched, requests=7, failures=0))
    assert [collect(reports_redis) for _ in range(3)] == [1, 0, 0]
    assert seen(watched)[1] == 7


def test_a_key_that_calls_servers_is_seen_to_be_used(watched, reports_redis):
    with as_system():
        key, _ = make_api_key(Tenant.objects.get(id=watched.tenant_id))
    at = timezone.now().replace(microsecond=0)

    def last_used() -> datetime | None:
        with as_tenant(watched.tenant_id):
            return ApiKey.objects.get(id=key.id).last_used_at

    for tenant, when in (
        (watched.tenant_id, at),
        (watched.tenant_id, at - timedelta(minutes=1)),
        ("t" * 26, at + timedelta(1)),
    ):
        send(reports_redis, CredentialReport(tenant=tenant, credential=key.id, at=when.timestamp()))
        collect(reports_redis)
    assert last_used() == at


def test_an_emptied_redis_is_read_from_its_new_beginning(watched, reports_redis):
    send(reports_redis, report_on(watched, requests=7, failures=0, ago_s=20))
    collect(reports_redis)
    reports_redis.flushdb()
    assert collect(reports_redis) == 0
    reports_redis.xadd(
        Keys(installation=settings.INSTALLATION).reports,
        {"report": encode(report_on(watched, requests=3, failures=0))},
        id="1-1",
    )
    assert collect(reports_redis) == 1
    assert seen(watched)[1] == 10


def test_what_cannot_be_read_is_passed_over_and_stops_nobody(watched, reports_redis):
    stream = Keys(installation=settings.INSTALLATION).reports
    reports_redis.xadd(stream, {"report": b"{not json"})
    reports_redis.xadd(stream, {"something": b"else"})
    session = SessionReport(
        tenant=watched.tenant_id,
        environment=watched.id,
        session="s",
        principal="public",
        event="opened",
        at=0.0,
    )
    send(reports_redis, session, report_on(watched, requests=2, failures=0))
    assert collect(reports_redis) == 4
    assert seen(watched)[1] == 2


def test_a_report_naming_another_tenant_than_the_environments_changes_nothing(
    watched, deployed, reports_redis
):
    stranger = deployed()
    send(reports_redis, report_on(watched, requests=9, failures=0, tenant=stranger.tenant_id))
    collect(reports_redis)
    assert seen(watched) == ("unknown", 0, 0)
    with as_tenant(stranger.tenant_id):
        assert not LatencySample.objects.exists()


def test_failures_weigh_up_to_what_flips_the_state_by_itself(watched):
    assert evidence_of(report_on(watched, requests=50, failures=50)).weight == 3
    assert evidence_of(report_on(watched, requests=1, failures=1)).weight == 1
