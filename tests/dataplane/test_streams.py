"""Streams: event by event, re-framed, kept alive, bounded, and nobody waits for nothing."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import psutil
import pytest

from hosting.dataplane.contract import Limits, Suspension
from tests.dataplane.harness import World, call_of, error_of, events_of, modern_request, next_event
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"keepalive_s": "0.3", "stalled_client_s": "1"}


@pytest.mark.acceptance("S0.18", "S3.2")
def test_every_event_arrives_before_the_next_is_sent(world: World) -> None:
    caller = world.caller(world.server("stream-live"))
    with caller.stream(body=call_of("stream", count=5, permit="live")) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["x-accel-buffering"] == "no"
        lines = response.iter_lines()
        for at in range(5):
            world.standin.go("live")
            assert f'"progress": {at}' in next_event(lines)["data"]
            assert world.standin.seen[-1]["sent"] == at + 1
        assert '"result"' in next_event(lines)["data"]
        assert next_event(lines) == {}


def test_a_silent_server_does_not_make_a_silent_stream(world: World) -> None:
    caller = world.caller(world.server("stream-alive", limits=Limits(stream_idle_s=5)))
    with caller.stream(body=call_of("stream", count=1, permit="alive")) as response:
        lines = response.iter_lines()
        told = [next(lines) for _ in range(12)]
        assert told.count(": keep-alive") >= 3  # besides a place to come back to
        world.standin.go("alive")
        assert next_event(lines)


def test_a_server_that_falls_silent_is_given_up_with_an_error(world: World) -> None:
    caller = world.caller(world.server("stream-silent", limits=Limits(stream_idle_s=1)))
    response = caller.send(body=call_of("stream", count=1, permit="never"))
    assert events_of(response.text)[-1]["error"]["code"] == -32603
    wait_for(lambda: world.standin.seen[-1].get("disconnected"), 5, what="the server to be let go")


def test_a_listening_stream_may_be_silent_for_as_long_as_it_likes(world: World) -> None:
    caller = world.caller(
        world.server("stream-quiet", world.target("scripted-stateful"), limits=Limits(stream_idle_s=0.5))
    )
    with caller.stream("GET") as response:
        lines = response.iter_lines()
        assert [next(lines) for _ in range(8)] == [": keep-alive", ""] * 4
        world.standin.go("get")
        assert next_event(lines)


def test_a_stream_that_ends_without_its_answer_ends_in_an_error(world: World) -> None:
    caller = world.caller(world.server("stream-cut"))
    note = 'data: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n'
    told = events_of(caller.call("raw_stream", pieces=[note]).text)
    assert told[-1]["id"] == 1
    assert told[-1]["error"]["code"] == -32603


def test_a_stream_the_client_can_resume_ends_without_one(world: World) -> None:
    caller = world.caller(world.server("stream-poll"))
    response = caller.call("raw_stream", pieces=["id: a\nretry: 10\ndata: \n\n"])
    lines = response.text.splitlines()
    assert lines[1].startswith("id: r1.")
    assert (lines[0], lines[2]) == ("event: message", "retry: 100")
    assert events_of(response.text) == []


def test_an_older_client_is_spared_events_without_data(world: World) -> None:
    caller = world.at(world.url(world.server("stream-old")), world.key())
    caller.initialize("2025-06-18")
    answer = 'id: b\ndata: {"jsonrpc":"2.0","id":1,"result":{}}\n\n'
    response = caller.call("raw_stream", pieces=["id: a\ndata: \n\n", answer])
    assert "id: u1.YQ" not in response.text
    assert "data: \n" not in response.text
    assert events_of(response.text)[-1]["result"] == {}


@pytest.mark.acceptance("S4.19")
def test_a_servers_framing_never_reaches_the_client(world: World) -> None:
    caller = world.caller(world.server("stream-frames"))
    pieces = [
        ": a comment\n\n",
        "event: endpoint\ndata: https://evil.example/\n\n",
        "data: not json\n\n",
        'event: ping\ndata: {"jsonrpc":"2.0","method":"x"}\n\n',
        'foo: bar\r\nid: x\ny\r\ndata: {"jsonrpc":"2.0",\r\ndata: "method":"notifications/message"}\r\n\r\n',
        'data: {"jsonrpc":"2.0","id":1,"result":{}}\n\n',
        "data: after the answer\n\n",
    ]
    response = caller.call(
        "raw_stream", pieces=pieces, headers=[["set-cookie", "a=b"], ["mcp-session-id", "x"]]
    )
    assert [
        event.get("method") or event["id"] for event in events_of(response.text.replace('",\ndata: "', '","'))
    ] == [
        "notifications/message",
        1,
    ]
    for evil in ("comment", "endpoint", "evil", "not json", "foo", "after the answer"):
        assert evil not in response.text
    assert "set-cookie" not in response.headers
    assert "mcp-session-id" not in response.headers
    assert world.gateway.metric("smcp_gateway_events_dropped_total") >= 3


def test_an_event_over_the_bound_ends_the_stream_with_an_error(world: World) -> None:
    caller = world.caller(world.server("stream-big", limits=Limits(event_bytes=10_000)))
    response = caller.send(body=call_of("stream", count=2, filler=20_000))
    assert events_of(response.text)[-1]["error"]["code"] == -32603
    assert len(response.content) < 2000


class TestLeaving:
    def test_a_legacy_client_that_leaves_cancels_nothing(self, world: World) -> None:
        caller = world.caller(world.server("leave-legacy"))
        with caller.stream(body=call_of("stream", count=3, permit="leave")) as response:
            world.standin.go("leave")
            assert next_event(response.iter_lines())
        world.standin.go("leave", 2)
        entry = wait_for(lambda: [entry for entry in world.standin.seen if entry.get("finished")], 5)[0]
        assert "disconnected" not in entry
        wait_for(
            lambda: world.gateway.metric("smcp_gateway_streams_open") == 0, 5, what="the stream to be let go"
        )

    def test_a_listening_client_that_leaves_is_let_go(self, world: World) -> None:
        caller = world.caller(world.server("leave-get", world.target("scripted-stateful")))
        with caller.stream("GET") as response:
            assert response.status_code == 200
            assert world.gateway.metric("smcp_gateway_streams_open") == 1
        wait_for(
            lambda: world.gateway.metric("smcp_gateway_streams_open") == 0, 5, what="the stream to be let go"
        )


class TestPressure:
    """A client that does not read must not cost memory, and not for ever a place."""

    def open_and_read_nothing(
        self, world: World, body: Any, headers: dict[str, str], url: str
    ) -> socket.socket:
        content = json.dumps(body).encode()
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", world.gateway.port))
        head = f"POST {url.removeprefix(world.gateway.url)} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(content)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(head.encode() + b"\r\n" + content)
        return connection

    @pytest.mark.acceptance("S0.5")
    def test_a_client_that_does_not_read_slows_the_server_and_is_given_up(self, world: World) -> None:
        caller = world.caller(world.server("pressure"))
        before = psutil.Process(world.gateway.pid).memory_info().rss
        body, more = modern_request(
            "tools/call", {"name": "stream", "arguments": {"count": 4000, "filler": 64_000}}
        )
        headers = {**caller.headers, **{name.replace("_", "-"): value for name, value in more.items()}}
        with self.open_and_read_nothing(world, body, headers, caller.url):
            wait_for(
                lambda: world.standin.seen and world.standin.seen[-1].get("disconnected"),
                20,
                what="giving up",
            )
        assert world.standin.seen[-1]["sent"] < 1000  # of 4000: 256 MB were never asked for
        assert psutil.Process(world.gateway.pid).memory_info().rss - before < 48 * 1024 * 1024
        wait_for(
            lambda: world.gateway.metric("smcp_gateway_streams_open") == 0, 5, what="the place to be free"
        )


def test_places_in_flight_are_bounded_and_given_back(world: World) -> None:
    route = world.server("places", world.target("scripted-stateful"), limits=Limits(concurrency=2, queue=0))
    caller = world.caller(route)
    neighbour = world.caller(world.server("places-neighbour"))
    with (
        caller.stream(body=call_of("stream", count=1, permit="places")) as first,
        caller.stream(body=call_of("stream", count=1, permit="places")),
    ):
        refused = caller.call("echo")
        assert error_of(refused) == (429, -32000)
        assert int(refused.headers["retry-after"]) >= 1
        assert neighbour.call("echo").status_code == 200
        with caller.stream("GET") as listening:  # has a place of its own
            assert listening.status_code == 200
        world.standin.go("places", 2)
        assert next_event(first.iter_lines())
    wait_for(lambda: caller.call("echo").status_code == 200, 5, what="a place to be free")


class TestAccessEnds:
    """A stream does not outlive what opened it."""

    def wait_for_the_end_of(self, world: World, count: int) -> None:
        def ended() -> bool:
            return sum(bool(entry.get("disconnected")) for entry in world.standin.seen) == count

        wait_for(ended, 5, what="the server to be told of the end")

    @pytest.mark.acceptance("S4.19")
    def test_a_suspension_ends_the_tenants_streams_and_no_others(self, world: World) -> None:
        route = world.server("access-suspended", world.target("scripted-stateful"))
        caller = world.caller(route)
        neighbour = world.caller(world.server("access-neighbour", world.target("scripted-stateful")))
        suspension = Suspension(
            tenant=route.tenant, version=1, server_slug=route.server_slug, reason="unpaid"
        )
        with (
            caller.stream("GET") as listening,
            caller.stream(body=call_of("stream", count=1, permit="never")) as calling,
            neighbour.stream("GET") as spared,
        ):
            world.publisher.publish(suspension)
            assert events_of(listening.read().decode()) == []
            assert (
                events_of(calling.read().decode())[-1]["error"]["message"]
                == "access to this server has ended"
            )
            world.standin.go("get")
            assert next_event(spared.iter_lines())

    def test_a_revoked_key_ends_its_streams(self, world: World) -> None:
        route = world.server("access-key", world.target("scripted-stateful"))
        caller = world.caller(route, world.key(id="r" * 26))
        other = world.caller(route)
        with caller.stream("GET") as ended, other.stream("GET") as spared:
            world.key(id="r" * 26, is_gone=True)
            ended.read()
            self.wait_for_the_end_of(world, 1)
            world.standin.go("get")
            assert next_event(spared.iter_lines())

    @pytest.mark.acceptance("S4.19")
    def test_a_key_that_expires_ends_its_streams(self, world: World) -> None:
        route = world.server("access-expiry", world.target("scripted-stateful"))
        caller = world.caller(route, world.key(expires_at=time.time() + 2))
        other = world.caller(route, world.key(expires_at=time.time() + 3600))
        with caller.stream("GET") as ended, other.stream("GET") as spared:
            ended.read()
            self.wait_for_the_end_of(world, 1)
            world.standin.go("get")
            assert next_event(spared.iter_lines())

    @pytest.mark.acceptance("S4.19")
    def test_a_server_that_stops_being_public_ends_the_streams_of_strangers(self, world: World) -> None:
        target = world.target("scripted-stateful")
        route = world.server("access-closing", target, access=("public", "api_key"))
        stranger = world.at(world.url(route))
        assert stranger.initialize().status_code == 200
        known = world.caller(route)
        with stranger.stream("GET") as ended, known.stream("GET") as spared:
            world.server("access-closing", target, access=("api_key",))
            assert events_of(ended.read().decode()) == []
            world.standin.go("get")
            assert next_event(spared.iter_lines())

    @pytest.mark.acceptance("S3.11")
    def test_the_end_of_a_session_ends_its_streams(self, world: World) -> None:
        caller = world.caller(world.server("access-session", world.target("scripted-stateful")))
        with caller.stream("GET") as ended:
            assert caller.send("DELETE").status_code == 204
            ended.read()

    def test_a_reload_ends_the_streams_of_what_is_gone(self, world: World) -> None:
        route = world.server("access-reload", world.target("scripted-stateful"))
        caller = world.caller(route)
        with caller.stream("GET") as ended:
            world.publisher.client.hdel(world.publisher.keys.facts, route.key, f"{route.key}#v")
            world.publisher.new_epoch()
            ended.read()
