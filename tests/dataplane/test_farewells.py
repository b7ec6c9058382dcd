"""Sessions that the control plane ends: over on every node at once, and told to the server by one of them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hosting.dataplane.contract import Revocation, Route, SessionReport
from tests.dataplane.harness import Caller, GatewayProcess, World, error_of, next_event
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("S3.11")
STATEFUL = "scripted-stateful"


def opened(world: World, route: Route) -> list[SessionReport]:
    """What the control plane knows of the Environment's sessions."""
    reports = [report for report in world.publisher.reports() if isinstance(report, SessionReport)]
    return [one for one in reports if (one.environment, one.event) == (route.environment, "opened")]


def end(world: World, route: Route, report: SessionReport) -> None:
    """As the control plane does: it holds a handle, and nothing else of the session."""
    world.publisher.publish(
        Revocation(
            tenant=route.tenant,
            version=int(report.opened_at),
            session=report.session,
            until=report.expires_at,
            environment=route.environment,
        )
    )


def goodbyes(world: World) -> list[str]:
    """The server's sessions that were ended."""
    return [entry["headers"]["mcp-session-id"] for entry in world.standin.seen if entry["method"] == "DELETE"]


def upstream_of(world: World, caller: Caller) -> str:
    assert caller.call("echo").status_code == 200
    return str(world.standin.seen[-1]["headers"]["mcp-session-id"])


def one_goodbye(world: World) -> list[str]:
    """Waits for the first, and for a second that must not come."""
    wait_for(lambda: goodbyes(world), 5, what="the server to be told")
    time.sleep(1)
    return goodbyes(world)


def test_an_ended_session_is_over_on_all_nodes_and_its_server_is_told_once(
    world: World, other_node: GatewayProcess
) -> None:
    route = world.server("end", world.target(STATEFUL))
    caller, neighbour = world.caller(route), world.caller(route)
    there = world.at_node(caller, other_node)
    upstream = upstream_of(world, caller)
    [report, _] = wait_for(lambda: found if len(found := opened(world, route)) == 2 else [], 5)
    with there.stream("GET") as stream:
        world.standin.go("get")
        lines = stream.iter_lines()
        assert next_event(lines)
        started = time.monotonic()
        end(world, route, report)
        assert next_event(lines) == {}  # the stream has ended
        took = time.monotonic() - started
    assert took < 1
    wait_for(lambda: there.call("echo").status_code == 404, 1)
    wait_for(lambda: caller.call("echo").status_code == 404, 1)
    assert one_goodbye(world) == [upstream]
    assert error_of(caller.call("echo")) == (404, -32001)
    assert neighbour.call("echo").status_code == 200
    end(world, route, report)  # once more changes nothing
    world.settle()
    assert goodbyes(world) == [upstream]


def test_nobody_can_read_an_id_of_the_servers_session_in_redis_or_in_a_log(
    world: World, other_node: GatewayProcess
) -> None:
    route = world.server("end-sealed", world.target(STATEFUL))
    caller = world.caller(route)
    upstream = upstream_of(world, caller)
    [report] = wait_for(lambda: opened(world, route), 5)
    redis: Any = world.publisher.client
    kept = wait_for(
        lambda: redis.hgetall(world.publisher.keys.of_tenant(route.tenant, "session", report.session)), 5
    )
    assert set(kept) == {b"opened"}
    end(world, route, report)
    assert one_goodbye(world) == [upstream]
    assert redis.hgetall(world.publisher.keys.of_tenant(route.tenant, "session", report.session)) == {}
    told = str(kept) + str(world.publisher.reports()) + world.gateway.log + other_node.log
    assert f"{upstream!r}" not in told
    assert f'"{upstream}"' not in told
    assert caller.headers["mcp-session-id"] not in told
    assert report.session in world.gateway.log + other_node.log


def test_after_healing_the_server_is_told_of_the_session_it_has_now(
    world: World, other_node: GatewayProcess
) -> None:
    route = world.server("end-healed", world.target(STATEFUL))
    caller = world.caller(route)
    lost = upstream_of(world, caller)
    assert world.standin.end_session(route, lost) == 200
    assert caller.call("echo").status_code == 200
    world.standin.forget()
    renewed = upstream_of(world, caller)
    assert renewed != lost
    [report] = wait_for(lambda: opened(world, route), 5)
    end(world, route, report)
    said = one_goodbye(world)
    assert said == [renewed], world.gateway.log[-3000:] + other_node.log[-3000:]


def test_a_session_that_is_ended_as_soon_as_it_was_opened_is_told_too(
    world: World, other_node: GatewayProcess
) -> None:
    route = world.server("end-soon", world.target(STATEFUL))
    for number in range(5):
        caller = world.caller(route)
        wait_for(lambda: len(opened(world, route)) > number, 5)  # noqa: B023 - asked at once
        world.standin.forget()
        end(world, route, opened(world, route)[-1])
        assert len(one_goodbye(world)) == 1
        assert caller.call("echo").status_code == 404


def test_a_server_without_sessions_of_its_own_is_told_nothing(
    world: World, other_node: GatewayProcess
) -> None:
    route = world.server("end-stateless")
    caller = world.caller(route)
    [report] = wait_for(lambda: opened(world, route), 5)
    end(world, route, report)
    wait_for(lambda: caller.call("echo").status_code == 404, 1)
    time.sleep(1)
    assert goodbyes(world) == []


def test_what_the_client_ends_itself_is_told_once_and_by_the_node_it_asked(
    world: World, other_node: GatewayProcess
) -> None:
    route = world.server("end-client", world.target(STATEFUL))
    caller = world.caller(route)
    upstream = upstream_of(world, caller)
    assert world.at_node(caller, other_node).send("DELETE").status_code == 204
    assert one_goodbye(world) == [upstream]
    wait_for(lambda: caller.call("echo").status_code == 404, 1)


def test_all_sessions_of_an_environment_end_also_those_nobody_has_listed(
    world: World, other_node: GatewayProcess
) -> None:
    target = world.target(STATEFUL)
    route = world.server("end-all", target)
    neighbour = world.caller(world.server("end-all-neighbour"))
    callers = [world.caller(route) for _ in range(3)]
    there = world.at_node(callers[0], other_node)
    with there.stream("GET") as stream:
        world.server("end-all", target, sessions_after=int(time.time()))
        assert next_event(stream.iter_lines()) == {}
    for caller in (*callers, there):
        assert error_of(caller.call("echo")) == (404, -32001)
        assert caller.send("DELETE").status_code == 404
    assert callers[0].initialize().status_code == 200  # in the same second
    assert callers[0].call("echo").status_code == 200
    assert there.call("echo").status_code == 200
    assert neighbour.call("echo").status_code == 200


def test_nodes_that_were_away_when_it_ended_tell_the_server_once(
    world: World, other_node: GatewayProcess
) -> None:
    route = world.server("end-away", world.target(STATEFUL))
    caller = world.caller(route)
    upstream = upstream_of(world, caller)
    [report] = wait_for(lambda: opened(world, route), 5)
    for node in (world.gateway, other_node):
        assert node.stop() == 0
    end(world, route, report)
    world.standin.forget()
    for node in (world.gateway, other_node):
        node.start()
    assert one_goodbye(world) == [upstream]
    assert caller.call("echo").status_code == 404
