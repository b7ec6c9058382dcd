"""What a server does to its callers it does not do to its neighbours: another tenant's Server, and another of its own tenant's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from hosting.dataplane.contract import Limits
from tests.dataplane.harness import OTHER_TENANT, StandInProcess, World, call_of
from tests.dataplane.hostile import HOSTILITIES, Callers, Measured, measure, raw_request
from tests.waiting import wait_for

CALLERS = 24
QUIET_S, DISTURBED_S = 1.5, 3.0
MOST_MS, MOST_TIMES = 250.0, 5.0
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInProcess]:
    """A process of its own: what it does must not slow down the neighbours' servers."""
    process = StandInProcess(tmp_path_factory.mktemp("hostile"))
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def neighbours(world: World) -> dict[str, bytes]:
    requests = {}
    for name, tenant in (("other tenant", OTHER_TENANT), ("same tenant", "t" * 26)):
        caller = world.caller(world.server(f"near-{name[:4].strip()}", tenant=tenant))
        requests[name] = raw_request(caller, call_of("echo", text="hello"), origin=world.gateway.url)
    return requests


@contextmanager
def disturbed(
    world: World, hostile: StandInProcess, hostility: str, directory: Path, limits: Limits
) -> Iterator[None]:
    """Callers at a server that does so, and who have begun."""
    hostile.forget()
    hostile.answer_raw(**HOSTILITIES[hostility])
    slug = f"hostile-{hostility.replace('_', '-')}"
    route = world.server(slug, world.target("broken"), dispatch=hostile.raw_dispatch, limits=limits)
    callers = Callers(world, world.at(world.url(route), world.key()), CALLERS, directory)
    try:
        wait_for(lambda: len(hostile.raw_seen) >= CALLERS // 2, 30, what="the callers to have begun")
        yield
    finally:
        callers.stop()
        hostile.answer_raw(b"")


def check(quiet: dict[str, Measured], loud: dict[str, Measured]) -> None:
    for name, heard in loud.items():
        assert not heard.failures, (name, heard.failures[0])
        most_ms = max(MOST_MS, quiet[name].percentile_ms(0.99) * MOST_TIMES)
        assert heard.percentile_ms(0.99) < most_ms, (name, heard.percentile_ms(0.99), most_ms)


@pytest.mark.acceptance("P7")
@pytest.mark.parametrize("hostility", HOSTILITIES)
def test_a_hostile_server_costs_its_neighbours_nothing(
    world: World, hostile: StandInProcess, neighbours: dict[str, bytes], hostility: str, tmp_path: Path
) -> None:
    """`python -m tests.bench neighbours` says how little exactly; here the bounds are wide."""
    gateway, port = psutil.Process(world.gateway.pid), world.gateway.port
    quiet = measure(port, neighbours, for_s=QUIET_S)
    before = gateway.memory_info().rss
    limits = Limits(answer_timeout_s=2.0, answer_budget_s=3.0)
    with disturbed(world, hostile, hostility, tmp_path, limits):
        loud = measure(port, neighbours, for_s=DISTURBED_S)
        assert gateway.memory_info().rss - before < 96 * MIB
    check(quiet, loud)
    wait_for(lambda: world.gateway.metric("smcp_gateway_requests_in_flight") == 0, 20, what="an end of it")
    wait_for(lambda: hostile.raw_open == 0, 20, what="its connections to be let go")
    assert world.gateway.metric("smcp_gateway_requests_total", outcome="internal") == 0


@pytest.mark.acceptance("P7")
def test_more_callers_than_a_hanging_server_has_places_for_take_nobody_elses(
    world: World, hostile: StandInProcess, neighbours: dict[str, bytes], tmp_path: Path
) -> None:
    refused = world.gateway.metric("smcp_gateway_requests_total", outcome="busy")
    limits = Limits(concurrency=4, queue=4, queue_wait_s=0.5)
    hostile.forget()
    hostile.answer_raw(**HOSTILITIES["hangs"])
    route = world.server("hostile-full", world.target("broken"), dispatch=hostile.raw_dispatch, limits=limits)
    quiet = measure(world.gateway.port, neighbours, for_s=QUIET_S)
    callers = Callers(world, world.at(world.url(route), world.key()), CALLERS, tmp_path)
    try:
        wait_for(lambda: len(hostile.raw_seen) == 4, 30, what="its places to be taken")
        loud = measure(world.gateway.port, neighbours, for_s=DISTURBED_S)
        assert len(hostile.raw_seen) == 4
        assert world.gateway.metric("smcp_gateway_requests_total", outcome="busy") > refused
    finally:
        callers.stop()
        hostile.answer_raw(b"")
    check(quiet, loud)
    wait_for(lambda: hostile.raw_open == 0, 20, what="its connections to be let go")
