"""Other names for what `/mcp` does: `/mcp/v1/init`, `/mcp/v1/message` and `/mcp/v1/stream/{id}`."""

from __future__ import annotations

import json

import httpx
import pytest

from hosting.dataplane.contract import Route
from tests.dataplane.harness import DOMAIN, Caller, World, call_of, error_of, next_event, request

INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "few words", "version": "1"},
}


def at(world: World, route: Route, door: str, key: str) -> Caller:
    return world.at(f"{world.gateway.url}/{route.tenant_slug}/{route.server_slug}/mcp/v1/{door}", key)


def opened(world: World, route: Route, key: str) -> str:
    response = at(world, route, "init", key).send(body=request("initialize", INITIALIZE))
    assert response.json()["result"]["protocolVersion"] == "2025-11-25"
    return str(response.headers["mcp-session-id"])


@pytest.mark.acceptance("S3.13", "S3.14")
def test_a_session_begins_at_init_and_goes_on_at_message(world: World) -> None:
    route, key = world.server("alias", world.target("scripted-stateful")), world.key()
    session = opened(world, route, key)
    message = at(world, route, "message", key)
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert message.send(body=note, mcp_session_id=session).status_code == 202
    answer = message.send(body=call_of("echo", text="hi"), mcp_session_id=session)
    assert answer.json()["result"]["content"][0]["text"] == "hi"
    assert {entry["path"] for entry in world.standin.seen} == {"/mcp"}
    assert error_of(message.send(body=call_of("echo"))) == (400, -32600)
    assert error_of(message.send(body=call_of("echo"), mcp_session_id=session + "x")) == (404, -32001)
    # One session, whatever it is called under.
    usual = world.at(world.url(route), key)
    assert usual.send(body=request("ping"), mcp_session_id=session).status_code == 200


@pytest.mark.acceptance("S3.15")
def test_the_stream_of_a_session_is_at_its_id(world: World) -> None:
    route, key = world.server("alias-stream", world.target("scripted-stateful")), world.key()
    session = opened(world, route, key)
    stream = at(world, route, f"stream/{session}", key)
    for headers in ({}, {"mcp_session_id": session}):
        with stream.stream("GET", **headers) as response:
            assert response.headers["content-type"] == "text/event-stream"
            world.standin.go("get")
            assert json.loads(next_event(response.iter_lines())["data"])["params"]["data"] == 1
    assert error_of(stream.send("GET", mcp_session_id="s1.other.id")) == (400, -32600)
    assert error_of(at(world, route, "stream/" + "a" * 40, key).send("GET")) == (404, -32001)
    assert error_of(at(world, route, f"stream/{session}", world.key()).send("GET")) == (404, -32001)
    assert session not in world.gateway.log


def test_they_stand_on_the_servers_own_host_too(world: World) -> None:
    route, key = world.server("alias-host", world.target("scripted-stateful")), world.key()
    host = f"{route.server_slug}--{route.tenant_slug}.{DOMAIN}"
    init = world.at(f"{world.gateway.url}/mcp/v1/init", key, host=host)
    session = init.send(body=request("initialize", INITIALIZE)).headers["mcp-session-id"]
    message = world.at(f"{world.gateway.url}/mcp/v1/message", key, host=host)
    assert message.send(body=request("ping"), mcp_session_id=session).status_code == 200


def test_init_is_for_initialize_only(world: World) -> None:
    route, key = world.server("alias-init"), world.key()
    init = at(world, route, "init", key)
    for body in (request("ping"), call_of("echo"), [request("initialize", INITIALIZE)]):
        assert error_of(init.send(body=body)) == (400, -32600)
    assert world.standin.seen == []


@pytest.mark.parametrize(
    ("door", "method", "allow"),
    [
        ("init", "GET", "POST, OPTIONS"),
        ("init", "DELETE", "POST, OPTIONS"),
        ("message", "GET", "POST, OPTIONS"),
        ("stream/s1.k.x", "POST", "GET, OPTIONS"),
        ("stream/s1.k.x", "PUT", "GET, OPTIONS"),
    ],
)
def test_a_method_they_do_not_have_is_405(world: World, door: str, method: str, allow: str) -> None:
    answer = at(world, world.server("alias-methods"), door, world.key()).send(method)
    assert error_of(answer) == (405, -32000)
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize(
    "door", ["init/", "message/x", "stream", "stream/", "stream/a/b", "stream/%41", "other"]
)
def test_what_is_nearly_one_of_them_is_nothing(world: World, door: str) -> None:
    answer: httpx.Response = at(world, world.server("alias-nearly"), door, world.key()).send()
    assert error_of(answer) == (404, -32000)


def test_who_may_not_call_is_told_so_there_too(world: World) -> None:
    route = world.server("alias-keys")
    for door in ("init", "message"):
        assert at(world, route, door, "smcp_" + "x" * 43).send(body=request("ping")).status_code == 401
    assert world.standin.seen == []
