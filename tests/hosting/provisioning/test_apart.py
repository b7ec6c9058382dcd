"""Deploys, checks of uploads and probes, each by the processes `make up` starts for it: none waits for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import pytest
from celery import current_app
from django.utils import timezone

from hosting import wake
from hosting.models import HealthState, Operation
from smcp.common.blobs import put_blob
from smcp.common.tenancy import as_system
from smcp.stack import services
from smcp.stack.config import parse_config
from smcp.stack.processes import Child, spawn
from tests import factories
from tests.hosting.monitoring.standin import StandIn
from tests.hosting.provisioning.world import CODE, JAVASCRIPT, World
from tests.parts import Parts
from tests.waiting import wait_for

HANGING = 12  # more than all processes and threads together


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn() as standin:
        yield standin


@pytest.fixture
def platform(
    parts: Parts, world: World, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Child]]:
    """The three kinds of workers. There is no clock beside them: nothing is swept or probed but what a test sends."""
    monkeypatch.setenv("SMCP_DRAIN_S", "0")
    places = replace(parts.places, gateway_url=standin.url)
    with ExitStack() as stack:
        started = []
        for describe in (services.worker, services.checker, services.monitor):
            service = describe(parse_config({}), places, parts.secrets)
            child = spawn(service.process)
            stack.callback(child.stop)
            started.append((service, child))
        wait_for(lambda: all(service.is_ready(child) for service, child in started), 60, what="the workers")
        yield [child for _, child in started]


def hang(world: World, standin: StandIn) -> list[str]:
    """Servers that never answer, due before anybody else; their tenants' slugs."""
    slugs = []
    with as_system():
        for _ in range(HANGING):
            tenant = factories.make_tenant()
            environment = factories.make_environment(factories.make_server(tenant), world.account)
            release = factories.make_release(environment, factories.make_version(environment.server))
            factories.make_deployment(environment, [(release, 100)])
            factories.make_health(environment, next_probe_at=timezone.now() - timedelta(days=400))
            slugs.append(tenant.slug)
    standin.hanging |= set(slugs)
    return slugs


@pytest.mark.usefixtures("platform")
def test_servers_that_hang_delay_neither_a_deploy_nor_the_check_of_an_upload(
    world: World, standin: StandIn
) -> None:
    slugs = hang(world, standin)
    for _ in range(5):  # as the clock does, again and again
        current_app.send_task("hosting.tasks.probe_environments")
    wait_for(lambda: standin.is_hanging(slugs), what="all to be waited for")
    operation = world.begin_deploy((world.version(), 100))
    module = wake.ModuleRef(name="m.js", content_type=JAVASCRIPT, digest=put_blob(world.tenant_id, CODE))
    verdict = wake.check_upload(
        tenant_id=world.tenant_id,
        modules=[module],
        main_module="m.js",
        compatibility_date="2026-10-01",
        within_s=15,
    )
    assert verdict.is_loadable
    wait_for(lambda: world.again(operation).finished_at, what="the deployment")
    assert world.again(operation).state == Operation.State.SUCCEEDED
    # Nobody waited for them: not one has been given up yet.
    assert standin.is_hanging(slugs)
    assert standin.asked.total() == HANGING


def test_a_monitor_that_is_told_to_stop_does_not_wait_for_servers(
    world: World, standin: StandIn, platform: list[Child]
) -> None:
    slugs = hang(world, standin)
    current_app.send_task("hosting.tasks.probe_environments")
    wait_for(lambda: standin.is_hanging(slugs), what="all to be waited for")
    (monitor,) = [child for child in platform if child.name == "monitor"]
    monitor.ask_to_stop()
    assert monitor.wait(monitor.process.stop_timeout_s)
    with as_system():
        theirs = HealthState.objects.filter(tenant__slug__in=slugs)
        assert not theirs.exclude(probe_claimed_until=None).exists()
        assert not theirs.exclude(failures_in_a_row=0).exists()
