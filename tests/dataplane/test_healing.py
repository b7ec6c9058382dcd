"""A server loses its sessions; its clients notice nothing, whichever node they come to, or are told honestly what is lost."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from hosting.dataplane.contract import Route
from tests.dataplane.harness import (
    Caller,
    GatewayProcess,
    RedisProcess,
    World,
    error_of,
    next_event,
    request,
)

pytestmark = pytest.mark.acceptance("P2")


def lose(world: World, route: Route, caller: Caller) -> None:
    """The server forgets the caller's session."""
    caller.call("echo")
    assert world.standin.end_session(route, world.standin.seen[-1]["headers"]["mcp-session-id"]) == 200
    world.standin.forget()


def methods(world: World) -> list[str]:
    """What the server was asked, in order."""
    return [
        json.loads(entry["body"])["method"] if entry["method"] == "POST" else entry["method"]
        for entry in world.standin.seen
    ]


def test_the_client_keeps_its_session_and_the_lost_call_is_carried_out_once(world: World) -> None:
    route = world.server("heal", world.target("scripted-stateful"))
    caller = world.caller(route)
    lose(world, route, caller)
    before = world.gateway.metric("smcp_gateway_sessions_healed_total", outcome="healed")
    answer = caller.call("echo", text="still here")
    assert answer.json()["result"]["content"][0]["text"] == "still here"
    assert methods(world) == ["tools/call", "initialize", "notifications/initialized", "tools/call"]
    sessions = [entry["headers"].get("mcp-session-id") for entry in world.standin.seen]
    assert sessions[1] is None
    assert sessions[2] == sessions[3] != sessions[0]
    assert world.gateway.metric("smcp_gateway_sessions_healed_total", outcome="healed") == before + 1
    world.standin.forget()
    assert caller.call("echo").status_code == 200
    assert methods(world) == ["tools/call"]


def test_the_new_session_is_told_what_the_old_one_knew(world: World) -> None:
    route = world.server("heal-told", world.target("scripted-stateful"))
    caller = world.caller(route, session=False)
    capabilities = {"roots": {"listChanged": True}, "elicitation": {"form": {}, "url": {}}, "sampling": {}}
    assert caller.initialize("2025-06-18", capabilities=capabilities).status_code == 200
    for method, params in (
        ("logging/setLevel", {"level": "error"}),
        ("logging/setLevel", {"level": "warning"}),
        ("resources/subscribe", {"uri": "test://kept"}),
        ("resources/subscribe", {"uri": "test://given-up"}),
        ("resources/unsubscribe", {"uri": "test://given-up"}),
    ):
        assert caller.send(body=request(method, params)).status_code == 200
    lose(world, route, caller)
    assert caller.call("echo").status_code == 200
    said = [json.loads(entry["body"]) for entry in world.standin.seen]
    assert said[1]["params"]["capabilities"] == capabilities
    assert said[1]["params"]["protocolVersion"] == "2025-06-18"
    assert [(one["method"], one["params"]) for one in said[3:-1]] == [
        ("logging/setLevel", {"level": "warning"}),
        ("resources/subscribe", {"uri": "test://kept"}),
    ]


def test_another_node_uses_the_session_that_one_has_healed(world: World, other_node: GatewayProcess) -> None:
    route = world.server("heal-nodes", world.target("scripted-stateful"))
    caller = world.caller(route)
    lose(world, route, caller)
    assert caller.call("echo").status_code == 200
    world.standin.forget()
    there = world.at_node(caller, other_node)
    assert there.call("echo").status_code == 200
    assert methods(world) == ["tools/call", "tools/call"]
    assert there.call("echo").status_code == 200
    assert there.send("DELETE").status_code == 204
    assert (
        world.standin.seen[-1]["headers"]["mcp-session-id"]
        == world.standin.seen[1]["headers"]["mcp-session-id"]
    )
    assert error_of(there.call("echo")) == (404, -32001)


