"""HTTP/1.1 towards servers: connections that are kept and used again, one request at a time on each. The parser is llhttp (httptools);
everything else is here because it decides what a request costs and what a stranger's server may make us hold (decision 0014).

Nothing a server sends is read further than it is asked for: MAX_UNREAD bytes of a body are held, then the connection is not read.
Heads are bounded, informational answers passed over, what is framed ambiguously (RFC 9112, 6.3) is no answer.

    Pool         connections by origin; `take` one, give it back with `done`
    Connection   one of them: `ask`, then `head`, then `read` until b""
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, cast

import httptools

POOL_IDLE_S: Final = 20.0
MAX_UNREAD: Final = 64 * 1024
MAX_HEAD_BYTES: Final = 32 * 1024
SWEEP_S: Final = 5.0
_NO_BODY: Final = frozenset({204, 304})


class Origin(NamedTuple):
    """Where a connection leads."""

    host: str
    port: int
    is_tls: bool


class ConnectionLostError(Exception):
    """It ended, or what came is no HTTP. `has_begun`: after the answer's head."""

    def __init__(self, *, has_begun: bool, is_http: bool = True) -> None:
        super().__init__("the connection ended early" if is_http else "the answer is no HTTP")
        self.has_begun = has_begun
        self.is_http = is_http


class Connection(asyncio.Protocol):
    """One at a time may wait for it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # from connection_made on
        self._parser = httptools.HttpResponseParser(self)
        self._state: Literal["idle", "asked", "head", "body", "whole", "lost", "broken"] = "idle"
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._wait_until = 0.0
        self._room: asyncio.Future[None] | None = None
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._is_paused = False
        self._head_bytes = 0
        self._is_until_end = False  # neither length nor chunks: the body ends with the connection
        self._has_answer_body = True
        self._keeps = False
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.idle_since = 0.0

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, alike in all but name
        self._transport.set_write_buffer_limits(high=MAX_UNREAD, low=MAX_UNREAD // 4)

    def data_received(self, data: bytes) -> None:
        if self._state == "idle":  # nobody has asked anything
            self._transport.abort()
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break()
        else:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._break()

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
        self.resume_writing()
        if self._timer is not None:
            self._timer.cancel()
        if self._state == "body" and self._is_until_end and exc is None:
            self._state = "whole"
            self._keeps = False
        elif self._state not in {"whole", "broken"}:
            self._state = "lost"
        self._wake()

    # The parser's side

    def on_message_begin(self) -> None:
        if self._state in {"whole", "idle"}:
            self._state = "broken"  # more than was asked for
            return
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._state == "asked":
            self.headers[name.lower()] = value.strip(b" \t")  # llhttp keeps what follows a value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._state != "asked" or status < 200:
            return
        headers = self.headers
        if sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEAD_BYTES:
            raise _TooLargeError
        self.status = status
        self._head_bytes = 0
        self._is_until_end = (
            b"content-length" not in headers
            and b"transfer-encoding" not in headers
            and status not in _NO_BODY
        )
        self._keeps = self._parser.should_keep_alive() and not self._is_until_end
        self._state = "body"
        if not self._has_answer_body:
            self._state, self._keeps = "whole", False  # the parser waits for what will not come
        self._wake()

    def on_body(self, piece: bytes) -> None:
        self._head_bytes = 0
        if self._state != "body":
            return
        self._pieces.append(piece)
        self._unread += len(piece)
        if self._unread > MAX_UNREAD and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        if self._state == "body" and not self._is_until_end:
            self._state = "whole"
            self._wake()

    # The asker's side

    @property
    def is_usable(self) -> bool:
        """Nobody has closed it while it was idle."""
        return self._state == "idle" and not self._transport.is_closing()

    def ask(self, data: bytes, *, has_answer_body: bool = True) -> None:
        """The head of a request, and its body where it is small. To HEAD the answer has none, whatever it says."""
        self._state = "asked"
        self._has_answer_body = has_answer_body
        self._head_bytes = 0
        self._transport.write(data)

    async def write(self, data: bytes) -> None:
        """More of the request's body; waits while the server does not read. Raises ConnectionLostError."""
        if self._transport.is_closing():
            raise ConnectionLostError(has_begun=self._state in {"body", "whole"})
        self._transport.write(data)
        if self._room is not None:
            await asyncio.shield(self._room)

    async def head(self, *, within_s: float) -> None:
        """Until `status` and `headers` are there. Raises ConnectionLostError, TimeoutError."""
        deadline = time.monotonic() + within_s
        while self._state == "asked":
            await self._wait(deadline - time.monotonic())
        if self._state in {"lost", "broken"}:
            raise ConnectionLostError(has_begun=False, is_http=self._state == "lost")

    async def read(self, size: int = -1, *, within_s: float) -> bytes:
        """What has come of the body, at most `size` bytes of it; b"" at its end. Raises ConnectionLostError, TimeoutError."""
        while not self._pieces:
            if self._state == "whole":
                return b""
            if self._state != "body":
                raise ConnectionLostError(has_begun=True, is_http=self._state == "lost")
            await self._wait(within_s)
        piece = self._pieces.popleft()
        if size < 0 and self._pieces:
            piece = b"".join((piece, *self._pieces))
            self._pieces.clear()
        elif 0 <= size < len(piece):
            self._pieces.appendleft(piece[size:])
            piece = piece[:size]
        self._unread -= len(piece)
        if self._is_paused and self._unread <= MAX_UNREAD // 4:
            self._is_paused = False
            self._transport.resume_reading()
        return piece

    def reset(self) -> bool:
        """Makes ready for the next request; whether it may have one."""
        is_fit = (
            self._state == "whole" and self._keeps and not self._pieces and not self._transport.is_closing()
        )
        if is_fit:
            self._state = "idle"
            self.idle_since = time.monotonic()
        return is_fit

    def abort(self) -> None:
        self._transport.abort()

    def _break(self) -> None:
        self._state = "broken"
        self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, timeout_s: float) -> None:
        """Raises TimeoutError. One timer serves many waits: it is only set anew when it goes off too early, or would too late."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._wait_until = time.monotonic() + max(timeout_s, 0.0)
        if self._timer is None or self._wait_until < self._timer_at:
            self._set_timer(loop)
        await self._waiter

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._wait_until
        self._timer = loop.call_later(max(self._wait_until - time.monotonic(), 0.0), self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if time.monotonic() < self._wait_until:
            self._set_timer(asyncio.get_running_loop())
        else:
            self._waiter.set_exception(TimeoutError())


class _TooLargeError(Exception):
    """Raised inside the parser's callbacks."""


