"""Bytes nobody planned for, at both of the gateway's HTTP parsers: what was framed here, and what h11 reads in the same bytes.

A request or answer that both accept must be the same to both: one that is longer to one of them is a way to smuggle. What h11 refuses may
pass here only as one whole message that the next reader gets built anew, so only what both accept is compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, cast

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hosting.dataplane.door.connection import Connection
from hosting.dataplane.door.exchange import Exchange
from hosting.dataplane.door.server import Server
from hosting.dataplane.forwarding.connections import Connection as ToServer
from hosting.dataplane.forwarding.connections import ConnectionLostError
from hosting.dataplane.protocol.errors import Refusal

Framed = list[tuple[str, bytes]]  # method or status, and body
FUZZ = settings(max_examples=300, deadline=None, derandomize=True)

LINES = st.sampled_from(
    [
        b"content-length: 5", b"Content-Length:5", b"content-length: 0", b"content-length: 05", b"content-length: +5",
        b"content-length: 5, 5", b"content-length : 5", b"content-length: 5 ", b"content-length:\t5", b"content-length: 0x5",
        b"transfer-encoding: chunked", b"Transfer-Encoding: CHUNKED", b"transfer-encoding: chunked, chunked",
        b"transfer-encoding: gzip, chunked", b"transfer-encoding: identity", b"transfer-encoding:\x0bchunked",
        b"transfer-encoding: chunked, identity", b" folded", b"\tfolded", b"x: y", b"x:", b": y", b"x y: z", b"x: \x00", b"x: \xff",
        b"connection: close", b"connection: keep-alive", b"connection: upgrade", b"upgrade: h2c", b"upgrade: websocket",
        b"expect: 100-continue", b"trailer: x", b"host: b",
    ]
)  # fmt: skip
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n"])
BODIES = st.sampled_from(
    [
        b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"5;a=b\r\nhello\r\n0\r\n\r\n", b"5\nhello\n0\n\n", b"05\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhello\r\n0\r\nx: y\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n", b"fffffffffffffffff\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n",
        b"5;\nxx\r\n4c\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\ncontent-length: 3\r\n\r\n",
    ]
)  # fmt: skip
REQUEST_LINES = st.sampled_from(
    [b"POST /a HTTP/1.1"] * 4
    + [
        b"GET /a HTTP/1.1",
        b"HEAD /a HTTP/1.1",
        b"OPTIONS /a HTTP/1.1",
        b"POST /a HTTP/1.0",
        b"POST  /a HTTP/1.1",
    ]
)
STATUS_LINES = st.sampled_from(
    [b"HTTP/1.1 200 OK"] * 4
    + [
        b"HTTP/1.1 204 No",
        b"HTTP/1.1 304 No",
        b"HTTP/1.1 100 Go",
        b"HTTP/1.1 103 Soon",
        b"HTTP/1.1 200",
        b"HTTP/1.0 200 OK",
    ]
    + [b"HTTP/1.1 101 Switching", b"HTTP/1.1  200 OK"]
)


@st.composite
def messages(draw: st.DrawFn, first: st.SearchStrategy[bytes]) -> bytes:
    said = b""
    for _ in range(draw(st.integers(1, 3))):
        lines = [draw(first), b"host: a", *draw(st.lists(LINES, max_size=3))]
        said += b"".join(line + draw(ENDS) for line in lines) + draw(ENDS) + draw(BODIES)
    if draw(st.booleans()):
        return said
    at = draw(st.integers(0, len(said)))
    return said[:at] + draw(st.binary(max_size=3)) + said[at + draw(st.integers(0, 3)) :]


def cuts(said: bytes, at: Iterable[int]) -> list[bytes]:
    places = sorted({0, len(said), *(place % (len(said) + 1) for place in at)})
    return [said[start:end] for start, end in pairwise(places)]


class Wire(asyncio.Transport):
    """What is written to it is kept; nothing else happens."""

    def __init__(self, lost: Callable[[], None]) -> None:
        super().__init__()
        self.written = b""
        self._lost = lost
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self._is_closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self._lost)

    def abort(self) -> None:
        self.close()


class AnyShare:
    def take(self, size: int) -> None: ...

    def give(self, size: int) -> None: ...


async def framed_here(pieces: list[bytes]) -> tuple[Framed, bytes]:
    """The requests whose bodies came whole, and what was answered."""
    framed: Framed = []

    async def handle(exchange: Exchange) -> None:
        try:
            exchange.read_headers()
            body = await exchange.read_body(limit=10_000, timeout_s=0.05, share=cast(Any, AnyShare()))
        except Refusal as refusal:
            await exchange.answer(refusal.status, (), b"{}")
            return
        framed.append((exchange.method, body))
        await exchange.answer(200, (), b"{}")

    server = Server(handle, on_refused=lambda _: None, head_s=5, stalled_s=5, max_connections=9)
    connection = Connection(server)
    wire = Wire(lambda: connection.connection_lost(None))
    connection.connection_made(wire)
    for piece in pieces:
        if not wire.is_closing():
            connection.data_received(piece)
        for _ in range(8):
            await asyncio.sleep(0)
    for _ in range(40):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    for _ in range(4):
        await asyncio.sleep(0)
    return framed, wire.written


def requests_of_h11(said: bytes) -> Framed | None:
    """None where h11 refuses anything of it."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1_000_000)
    reader.receive_data(said)
    framed: Framed = []
    try:
        while True:
            event = reader.next_event()
            match event:
                case h11.Request():
                    method, body = event.method.decode(), b""
                case h11.Data():
                    body += bytes(event.data)
                case h11.EndOfMessage():
                    framed.append((method, body))
                    reader.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                    reader.send(h11.EndOfMessage())
                    if reader.our_state is h11.MUST_CLOSE or reader.their_state is h11.MUST_CLOSE:
                        return framed
                    reader.start_next_cycle()
                case _:
                    return framed
    except h11.RemoteProtocolError:
        return None