def test_a_session_is_healed_once_however_many_calls_meet_its_loss(
    world: World, other_node: GatewayProcess
) -> None:
    route = world.server("heal-once", world.target("scripted-stateful"))
    caller = world.caller(route)
    lose(world, route, caller)
    there = world.at_node(caller, other_node)
    with ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(one.call, "echo") for one in (caller, there) for _ in range(6)]
        assert [call.result().status_code for call in calls] == [200] * 12
    assert methods(world).count("initialize") == 1


def test_a_session_moves_on_when_its_release_is_gone(world: World) -> None:
    caller = world.caller(world.server("heal-moved", world.target("scripted-a-stateful")))
    world.server("heal-moved", world.target("scripted-b-stateful"))
    assert caller.call("echo").status_code == 200
    assert methods(world) == ["initialize", "notifications/initialized", "tools/call"]
    assert {entry["script"] for entry in world.standin.seen} == {"scripted-b-stateful"}
    world.server("heal-moved", world.target("scripted-c-stateful"))
    assert caller.call("echo").status_code == 200
    assert {entry["script"] for entry in world.standin.seen} == {"scripted-c-stateful"}


def test_a_listening_stream_is_opened_on_the_new_session(world: World) -> None:
    route = world.server("heal-listen", world.target("scripted-stateful"))
    caller = world.caller(route)
    with caller.stream("GET") as response:
        world.standin.go("get")
        last = next_event(response.iter_lines())["id"]
    lose(world, route, caller)
    with caller.stream("GET", last_event_id=last) as response:
        world.standin.go("get")
        assert '"data": 1' in next_event(response.iter_lines())["data"]
    assert "last-event-id" not in world.standin.seen[-1]["headers"]


def test_who_resumes_a_call_of_a_lost_session_is_told_that_it_is_lost(world: World) -> None:
    route = world.server("heal-resume", world.target("scripted-stateful"))
    caller = world.caller(route)
    polled = 'id: ev 1\ndata: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n'
    arguments = {"name": "raw_stream", "arguments": {"pieces": [polled]}}
    with caller.stream(body=request("tools/call", arguments, request_id="long")) as response:
        lines = response.iter_lines()
        last = next_event(lines)["id"]
        assert next_event(lines) == {}
    lose(world, route, caller)
    with caller.stream("GET", last_event_id=last) as response:
        assert response.status_code == 200
        told = json.loads(next_event(response.iter_lines())["data"])
    assert told["id"] == "long"
    assert told["error"]["code"] == -32603
    assert caller.call("echo").status_code == 200


class TestNoThirdChance:
    def test_a_server_that_settles_on_another_revision_ends_the_session(self, world: World) -> None:
        route = world.server("heal-downgraded", world.target("scripted-downgraded-stateful"))
        caller = world.caller(route)
        lose(world, route, caller)
        assert error_of(caller.call("echo")) == (404, -32001)
        assert methods(world) == ["tools/call", "initialize"]
        assert error_of(caller.call("echo")) == (404, -32001)
        assert len(world.standin.seen) == 2  # the second was known to be over

    def test_a_server_that_keeps_no_session_ends_the_clients(self, world: World) -> None:
        caller = world.caller(world.server("heal-forgetful", world.target("scripted-forgetful-stateful")))
        assert error_of(caller.call("echo")) == (404, -32001)
        assert methods(world).count("initialize") == 1
        assert methods(world).count("tools/call") == 2
        assert caller.initialize().status_code == 200

    def test_an_unknown_method_is_no_lost_session(self, world: World) -> None:
        caller = world.caller(world.server("heal-not", world.target("scripted-stateful")))
        assert error_of(caller.send(body=request("no/such/method"))) == (200, -32601)
        assert methods(world) == ["no/such/method"]
        assert caller.call("echo").status_code == 200


def test_a_node_heals_while_redis_is_away(world: World, own_redis: RedisProcess) -> None:
    route = world.server("heal-alone", world.target("scripted-stateful"))
    caller = world.caller(route)
    lose(world, route, caller)
    own_redis.kill()
    try:
        assert caller.call("echo", text="alone").json()["result"]["content"][0]["text"] == "alone"
        assert caller.call("echo").status_code == 200
        assert methods(world).count("initialize") == 1
    finally:
        own_redis.start()
        world.settle()
