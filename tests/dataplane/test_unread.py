"""Clients that ask and never read: what they make the gateway hold is bounded, and their connections end."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import psutil
import pytest

from hosting.dataplane.contract import Limits
from tests.dataplane.harness import SiteProcess, World, call_of
from tests.dataplane.test_smuggling import head
from tests.dataplane.test_websockets import handshaken, open_to_all
from tests.waiting import wait_for

STALLED_S = 3


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"stalled_client_s": str(STALLED_S), "keepalive_s": "1"}


@contextlib.contextmanager
def deaf(world: World) -> Iterator[socket.socket]:
    """A connection whose client takes next to nothing."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", world.gateway.port))
        connection.settimeout(1.0)
        yield connection


def call_body(size: int) -> bytes:
    return json.dumps(call_of("echo", text="x" * size)).encode()


def is_held(world: World, connection: socket.socket) -> bool:
    """Whether the gateway still has its end of it."""
    ours = connection.getsockname()[1]
    held = psutil.Process(world.gateway.pid).net_connections("tcp")
    return any(each.raddr and each.raddr.port == ours for each in held)


def answered(world: World) -> float:
    return world.gateway.metric("smcp_gateway_requests_total")


@pytest.mark.acceptance("S4.19")
def test_a_stranger_who_reads_no_answer_is_answered_no_further(world: World) -> None:
    """Without a key: what a browser asks before it sends costs nobody a place, and nothing of a share."""
    path = world.url(world.server("unread-preflight")).removeprefix(world.gateway.url)
    names = ", ".join(f"mcp-param-{number}-{'x' * 80}" for number in range(50))
    request = (
        f"OPTIONS {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx: {'y' * 20_000}\r\n"
        f"access-control-request-headers: {names}\r\n\r\n"
    ).encode()
    before = answered(world)
    with deaf(world) as connection:
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(3000):
                connection.sendall(request)
        wait_for(lambda: not is_held(world, connection), STALLED_S + 20, what="the connection to end")
    assert 3 < answered(world) - before < 1500


def test_a_keyed_client_that_never_reads_reaches_its_server_no_further(world: World) -> None:
    caller = world.caller(world.server("unread", limits=Limits(requests_per_minute=100_000)))
    body = call_body(48_000)
    request = head(caller, world, f"content-length: {len(body)}") + body
    with deaf(world) as connection:
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(600):
                connection.sendall(request)
        wait_for(lambda: not is_held(world, connection), STALLED_S + 20, what="the connection to end")
    assert len(world.standin.seen) < 300


def test_a_websocket_that_was_closed_without_being_heard_is_let_go(world: World, site: SiteProcess) -> None:
    """What its client has not read would otherwise be kept for as long as it stays: for ever."""
    route = open_to_all(world, site, "unread-ws")
    with handshaken(world, route, "mode=flood") as connection:
        wait_for(lambda: not is_held(world, connection), 4 * STALLED_S + 20, what="the connection to end")


def test_a_client_that_reads_slowly_gets_all_its_answers(world: World) -> None:
    caller = world.caller(world.server("unread-slow"))
    body = call_body(20_000)
    request = head(caller, world, f"content-length: {len(body)}") + body
    with deaf(world) as connection:
        sending = threading.Thread(target=connection.sendall, args=(request * 100,))
        connection.settimeout(20)
        sending.start()
        said = 0
        while said < 100 * 20_000:
            said += len(connection.recv(65536))
        sending.join(20)
    assert len(world.standin.seen) == 100
