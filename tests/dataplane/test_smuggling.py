"""Requests made to be read differently by two readers, sent as raw bytes."""

from __future__ import annotations

import json
import socket

import pytest

from tests.dataplane.harness import Caller, World, call_of
from tests.waiting import wait_for

BODY = json.dumps(call_of("echo", text="smuggled")).encode()


def head(caller: Caller, world: World, *lines: str, method: str = "POST") -> bytes:
    path = caller.url.removeprefix(world.gateway.url)
    sent = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
    sent += [f"{name}: {value}" for name, value in caller.headers.items()]
    return "\r\n".join([*sent, *lines, "", ""]).encode()


def exchange(world: World, data: bytes) -> bytes:
    """Everything the gateway says until it closes, or for as long as it says something."""
    with socket.create_connection(("127.0.0.1", world.gateway.port), timeout=2) as connection:
        connection.sendall(data)
        said = b""
        try:
            while piece := connection.recv(65536):
                said += piece
        except TimeoutError:
            pass
        return said


@pytest.fixture
def caller(world: World) -> Caller:
    return world.caller(world.server("smuggle"))


@pytest.mark.acceptance("S4.19")
@pytest.mark.parametrize(
    "lines",
    [
        ["content-length: 5", "content-length: 6"],
        ["content-length: +5"],
        ["content-length: 0x5"],
        ["content-length: 5, 6"],
        ["content-length: -1"],
        ["content-length: 5 5"],
        ["transfer-encoding: chunked, identity"],
        ["transfer-encoding: xchunked"],
        ["transfer-encoding : chunked"],
        [" transfer-encoding: chunked"],
        ["x: a\nb: c", "content length: 5"],
        ["bad\x00name: x"],
        ["x: a\x00b"],
    ],
)
def test_ambiguous_framing_is_refused_and_no_server_hears_of_it(
    world: World, caller: Caller, lines: list[str]
) -> None:
    said = exchange(world, head(caller, world, *lines) + b"0\r\n\r\n" + BODY)
    assert said == b"" or said.startswith(b"HTTP/1.1 4")
    assert world.standin.seen == []


def test_chunks_with_a_length_beside_them_are_refused(world: World, caller: Caller) -> None:
    """RFC 9112, 6.3: an attempt at smuggling. Nothing that follows on the connection is read as a request either."""
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    stranger = b"POST /acme/smuggle/mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 2\r\n\r\n{}"
    for lines in (
        ["content-length: 4", "transfer-encoding: chunked"],
        ["transfer-encoding: chunked", "content-length: 4"],
    ):
        said = exchange(world, head(caller, world, *lines) + chunks + stranger)
        assert [line[9:12] for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1")] == [b"400"]
    assert world.standin.seen == []


def test_chunks_that_break_off_are_never_sent_on(world: World, caller: Caller) -> None:
    broken = head(caller, world, "transfer-encoding: chunked") + b"%x\r\n" % (len(BODY) + 100) + BODY
    with socket.create_connection(("127.0.0.1", world.gateway.port), timeout=5) as connection:
        connection.sendall(broken)
    with socket.create_connection(("127.0.0.1", world.gateway.port), timeout=5) as connection:
        connection.sendall(head(caller, world, f"content-length: {len(BODY) + 100}") + BODY)
    with socket.create_connection(("127.0.0.1", world.gateway.port), timeout=5) as connection:
        connection.sendall(
            head(caller, world, "transfer-encoding: chunked") + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"
        )
        said = connection.recv(65536)
    assert said.startswith(b"HTTP/1.1 400")
    wait_for(lambda: world.gateway.metric("smcp_gateway_requests_total", outcome="broken_body") >= 3, 5)
    assert world.standin.seen == []


def test_two_requests_on_one_connection_are_answered_in_order(world: World, caller: Caller) -> None:
    first = json.dumps(call_of("echo", text="first")).encode()
    second = json.dumps(call_of("echo", text="second")).encode()
    both = b"".join(head(caller, world, f"content-length: {len(body)}") + body for body in (first, second))
    said = exchange(world, both)
    assert said.count(b"HTTP/1.1 200") == 2
    assert said.index(b"first") < said.index(b"second")


@pytest.mark.parametrize(
    "lines", [[f"x-{number}: y" for number in range(90)], ["x: " + "y" * 100_000], ["x" * 70_000 + ": y"]]
)
def test_headers_without_measure_are_refused(world: World, caller: Caller, lines: list[str]) -> None:
    said = exchange(world, head(caller, world, *lines, f"content-length: {len(BODY)}") + BODY)
    assert said.startswith(b"HTTP/1.1 431")
    assert world.standin.seen == []


def test_white_space_around_a_headers_value_is_no_part_of_it(world: World, caller: Caller) -> None:
    lines = ("mcp-protocol-version: \t 2025-11-25 \t", f"content-length: {len(BODY)}", "connection: close")
    assert exchange(world, head(caller, world, *lines) + BODY).startswith(b"HTTP/1.1 200")
    assert world.standin.seen[-1]["headers"]["mcp-protocol-version"] == "2025-11-25"


def test_a_header_cannot_be_injected_through_an_allowed_one(world: World, caller: Caller) -> None:
    for value in ("a\r\nsmcp-tenant: x", "a\nsmcp-tenant: x", "a\rsmcp-tenant: x"):
        exchange(world, head(caller, world, f"mcp-param-x: {value}", f"content-length: {len(BODY)}") + BODY)
    assert all("smcp-tenant" not in entry["headers"] for entry in world.standin.seen)


@pytest.mark.parametrize(
    "line",
    [
        "GET http://evil.example/acme/smuggle/mcp HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT evil.example:443 HTTP/1.1",
    ],
)
def test_a_request_line_that_is_not_a_path_reaches_nobody(world: World, line: str) -> None:
    world.server("smuggle")
    said = exchange(world, f"{line}\r\nhost: 127.0.0.1\r\n\r\n".encode())
    assert b" 200 " not in said.split(b"\r\n")[0]
    assert world.standin.seen == []


@pytest.mark.parametrize("name", ["mcp-name", "mcp-param-x", "mcp-session-id", "mcp-protocol-version"])
def test_a_routing_header_that_is_not_ascii_is_refused(world: World, caller: Caller, name: str) -> None:
    caller.headers.pop("mcp-session-id")
    said = exchange(world, head(caller, world, f"{name}: é", f"content-length: {len(BODY)}") + BODY)
    assert said.startswith(b"HTTP/1.1 400")
    assert world.standin.seen == []
