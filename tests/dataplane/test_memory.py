"""What bodies may hold of memory: bounded for a tenant and for the process, and others are served meanwhile."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import psutil
import pytest

from hosting.dataplane.contract import Limits
from tests.dataplane.harness import (
    OTHER_TENANT,
    Caller,
    World,
    call_of,
    error_of,
    events_of,
    modern_request,
    next_event,
)
from tests.waiting import wait_for

MIB = 1024 * 1024
TENANT_BYTES, PROCESS_BYTES = 24 * MIB, 32 * MIB
TENANT_LARGE, PROCESS_LARGE = TENANT_BYTES * 3 // 4, PROCESS_BYTES * 3 // 4
LIMITS = Limits(request_bytes=8 * MIB, event_bytes=8 * MIB)


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"max_tenant_held_bytes": str(TENANT_BYTES), "max_held_bytes": str(PROCESS_BYTES), "stalled_client_s": "5"}  # fmt: skip


def held(world: World) -> float:
    return world.gateway.metric("smcp_gateway_held_bytes")


def rss(world: World) -> int:
    return int(psutil.Process(world.gateway.pid).memory_info().rss)


def refused(world: World, outcome: str) -> float:
    return world.gateway.metric("smcp_gateway_requests_total", outcome=outcome)


class Sending:
    """A request in the hands of the test: its body may never come to its end, its answer never be read."""

    def __init__(self, world: World, caller: Caller, *framing: str, receive_buffer: int = 0) -> None:
        self.connection = socket.socket()
        self.connection.settimeout(10)
        if receive_buffer:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.connection.connect(("127.0.0.1", world.gateway.port))
        path = caller.url.removeprefix(world.gateway.url)
        lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", *framing]
        lines += [f"{name}: {value}" for name, value in caller.headers.items()]
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode())

    def push(self, data: bytes) -> None:
        """As much as is taken; whoever was refused is not read any more."""
        try:
            self.connection.sendall(data)
        except OSError:
            return

    def answer(self) -> bytes:
        try:
            return self.connection.recv(65536)
        except OSError:
            return b""


@contextmanager
def sending(world: World, caller: Caller, count: int, size: int) -> Iterator[list[Sending]]:
    """`count` requests that send all but the last byte of `size`, in turns."""
    with ExitStack() as stack:
        requests = [Sending(world, caller, f"content-length: {size}") for _ in range(count)]
        for request in requests:
            stack.callback(request.connection.close)
            request.connection.settimeout(0.5)
        for at in range(0, size - 1, MIB):
            for request in requests:
                request.push(b" " * min(MIB, size - 1 - at))
        yield requests


def stranger_of(world: World, slug: str, **more: Any) -> Caller:
    """Without a key, at a public server."""
    return world.at(world.url(world.server(slug, access=("public", "api_key"), limits=LIMITS, **more)))


def test_bodies_that_never_end_fill_a_tenants_share_and_no_more(world: World) -> None:
    stranger = stranger_of(world, "memory-fill")
    known = world.caller(world.server("memory-same-tenant"))
    neighbour = world.caller(world.server("memory-neighbour", tenant=OTHER_TENANT, limits=LIMITS))
    before, busy = rss(world), refused(world, "busy")
    with sending(world, stranger, 40, 4 * MIB) as requests:
        wait_for(lambda: refused(world, "busy") - busy >= 30, 20, what="most to be refused")
        assert held(world) <= TENANT_LARGE
        assert rss(world) - before < 2 * TENANT_BYTES
        assert known.call("echo").status_code == 200
        assert neighbour.call("echo", text="x" * 4 * MIB).status_code == 200
        told = b"".join(request.answer() for request in requests[-5:]).lower()
        assert b"http/1.1 429" in told
        assert b"retry-after: 1" in told
    wait_for(lambda: held(world) == 0, 10, what="everything to be given back")
    assert known.call("echo", text="x" * 2 * MIB).status_code == 200


def test_what_counts_is_what_came_not_what_was_announced(world: World) -> None:
    stranger = stranger_of(world, "memory-announced")
    with ExitStack() as stack:
        for _ in range(20):
            stack.callback(Sending(world, stranger, f"content-length: {8 * MIB}").connection.close)
        chunked = Sending(world, stranger, "transfer-encoding: chunked")
        stack.callback(chunked.connection.close)
        chunked.push(b"%x\r\n%s\r\n" % (3 * MIB, b" " * 3 * MIB))
        wait_for(lambda: held(world) == 3 * MIB, 5, what="the bytes to be counted")
    wait_for(lambda: held(world) == 0, 10, what="everything to be given back")


def test_all_tenants_together_are_bounded_too(world: World) -> None:
    first, second = stranger_of(world, "memory-a"), stranger_of(world, "memory-b", tenant=OTHER_TENANT)
    small = world.caller(world.server("memory-small", tenant=OTHER_TENANT))
    with sending(world, first, 2, 8 * MIB):
        wait_for(lambda: held(world) > 15 * MIB, 10, what="the first tenant's bodies")
        with sending(world, second, 1, 7 * MIB):
            wait_for(lambda: held(world) > 22 * MIB, 10, what="the second tenant's body")
            response = second.send(body=call_of("echo", text="x" * 3 * MIB))
            assert error_of(response) == (503, -32603)
            assert int(response.headers["retry-after"]) >= 1
            assert held(world) <= PROCESS_LARGE
            assert small.call("echo").status_code == 200
    wait_for(lambda: held(world) == 0, 10, what="everything to be given back")


def test_a_request_is_let_go_of_when_its_server_has_begun_to_answer(world: World) -> None:
    caller = world.caller(world.server("memory-long", limits=LIMITS))
    body = call_of("stream", count=1, permit="memory", more="x" * 5 * MIB)
    with caller.stream(body=body) as response:
        assert response.status_code == 200
        assert held(world) == 0
        world.standin.go("memory")
        assert next_event(response.iter_lines())
    wait_for(lambda: len(world.standin.seen[-1]["body"]) == len(json.dumps(body)), 5)


def test_a_request_that_its_server_does_not_take_is_held_however_early_it_answers(world: World) -> None:
    route = world.server(
        "memory-early", world.target("broken"), dispatch=world.standin.raw_dispatch, limits=LIMITS
    )
    body, headers = modern_request("tools/call", {"name": "x", "arguments": {"a": "x" * 7 * MIB}})
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    world.standin.answer_raw(head + b": hello\n\n", stays_open=True, reads_nothing=True)
    with world.at(world.url(route), world.key()).stream(body=body, **headers) as response:
        assert response.status_code == 200
        assert held(world) > 7 * MIB
    world.standin.go("raw")
    wait_for(lambda: held(world) == 0, 10, what="everything to be given back")


class TestAnswers:
    def test_large_ones_go_through_as_they_come(self, world: World) -> None:
        caller = world.caller(world.server("memory-answers"))
        assert len(caller.call("big", size=12 * MIB).json()["result"]["content"][0]["text"]) == 12 * MIB
        before = rss(world)
        with ExitStack() as stack:
            for _ in range(12):
                response = stack.enter_context(caller.stream(body=call_of("big", size=12 * MIB)))
                assert response.status_code == 200
            assert rss(world) - before < 48 * MIB
            assert held(world) <= 12 * MIB
            assert caller.call("echo").status_code == 200

    def test_ones_that_nobody_reads_are_held_in_bounds_and_not_for_ever(self, world: World) -> None:
        caller = world.caller(world.server("memory-unread"))
        body = json.dumps(call_of("big", size=1_000_000)).encode()
        before = rss(world)
        with ExitStack() as stack:
            for _ in range(60):
                request = Sending(world, caller, f"content-length: {len(body)}", receive_buffer=4096)
                stack.callback(request.connection.close)
                request.push(body)
            wait_for(lambda: len(world.standin.seen) >= 60, 20, what="the server to have answered")
            assert caller.call("echo").status_code == 200
            assert rss(world) - before < 2 * TENANT_BYTES
            wait_for(lambda: held(world) == 0, 20, what="those who do not read to be given up")
            assert rss(world) - before < 2 * TENANT_BYTES

    @pytest.mark.parametrize("framing", ["content-length: 3000000", "transfer-encoding: chunked"])
    def test_one_that_breaks_off_does_not_look_whole(self, world: World, framing: str) -> None:
        route = world.server("memory-cut", world.target("broken"), dispatch=world.standin.raw_dispatch)
        body, headers = modern_request("tools/call", {"name": "x"})
        start = b'{"jsonrpc":"2.0","id":1,"result":"' + b"x" * 2_500_000
        if "chunked" in framing:
            start = b"%x\r\n%s\r\n" % (len(start), start)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{framing}\r\n\r\n".encode()
        world.standin.answer_raw(head + start)
        failures = world.gateway.metric("smcp_gateway_upstream_failures_total", kind="answer_cut")
        with pytest.raises(httpx.RemoteProtocolError):
            world.at(world.url(route), world.key()).send(body=body, **headers)
        assert world.gateway.metric("smcp_gateway_upstream_failures_total", kind="answer_cut") > failures

    def test_one_over_its_bound_does_not_look_whole(self, world: World) -> None:
        limits = Limits(response_bytes=2_000_000)
        route = world.server(
            "memory-over", world.target("broken"), dispatch=world.standin.raw_dispatch, limits=limits
        )
        body, headers = modern_request("tools/call", {"name": "x"})
        chunk = b"%x\r\n%s\r\n" % (2_500_000, b" " * 2_500_000)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        world.standin.answer_raw(head + chunk + b"0\r\n\r\n")
        with pytest.raises(httpx.RemoteProtocolError):
            world.at(world.url(route), world.key()).send(body=body, **headers)

    def test_events_that_do_not_end_count_too(self, world: World) -> None:
        route = world.server(
            "memory-events", world.target("broken"), dispatch=world.standin.raw_dispatch, limits=LIMITS
        )
        caller = world.at(world.url(route), world.key())
        body, headers = modern_request("tools/call", {"name": "x"})
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        world.standin.answer_raw(head + b"data: " + b"x" * 5 * MIB, stays_open=True)
        with ExitStack() as stack:
            for number in range(3):
                stack.enter_context(caller.stream(body=body, **headers))
                wait_for(lambda: held(world) > (number + 1) * 5 * MIB, 10, what="the event to be held")  # noqa: B023 - at once
            response = caller.send(body=body, **headers)
            assert events_of(response.text)[-1]["error"]["code"] == -32000
            assert held(world) <= TENANT_LARGE
        wait_for(lambda: held(world) == 0, 10, what="everything to be given back")