class Pool:
    """Create it inside the running loop. The last connection given back is the first one taken: the others grow old and are closed."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[Connection]] = {}
        self._tls: ssl.SSLContext | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def take(self, origin: Origin, *, connect_s: float) -> Connection:
        """A connection nobody else has. Raises OSError (TimeoutError, ssl.SSLError and failed look-ups among them)."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
        loop: Any = asyncio.get_running_loop()
        async with asyncio.timeout(connect_s):
            _, made = await loop.create_connection(
                Connection, origin.host, origin.port, ssl=self._context() if origin.is_tls else None
            )
        return cast(Connection, made)

    def done(self, origin: Origin, connection: Connection) -> None:
        """Its answer was read, or nobody wants the rest of it."""
        if not connection.reset():
            connection.abort()
            return
        self._idle.setdefault(origin, []).append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            oldest = time.monotonic() - POOL_IDLE_S
            for origin, connections in list(self._idle.items()):
                for connection in connections:
                    if connection.idle_since < oldest:
                        connection.abort()
                kept = [each for each in connections if each.is_usable]
                if kept:
                    self._idle[origin] = kept
                else:
                    del self._idle[origin]


def head_of(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The head of a request. Raises ValueError for a value that would end its line."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    fields = "".join(lines)
    if fields.count("\n") != len(lines) or fields.count("\r") != len(lines):
        raise ValueError("a header's value has a line break")
    return f"{method} {target} HTTP/1.1\r\n{fields}\r\n".encode("latin-1")
