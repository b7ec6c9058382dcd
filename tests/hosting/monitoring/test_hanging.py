"""Servers that never answer: they cost nobody else time, and no round lasts longer than it may."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from hosting.models import Environment, HealthState, Probe
from hosting.monitoring.claims import CLAIM_S, watch_new
from hosting.monitoring.prober import PROBE_MAX_S, PROBE_TIMEOUT_S
from hosting.monitoring.rounds import Pace, run_round
from smcp.common.tenancy import as_system
from tenants.models import Tenant
from tests.hosting.monitoring.standin import StandIn
from tests.parts import ROOT, Parts
from tests.waiting import wait_for

AT_ONCE, CLAIMING_S, TIMEOUT_S = 3, 1.5, 0.5
A_ROUND = f"""
import json, time, django
django.setup()
from django.utils import timezone
from hosting.monitoring.rounds import Pace, run_round
pace = Pace(at_once={AT_ONCE}, doubtful_at_once={AT_ONCE}, claiming_s={CLAIMING_S}, timeout_s={TIMEOUT_S})
began = time.monotonic()
probed = run_round(now=timezone.now(), pace=pace)
print(json.dumps([probed, time.monotonic() - began]))
"""


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn() as standin:
        yield standin


@pytest.fixture
def probe_url(standin: StandIn, settings: Settings) -> None:
    settings.PROBE_URL = standin.url


def make_due(environments: list[Environment]) -> list[str]:
    """They are due before anybody else; returns their tenants' slugs."""
    now = timezone.now()
    watch_new(now=now)
    ids = [environment.id for environment in environments]
    with as_system():
        rows = HealthState.objects.filter(environment_id__in=ids)
        rows.update(next_probe_at=now - timedelta(days=400))
        return list(
            Tenant.objects.filter(id__in=[e.tenant_id for e in environments]).values_list("slug", flat=True)
        )


def probes_of(environments: list[Environment]) -> list[Probe]:
    with as_system():
        return list(Probe.objects.filter(environment__in=environments))


def claimed_of(environments: list[Environment]) -> int:
    with as_system():
        rows = HealthState.objects.filter(environment__in=environments)
        return rows.exclude(probe_claimed_until=None).count()


@pytest.mark.acceptance("S4.7")
def test_a_server_that_hangs_holds_up_what_is_learnt_of_no_other(deployed, standin: StandIn, probe_url: None):
    hanging, good = [deployed(("modern",))], [deployed(("modern",)) for _ in range(99)]
    standin.hanging, standin.answering = set(make_due(hanging)), set(make_due(good))
    began = time.monotonic()

    def all_others_are_recorded() -> bool:
        return len(probes_of(good)) == len(good)

    run_round(now=timezone.now(), should_stop=all_others_are_recorded)
    assert time.monotonic() - began < PROBE_TIMEOUT_S / 2
    assert standin.asked.total() == 100
    seen = probes_of(good)
    assert all(probe.is_ok for probe in seen)
    # Told to stop, it gave the one back, with no word of it.
    assert probes_of(hanging) == []
    assert claimed_of(hanging + good) == 0
    wait_for(lambda: not standin.is_hanging(standin.hanging))


def test_what_becomes_due_while_one_hangs_is_probed_in_the_same_round(
    deployed, standin: StandIn, probe_url: None
):
    hanging, later = deployed(("modern",)), deployed(("modern",))
    standin.answering = set(make_due([later]))
    with as_system():
        soon = timezone.now() + timedelta(seconds=1)
        HealthState.objects.filter(environment=later).update(next_probe_at=soon)
    standin.hanging = set(make_due([hanging]))

    def is_recorded() -> bool:
        return bool(probes_of([later]))

    began = time.monotonic()
    run_round(now=timezone.now(), should_stop=is_recorded)
    assert time.monotonic() - began < PROBE_TIMEOUT_S / 2
    assert standin.asked.total() == 2


def test_however_many_hang_the_others_find_room(deployed, standin: StandIn, probe_url: None):
    hanging, good = [deployed(("modern",)) for _ in range(20)], [deployed(("modern",))]
    standin.hanging, standin.answering = set(make_due(hanging)), set(make_due(good))
    with as_system():
        HealthState.objects.filter(environment__in=hanging).update(failures_in_a_row=3, state="unhealthy")
        HealthState.objects.filter(environment__in=good).update(next_probe_at=timezone.now())

    def is_recorded() -> bool:
        return bool(probes_of(good))

    began = time.monotonic()
    run_round(now=timezone.now(), should_stop=is_recorded, pace=Pace(at_once=5, doubtful_at_once=5))
    assert time.monotonic() - began < PROBE_TIMEOUT_S / 2


def test_more_that_hang_than_fit_keep_no_round_longer_and_nobody_is_probed_twice_at_once(
    deployed, standin: StandIn, parts: Parts
):
    hanging = [deployed(("modern",)) for _ in range(60)]
    standin.hanging = set(make_due(hanging))
    environ = {**parts.environ("system"), "SMCP_PROBE_URL": standin.url}
    command = [sys.executable, "-c", A_ROUND]
    monitors = [
        subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    rounds: list[Any] = [json.loads(monitor.communicate(timeout=60)[0]) for monitor in monitors]
    probed = sum(count for count, _ in rounds)
    assert max(took_s for _, took_s in rounds) < CLAIMING_S + TIMEOUT_S + 5
    assert 2 * AT_ONCE < probed < len(hanging)
    assert standin.asked.total() == len(probes_of(hanging)) == probed
    assert set(standin.most.values()) == {1}
    assert standin.most_in_all <= 2 * 2 * AT_ONCE
    # What it had no time for was never taken.
    assert claimed_of(hanging) == 0


def test_a_claim_outlives_the_longest_probe():
    assert CLAIM_S > PROBE_MAX_S > PROBE_TIMEOUT_S
