"""A Worker that is asleep is not down: a probe wakes it, through the real gateway, and finds it well."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest
from django.utils import timezone
from pytest_django import Settings

from hosting import routing
from hosting.models import Account, HealthState, Probe
from hosting.monitoring.rounds import run_round
from hosting.provisioning.accounts import ensure_account
from smcp.common.tenancy import as_system
from smcp.stack import services
from smcp.stack.config import PORTS, parse_config
from smcp.stack.envfile import dispatch_host
from smcp.stack.processes import spawn
from tests.edge.scripts import workerd_pids
from tests.hosting.provisioning.world import World, make_world
from tests.parts import Parts, PlatformEdge, free_ports
from tests.rooms import only_room
from tests.waiting import wait_for

IDLE_S = 0.5


@pytest.fixture
def drowsy_edge(parts: Parts, tmp_path: Path) -> Iterator[PlatformEdge]:
    """An edge of the test's own, with an account of its own, whose Workers fall asleep when nobody calls them."""
    api_port, workers_port = free_ports(2)
    places = replace(parts.places, cloudflare_account_id=secrets.token_hex(16))
    own = replace(parts, var=tmp_path, places=places, edge_api_port=api_port, edge_workers_port=workers_port)
    edge = PlatformEdge(own)
    edge.flags = (*edge.flags, "--idle", str(IDLE_S))
    edge.start()
    yield edge
    edge.stop()


@pytest.fixture
def drowsy_account(
    parts: Parts, drowsy_edge: PlatformEdge, redis_url: str, committed_db: None, settings: Settings
) -> Iterator[Account]:
    settings.DRAIN_S = 0
    ready = ensure_account(
        name=drowsy_edge.account_id,
        cloudflare_account_id=drowsy_edge.account_id,
        token=drowsy_edge.token,
        api_base_url=drowsy_edge.api_url,
        dispatch_url=drowsy_edge.workers_url,
        dispatch_host=dispatch_host(parts.secrets.installation, drowsy_edge.account_id),
        now=timezone.now(),
    )
    with only_room(ready.name):
        yield ready
    with as_system():
        Account.objects.filter(id=ready.id).update(state=Account.State.FULL)


@pytest.fixture
def gateway_url(parts: Parts, tmp_path: Path, redis_url: str, committed_db: None) -> Iterator[str]:
    """The real gateway, as `make up` starts it."""
    ports = zip(("gateway", "gateway_admin"), free_ports(2), strict=True)
    config = parse_config({PORTS[name][0]: str(port) for name, port in ports})
    places = replace(parts.places, var=tmp_path, gateway_url=config.url("gateway"))
    service = services.gateway(config, places, parts.secrets)
    child = spawn(service.process)
    routing.republish()  # as the sweep does: before there are any facts it takes no traffic
    wait_for(lambda: service.is_ready(child), service.timeout_s, what="the gateway")
    yield places.gateway_url
    child.stop()


def deploy(edge: PlatformEdge, account: Account, **variables: str) -> World:
    world = make_world(edge, account)
    world.variables(**variables)
    world.deploy((world.version(bindings=()), 100))
    return world


def is_known(gateway_url: str, world: World) -> bool:
    path = f"{world.server.tenant.slug}/{world.server.slug}~{world.environment.slug}/mcp"
    return httpx.post(f"{gateway_url}/{path}", content=b"{}", trust_env=False).status_code == 401


@pytest.mark.acceptance("S4.7", "P3")
def test_a_server_that_is_asleep_is_woken_by_a_probe_and_found_healthy(
    drowsy_edge: PlatformEdge, drowsy_account: Account, gateway_url: str, settings: Settings
) -> None:
    settings.PROBE_URL = gateway_url
    worlds = {
        "modern": deploy(drowsy_edge, drowsy_account),
        "legacy": deploy(drowsy_edge, drowsy_account, LEGACY_ONLY="1", SESSIONS="1"),
    }
    for world in worlds.values():
        # Refused at the door, which wakes nobody: the gateway knows the way.
        wait_for(partial(is_known, gateway_url, world), what="the gateway to follow")
    wait_for(lambda: not workerd_pids(drowsy_edge), what="all Workers to fall asleep")
    run_round(now=timezone.now())
    assert workerd_pids(drowsy_edge)
    for era, world in worlds.items():
        with as_system():
            probe = Probe.objects.get(environment=world.environment)
            health = HealthState.objects.get(environment=world.environment)
        assert (probe.is_ok, probe.era, probe.failure) == (True, era, "")
        assert health.state == "healthy"
