"""A session nobody uses ends, one that is used goes on, whichever node it is used at; and ordinary requests ask Redis nothing."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hosting.dataplane.contract import Route, SessionReport
from tests.dataplane.harness import Caller, GatewayProcess, RedisProcess, World, error_of, next_event
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("S3.8")
IDLE_S = 4.0
EVERY_S = IDLE_S / 4  # how often a session in use is told of
OVER_S = IDLE_S + 3 * EVERY_S  # by then it has ended on any node


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"session_idle_s": str(IDLE_S)}


def use_for(seconds: float, *callers: Caller) -> None:
    """A call a second or so."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for caller in callers:
            assert caller.call("echo").status_code == 200
        time.sleep(0.7)


def asked_of_redis(world: World) -> int:
    """How often anybody asked whether a session is in use."""
    stats: Any = world.publisher.client.info("commandstats")
    return int(stats.get("cmdstat_exists", {}).get("calls", 0))


def told(world: World, route: Route, event: str) -> list[SessionReport]:
    reports = [report for report in world.publisher.reports() if isinstance(report, SessionReport)]
    return [report for report in reports if (report.environment, report.event) == (route.environment, event)]


def watch_begins(world: World) -> None:
    """Until Redis has been told of sessions for one idle time: before that a missing key proves nothing."""
    route = world.server("idle-first")
    caller = world.caller(route)
    wait_for(
        lambda: caller.call("echo") and world.publisher.client.exists(world.publisher.keys.sessions_since)
    )
    time.sleep(IDLE_S + EVERY_S)


def test_a_session_ends_that_nobody_uses_and_one_goes_on_that_is_used_elsewhere(
    world: World, other_node: GatewayProcess
) -> None:
    watch_begins(world)
    route = world.server("idle", world.target("scripted-stateful"))
    left, used, listening = (world.caller(route, world.key()) for _ in range(3))
    world.standin.forget()
    before = asked_of_redis(world)
    with listening.stream("GET") as stream:
        use_for(OVER_S, used)
        world.standin.go("get")
        assert next_event(stream.iter_lines())
    assert asked_of_redis(world) == before
    world.standin.forget()
    for caller in (left, world.at_node(left, other_node)):
        assert error_of(caller.call("echo")) == (404, -32001)
        assert caller.send("GET").status_code == 404
        assert caller.send("DELETE").status_code == 404
    assert world.standin.seen == []
    assert world.gateway.metric("smcp_gateway_sessions_expired_total") == 3
    before = asked_of_redis(world)
    for session in (used, listening):
        there = world.at_node(session, other_node)
        for _ in range(5):
            assert there.call("echo").status_code == 200
    assert asked_of_redis(world) == before + 2
    assert left.initialize().status_code == 200
    assert left.call("echo").status_code == 200


def test_a_session_in_use_is_told_of_now_and_then_by_its_handle_alone(world: World) -> None:
    route = world.server("idle-told")
    caller = world.caller(route)
    wait_for(lambda: told(world, route, "opened"), 5)
    use_for(4 * EVERY_S, caller)
    active = wait_for(lambda: told(world, route, "active"), 5)
    opened = told(world, route, "opened")[0]
    assert {report.session for report in active} == {opened.session}
    assert 1 <= len(active) <= 4
    assert all(report.at - report.opened_at >= EVERY_S - 1 for report in active)
    assert active[0].opened_at == opened.opened_at
    assert active[0].expires_at == opened.expires_at == opened.opened_at + 30 * 24 * 3600
    keys: Any = world.publisher.client.keys(f"*{opened.session}*")
    assert [key.decode().split(":")[2:4] for key in keys] == [["t", route.tenant]]
    assert 0 < world.publisher.client.pttl(keys[0]) <= (IDLE_S + 2 * EVERY_S) * 1000


def test_an_emptied_redis_ends_nobodys_session(world: World, other_node: GatewayProcess) -> None:
    caller = world.caller(world.server("idle-emptied"))
    use_for(OVER_S, caller)
    found: Any = world.publisher.client.keys("*:session:*")
    world.publisher.client.delete(world.publisher.keys.sessions_since, *found)
    assert world.at_node(caller, other_node).call("echo").status_code == 200


def test_while_redis_is_away_sessions_go_on_and_what_was_not_told_is_told_later(
    world: World, other_node: GatewayProcess, own_redis: RedisProcess
) -> None:
    route = world.server("idle-away")
    caller, unknown = world.caller(route), world.caller(route)
    handle = wait_for(lambda: told(world, route, "opened"), 5)[0].session
    use_for(IDLE_S, caller, unknown)
    own_redis.kill()
    try:
        use_for(OVER_S, caller)
        started = time.monotonic()
        assert world.at_node(unknown, other_node).call("echo").status_code == 200
        assert time.monotonic() - started < 5
    finally:
        own_redis.start()
        world.settle()
    key = world.publisher.keys.of_tenant(route.tenant, "session", handle)
    wait_for(lambda: world.publisher.client.exists(key), 10)
    assert world.at_node(caller, other_node).call("echo").status_code == 200
