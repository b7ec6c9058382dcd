"""One client's HTTP/1.1 connection: bytes in, one Exchange per request out. The parser is llhttp (httptools), everything else is here
because it decides what a request costs and what a stranger may hold (decision 0014).

Strict: what two readers could frame differently (RFC 9112, 6.3 and 11.2) is refused with 400 and the connection closed. Bounded: a head by
MAX_HEAD_BYTES and `head_s`, what a client sends unread by PIECE_BYTES, requests sent ahead by MAX_AHEAD, a connection nobody uses by
IDLE_S, answers nobody reads by `stalled_s`. Requests of one connection are answered in order, one at a time, and the next when the client has
read what was written.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

import httptools

from hosting.dataplane.door.exchange import PIECE_BYTES, Exchange
from hosting.dataplane.door.socket import Upgrade
from hosting.dataplane.protocol.errors import HEADERS_TOO_LARGE, MALFORMED, OVERLOADED, Kind, Refusal

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_AHEAD: Final = 16  # requests a client may send before the first one's answer
IDLE_S: Final = 75.0
LINGER_S: Final = 2.0  # for a client to read a refusal before its connection is reset
LINGER_BYTES: Final = 1024 * 1024
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

Handler = Callable[[Exchange], Awaitable[None]]
OnRefused = Callable[[Kind], None]


class Owner(Protocol):
    """Who has a Connection, and looks at its `deadline` from time to time."""

    handle: Handler
    on_refused: OnRefused
    head_s: float
    stalled_s: float
    is_stopping: bool  # no connection is used again after its answer
    is_closing: bool  # none waits for another request

    def welcome(self, connection: Connection) -> bool:
        """Whether there is room for one more."""

    def forget(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One client. Its `deadline` is looked at by its owner's sweep: a timer for each request would cost more than the request's head."""

    def __init__(self, server: Owner) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # from connection_made on
        self._client = ""
        self._target: list[bytes] = []
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0  # since the last thing the parser made of them
        self._is_in_head = True
        self._incoming: Exchange | None = None  # its body is being received
        self._current: Exchange | None = None  # it is being answered
        self._ahead: deque[Exchange] = deque()
        self._task: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._corked: list[bytes] = []
        self._corked_bytes = 0
        self._is_closing = False
        self._early = b""  # what a client sent behind a handshake, before it was accepted
        self._has_switched = False
        self._lingered = -1
        self.deadline = 0.0

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, alike in all but name
        self._transport.set_write_buffer_limits(high=PIECE_BYTES, low=PIECE_BYTES // 4)
        peer = self._transport.get_extra_info("peername")
        self._client = peer[0] if peer else ""
        self.deadline = time.monotonic() + self._server.head_s
        if not self._server.welcome(self):
            self._refuse(OVERLOADED)

    def data_received(self, data: bytes) -> None:
        if self._has_switched:
            self._hand_on(data)
            return
        if self._is_closing:
            self._discard(len(data))
            return
        if self._current is None and self._is_in_head and not self._head_bytes:
            self.deadline = time.monotonic() + self._server.head_s
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._is_closing = True  # what follows is no HTTP; unless `switch` is called, nobody reads it
            self._early = data[exc.args[0] :]
            self._transport.pause_reading()
        except httptools.HttpParserError as exc:
            is_measure = isinstance(exc.__context__, _TooLargeError)
            self._break_off(HEADERS_TOO_LARGE if is_measure else MALFORMED)
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._break_off(HEADERS_TOO_LARGE)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._server.forget(self)
        if self._room is not None:
            self._room.set_result(None)
            self._room = None
        for exchange in (self._incoming, self._current, *self._ahead):
            if exchange is not None:
                exchange.lose()
        self._ahead.clear()

    # The parser's side

    def on_url(self, part: bytes) -> None:
        self._target.append(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_head:
            return  # a trailer, which nobody asked for
        self._headers.append((name.lower(), value.strip(b" \t")))  # llhttp keeps what follows a value
        if len(self._headers) > MAX_HEAD_BYTES // 32:
            raise _TooLargeError

    def on_headers_complete(self) -> None:
        if sum(len(name) + len(value) for name, value in self._headers) > MAX_HEAD_BYTES:
            raise _TooLargeError
        self._is_in_head = False
        self._head_bytes = 0
        target = b"".join(self._target) if len(self._target) != 1 else self._target[0]
        path, _, query = target.partition(b"?")
        kind = (
            Upgrade
            if self._parser.should_upgrade() and (b"upgrade", b"websocket") in self._names()
            else Exchange
        )
        exchange = kind(
            self,
            method=self._parser.get_method().decode("ascii"),
            path=path.decode("ascii", "replace"),
            query=query.decode("latin-1"),
            client=self._client,
            raw_headers=self._headers,
            is_kept=self._parser.should_keep_alive(),
            has_chunks=self._parser.get_http_version() != "1.0",
        )
        self._target, self._headers = [], []
        self._incoming = exchange
        if self._current is None:
            self._start(exchange)
        elif len(self._ahead) < MAX_AHEAD:
            self._ahead.append(exchange)
        else:
            raise _TooLargeError

    def _names(self) -> list[tuple[bytes, bytes]]:
        return [(name, value.strip().lower()) for name, value in self._headers]

    def on_body(self, piece: bytes) -> None:
        self._head_bytes = 0
        if self._incoming is not None and self._incoming.feed(piece):
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        self._is_in_head = True
        if self._incoming is not None:
            self._incoming.finish()
            self._incoming = None
        if self._ahead:
            self._transport.pause_reading()  # until the ones before are answered

    # The Exchange's side

    @property
    def is_lost(self) -> bool:
        return self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """What is written in one go (head, event, end) leaves in one piece: each costs the system as much as all of them."""
        self._corked.append(data)
        self._corked_bytes += len(data)
        if self._corked_bytes >= PIECE_BYTES:
            self._uncork()
        elif len(self._corked) == 1:
            asyncio.get_running_loop().call_soon(self._uncork)

    def _uncork(self) -> None:
        if self._corked:
            data = self._corked[0] if len(self._corked) == 1 else b"".join(self._corked)
            self._corked, self._corked_bytes = [], 0
            self._transport.write(data)

    @property
    def is_full(self) -> bool:
        return self._room is not None

    async def drained(self) -> None:
        """Until the client has read enough for more to be written."""
        if self._room is not None:
            await asyncio.shield(self._room)

    def ask_for_more(self) -> None:
        """The handler took what of the body had come."""
        if self._has_switched or (not self._is_closing and not self._ahead):
            self._transport.resume_reading()

    def say_continue(self) -> None:
        self.write(_CONTINUE)

    def part(self) -> None:
        """The answer has ended, and its handler goes on without the client: the next request has its turn."""
        exchange, self._current = self._current, None
        if exchange is not None:
            self._after(exchange)

    def switch(self) -> None:
        """The handshake was accepted: what follows is the Exchange's own."""
        self._has_switched = True
        early, self._early = self._early, b""
        if early:
            self._hand_on(early)

    def _hand_on(self, data: bytes) -> None:
        if self._current is not None and self._current.feed(data):
            self._transport.pause_reading()

    @property
    def keeps(self) -> bool:
        """Whether the connection may be used again after the answer that is being written."""
        return not self._is_closing and self._incoming is not self._current and not self._server.is_stopping

    @property
    def is_unused(self) -> bool:
        """Nothing is being answered on it, and its client may be about to ask."""
        return self._current is None and not self._is_closing

    def close_when_idle(self) -> None:
        if self._current is None:
            self.close()

    def close(self) -> None:
        self._uncork()
        self.deadline = time.monotonic() + self._server.stalled_s  # for the client to read what was written
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # Ours

    def _start(self, exchange: Exchange) -> None:
        self._current = exchange
        self.deadline = float("inf")
        self._task = asyncio.get_running_loop().create_task(self._serve(exchange))

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._server.handle(exchange)
            if self._current is exchange and exchange.is_ended:
                await self._until_read()
        finally:
            if self._current is exchange:
                self._current = self._task = None
                self._after(exchange)

    async def _until_read(self) -> None:
        """A client that reads nothing is answered no further: small answers wait for nobody, and many of them are a lot."""
        self._uncork()
        if self._room is not None:
            self.deadline = time.monotonic() + self._server.stalled_s
            await self.drained()

    def _after(self, exchange: Exchange) -> None:
        """Its answer is written, or never will be."""
        if self._transport.is_closing():
            return
        if not exchange.is_ended:
            self._transport.abort()  # the client must not take what it has for all
        elif self._has_switched:
            self.close()
        elif not exchange.is_kept or self._incoming is exchange or self._is_closing:
            self._linger()
        elif self._ahead:
            self._start(self._ahead.popleft())
            self.ask_for_more()
        elif self._server.is_closing:
            self.close()
        else:
            self.deadline = time.monotonic() + IDLE_S
            self._transport.resume_reading()

    def _break_off(self, kind: Kind) -> None:
        """What came is no HTTP: whoever is being answered gets the answer, nobody is read any more."""
        incoming, self._incoming = self._incoming, None
        if incoming is None and self._current is None:
            self._refuse(kind)
            return
        self._is_closing = True
        if incoming is None:
            return
        incoming.break_off()
        if incoming in self._ahead:
            self._ahead.remove(incoming)

    def _refuse(self, kind: Kind) -> None:
        """An answer to what never became a request."""
        self._server.on_refused(kind)
        body = Refusal(kind).body()
        self.write(
            b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (kind.status, len(body), body)
        )
        self._linger()

    def _linger(self) -> None:
        """Closes our side, and lets the client read: a reset at once could take the answer from it."""
        self._uncork()
        self._is_closing = True
        self._lingered = 0
        is_read = not self._transport.get_write_buffer_size()
        self.deadline = time.monotonic() + (LINGER_S if is_read else self._server.stalled_s)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()

    def _discard(self, size: int) -> None:
        if self._lingered >= 0:
            self._lingered += size
        if self._lingered > LINGER_BYTES:
            self._transport.abort()
        elif self._lingered < 0:
            self._transport.pause_reading()


class _TooLargeError(Exception):
    """Raised inside the parser's callbacks."""
