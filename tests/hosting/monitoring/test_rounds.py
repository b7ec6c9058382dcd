"""Which Environments are probed, and what becomes of the outcomes. Probes themselves: test_prober.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.utils import timezone

from hosting.models import Environment, Flip, HealthState, Incident, LatencySample, Probe, Server
from hosting.monitoring.beliefs import observe
from hosting.monitoring.claims import CLAIM_S, claim_due, watch_new
from hosting.monitoring.outcomes import record
from hosting.monitoring.prober import PROBE_MAX_S, Address, Outcome
from hosting.monitoring.retention import prune
from hosting.monitoring.verdict import Evidence
from smcp.common.tenancy import as_system, as_tenant
from tenants.models import Tenant

BATCH = 10_000


def claimed(now: datetime) -> dict[str, Address]:
    return {
        address.environment: address
        for is_doubtful in (False, True)
        for address in claim_due(now=now, limit=BATCH, is_doubtful=is_doubtful)
    }


def outcome(
    environment: Environment, *, at: datetime, is_ok: bool | None, latency_ms: float = 10.0, failure: str = ""
) -> Outcome:
    """Of a probe that has just claimed the Environment."""
    until = at + timedelta(seconds=CLAIM_S)
    with as_system():
        HealthState.objects.filter(environment=environment).update(probe_claimed_until=until)
    address = Address(
        tenant=environment.tenant_id, environment=environment.id, url="", era="modern", claimed_until=until
    )
    return Outcome(address=address, at=at, is_ok=is_ok, latency_ms=latency_ms, failure=failure)


def health_of(environment: Environment) -> HealthState:
    with as_tenant(environment.tenant_id):
        return HealthState.objects.get(environment=environment)


def test_an_environment_is_watched_from_its_first_deployment_on(deployed):
    serving, empty = deployed(), deployed(None)
    now = timezone.now()
    watch_new(now=now)
    due = claimed(now)
    assert serving.id in due
    assert empty.id not in due
    with as_system():
        assert not HealthState.objects.filter(environment=empty).exists()


def test_a_probe_takes_the_users_path_in_the_era_the_server_speaks(deployed):
    both, legacy = deployed(("legacy", "modern")), deployed(("legacy",))
    now = timezone.now()
    watch_new(now=now)
    due = claimed(now)
    with as_system():
        tenant = Tenant.objects.get(id=both.tenant_id)
    assert due[both.id].url == f"{settings.PROBE_URL}/{tenant.slug}/weather~production/mcp"
    assert (due[both.id].era, due[legacy.id].era) == ("modern", "legacy")


def test_what_one_worker_claimed_no_other_probes_until_the_claim_ends(deployed):
    environment = deployed()
    now = timezone.now()
    watch_new(now=now)
    assert environment.id in claimed(now)
    assert environment.id not in claimed(now)
    assert environment.id in claimed(now + timedelta(seconds=CLAIM_S + 1))


def test_traffic_seen_while_a_probe_is_in_flight_lets_no_other_begin(deployed):
    environment = deployed()
    now = timezone.now()
    watch_new(now=now)
    claimed(now)
    seen = Evidence(at=now, is_ok=False, source="traffic", failure="timeout")
    with as_system():
        observe({(environment.tenant_id, environment.id): [seen]})
        HealthState.objects.filter(environment=environment).update(next_probe_at=now)
    assert environment.id not in claimed(now + timedelta(seconds=PROBE_MAX_S))


def test_an_outcome_that_comes_after_its_claim_was_given_to_another_is_dropped(deployed):
    environment = deployed()
    now = timezone.now()
    watch_new(now=now)
    late = outcome(environment, at=now, is_ok=False, failure="timeout")
    after = now + timedelta(seconds=CLAIM_S + 1)
    theirs = claimed(after)[environment.id]
    record([late])
    health = health_of(environment)
    assert (health.failures_in_a_row, health.probe_claimed_until) == (0, theirs.claimed_until)


def test_those_in_doubt_are_claimed_apart_from_those_that_answer(deployed):
    well, doubtful = deployed(), deployed()
    now = timezone.now()
    watch_new(now=now)
    with as_system():
        HealthState.objects.filter(environment=doubtful).update(failures_in_a_row=1)
    of_those_in_doubt = {a.environment for a in claim_due(now=now, limit=BATCH, is_doubtful=True)}
    of_the_others = {a.environment for a in claim_due(now=now, limit=BATCH, is_doubtful=False)}
    assert (doubtful.id in of_those_in_doubt, doubtful.id in of_the_others) == (True, False)
    assert (well.id in of_those_in_doubt, well.id in of_the_others) == (False, True)


@pytest.mark.parametrize("stopped", ["tenant", "server", "environment"])
def test_what_is_suspended_or_retired_is_not_probed(deployed, stopped):
    environment = deployed()
    now = timezone.now()
    watch_new(now=now)
    with as_system():
        if stopped == "tenant":
            Tenant.objects.filter(id=environment.tenant_id).update(state=Tenant.State.SUSPENDED)
        elif stopped == "server":
            Server.objects.filter(id=environment.server_id).update(state=Server.State.SUSPENDED)
        else:
            Environment.objects.filter(id=environment.id).update(state=Environment.State.RETIRING)
    assert environment.id not in claimed(now)


@pytest.mark.acceptance("S4.7")
def test_an_outage_leaves_flips_an_incident_and_its_latency_history(deployed):
    environment = deployed()
    start = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
    watch_new(now=start)
    for n, is_ok in enumerate([True, True, False, False, False, False, True, True]):
        failure = "" if is_ok else "timeout"
        at = start + timedelta(seconds=20 * n)
        record([outcome(environment, at=at, is_ok=is_ok, failure=failure)])
    with as_tenant(environment.tenant_id):
        flips = list(Flip.objects.order_by("id").values_list("old", "new", "reason"))
        incident = Incident.objects.get()
        minutes = list(LatencySample.objects.order_by("minute").values_list("requests", "failures", "source"))
    assert flips == [
        ("unknown", "healthy", "answers"),
        ("healthy", "unhealthy", "timeout"),
        ("unhealthy", "healthy", "answers"),
    ]
    assert incident.started_at == start + timedelta(seconds=80)
    assert incident.ended_at == start + timedelta(seconds=140)
    assert minutes == [(3, 1, "probe"), (3, 3, "probe"), (2, 0, "probe")]
    assert health_of(environment).state == "healthy"


def test_what_says_nothing_of_the_server_changes_nothing_but_the_next_look(deployed):
    environment = deployed()
    now = timezone.now()
    watch_new(now=now)
    record([outcome(environment, at=now, is_ok=None, failure="gateway_unreachable")])
    health = health_of(environment)
    assert (health.state, health.last_seen_at, health.probe_claimed_until) == ("unknown", None, None)
    assert health.next_probe_at > now
    with as_system():
        assert not Probe.objects.filter(environment=environment).exists()


def test_history_past_its_time_goes_and_the_rest_stays(deployed):
    environment = deployed()
    now = timezone.now()
    watch_new(now=now)
    for age in (timedelta(days=2), timedelta(days=40), timedelta(0)):
        record([outcome(environment, at=now - age, is_ok=True)])
    prune(now=now)
    with as_tenant(environment.tenant_id):
        assert Probe.objects.count() == 1
        assert LatencySample.objects.count() == 2