@FUZZ
@given(said=messages(REQUEST_LINES), at=st.lists(st.integers(0, 1000), max_size=4))
def test_requests_are_framed_as_another_reader_frames_them(said: bytes, at: list[int]) -> None:
    here, written = asyncio.run(framed_here(cuts(said, at)))
    there = requests_of_h11(said)
    assert written.count(b"HTTP/1.1 200") == len(here)
    if there is not None:
        assert here == there[: len(here)]


@FUZZ
@given(said=st.binary(max_size=200) | messages(REQUEST_LINES).map(lambda said: said[::-1]))
def test_no_bytes_of_a_client_are_a_surprise(said: bytes) -> None:
    _, written = asyncio.run(framed_here([said]))
    assert all(line[9:10] in b"24" for line in written.split(b"\r\n") if line.startswith(b"HTTP/1.1"))


async def heard_here(pieces: list[bytes], *, is_head: bool) -> tuple[tuple[str, bytes] | None, bool]:
    """Status and body of the answer, None for what is none; whether the connection would be used again."""
    connection = ToServer()
    wire = Wire(lambda: connection.connection_lost(None))
    connection.connection_made(wire)
    connection.ask(b"", has_answer_body=not is_head)
    for piece in pieces:
        if not wire.is_closing():
            connection.data_received(piece)
    wire.close()
    is_fit = connection._keeps
    await asyncio.sleep(0)
    try:
        await connection.head(within_s=0.01)
        body = b""
        while piece := await connection.read(within_s=0.01):
            body += piece
    except (ConnectionLostError, TimeoutError):
        return None, False
    return (str(connection.status), body), is_fit and connection._state == "whole"


def answer_of_h11(said: bytes, *, is_head: bool) -> tuple[tuple[str, bytes] | None, bytes]:
    """What h11 reads, None for what is none; and what it leaves on the connection."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="HEAD" if is_head else "POST", target="/", headers=[("host", "a")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(said)
    reader.receive_data(b"")
    status, body = "", b""
    try:
        while True:
            match event := reader.next_event():
                case h11.Response():
                    status = str(event.status_code)
                case h11.Data():
                    body += bytes(event.data)
                case h11.EndOfMessage():
                    return (status, body), reader.trailing_data[0]
                case h11.InformationalResponse():
                    pass
                case _:
                    return None, b""
    except h11.RemoteProtocolError:
        return None, b""


@FUZZ
@given(said=messages(STATUS_LINES), at=st.lists(st.integers(0, 1000), max_size=4), is_head=st.booleans())
def test_answers_are_framed_as_another_reader_frames_them(said: bytes, at: list[int], is_head: bool) -> None:
    """And no connection on which more came than was asked for is used again."""
    here, is_kept = asyncio.run(heard_here(cuts(said, at), is_head=is_head))
    there, left = answer_of_h11(said, is_head=is_head)
    if here is not None and there is not None:
        assert here == there
    if there is not None and left.strip(b"\r\n"):
        assert not is_kept


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}H",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 304 No\r\ncontent-length: 38\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_a_connection_with_more_on_it_is_not_used_again(said: bytes) -> None:
    _, is_kept = asyncio.run(heard_here([said], is_head=False))
    assert not is_kept
