"""One HTTP request and its answer, as the gateway sees them. The connection it came on is `server.py`'s.

A body is read as it comes and no further than it is asked for; an answer waits for a client that does not read. Pieces are at most
PIECE_BYTES, so a stalled client holds little.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Literal, Protocol

from hosting.dataplane.contract import Era
from hosting.dataplane.door.held import Share
from hosting.dataplane.protocol.errors import (
    BAD_HEADER,
    BROKEN_BODY,
    HEADERS_TOO_LARGE,
    REPEATED_HEADER,
    SLOW_BODY,
    TOO_LARGE,
    Headers,
    Refusal,
)

PIECE_BYTES = 64 * 1024
MAX_HEADERS = 64
MAX_HEADER_BYTES = 32 * 1024
SINGLE = frozenset(
    (
        b"authorization",
        b"content-type",
        b"content-length",
        b"host",
        b"last-event-id",
        b"origin",
        b"transfer-encoding",
    )
)


class ClientGone(Exception):
    """The client closed its connection, or stopped reading, before its answer was complete."""


class Wire(Protocol):
    """What an Exchange needs of its connection."""

    @property
    def is_lost(self) -> bool: ...

    @property
    def keeps(self) -> bool:
        """Whether the connection may be used again after this answer."""

    def write(self, data: bytes) -> None: ...

    @property
    def is_full(self) -> bool:
        """The client has not read what was written to it."""

    async def drained(self) -> None:
        """Until more may be written, or the connection is lost."""

    def ask_for_more(self) -> None: ...

    def say_continue(self) -> None: ...

    def part(self) -> None:
        """The Exchange has ended; whoever answers it goes on."""

    def abort(self) -> None: ...

    def switch(self) -> None:
        """From now on what the client sends is no HTTP: it is all of the one Exchange's body."""


class Exchange:
    """Created for each request; `answer` once, or `begin`, `send` … and `end`."""

    __slots__ = (
        "_body",
        "_body_state",
        "_has_chunks",
        "_headers",
        "_held",
        "_is_chunked",
        "_is_gone",
        "_news",
        "_raw_headers",
        "_status",
        "_watchers",
        "_wire",
        "client",
        "cors",
        "era",
        "is_ended",
        "is_kept",
        "is_mcp",
        "method",
        "path",
        "query",
    )
    is_upgrade = False
    is_inner = False  # the gateway's own, on behalf of a client whose request was counted already

    def __init__(
        self,
        wire: Wire,
        *,
        method: str,
        path: str,
        query: str,
        client: str,
        raw_headers: list[tuple[bytes, bytes]],
        is_kept: bool,
        has_chunks: bool,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.client = client
        self.cors: Headers = ()  # what a browser is told with every answer, once its Origin was let in
        self.era: Era | Literal["none"] = "none"  # what it speaks, once that is known
        self.is_mcp = True  # whoever waits for the answer expects JSON-RPC
        self.is_kept = is_kept  # the client wants to use the connection again
        self.is_ended = False  # the whole answer was written
        self._wire = wire
        self._raw_headers = raw_headers
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._held = 0
        self._body_state: Literal["open", "whole", "broken"] = "open"
        self._is_gone = False
        self._watchers: list[Callable[[], None]] = []
        self._news: asyncio.Future[None] | None = None
        self._has_chunks = has_chunks  # HTTP/1.0 knows none: the end of such a stream is the connection's
        self._is_chunked = False
        self._status = 0

    # The connection's side

    def feed(self, piece: bytes) -> bool:
        """Whether enough is held for now."""
        self._body.append(piece)
        self._held += len(piece)
        self._wake()
        return self._held >= PIECE_BYTES

    def finish(self) -> None:
        self._body_state = "whole"
        self._wake()

    def break_off(self) -> None:
        """The body is not as it should be; the client may still be there."""
        if self._body_state == "open":
            self._body_state = "broken"
        self._wake()

    def lose(self) -> None:
        """The client has closed its connection."""
        self._is_gone = True
        self.break_off()
        watchers, self._watchers = self._watchers, []
        for told in watchers:
            told()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _wait(self) -> None:
        """For the next thing that happens on the connection. One waits at a time."""
        if self._news is None or self._news.done():
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)

    # The gateway's side

    @property
    def status(self) -> int:
        """What the client was answered; 0 until then."""
        return self._status

    def read_headers(self) -> dict[str, str]:
        """Lower-case name → value. Raises Refusal where two readers could read differently."""
        headers: dict[str, str] = {}
        size = 0
        for raw_name, raw_value in self._raw_headers:
            size += len(raw_name) + len(raw_value)
            name = raw_name.decode("latin-1")
            if name in headers:
                if raw_name in SINGLE or name.startswith("mcp-"):
                    raise Refusal(REPEATED_HEADER, f"the header {name[:40]} is repeated")
                headers[name] += f", {raw_value.decode('latin-1')}"
            elif name.startswith("mcp-") and not raw_value.isascii():
                raise Refusal(BAD_HEADER, f"the header {name[:40]} is not ASCII")
            else:
                headers[name] = raw_value.decode("latin-1")
        if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
            raise Refusal(HEADERS_TOO_LARGE)
        self._headers = headers
        return headers

    async def read_body(self, *, limit: int, timeout_s: float, share: Share) -> bytes:
        """The whole body, each piece taken of `share` as it comes.

        Raises Refusal: 413, 408, what `share` says, or 400 when it broke off (nobody may be there to hear it).
        """
        declared = self._headers.get("content-length", "0")
        if not declared.isdigit():
            raise Refusal(BAD_HEADER, "Content-Length is no number")
        if int(declared) > limit:
            raise Refusal(TOO_LARGE, f"the request is larger than {limit} bytes")
        if self._body_state == "whole":
            share.take(self._held)
            return self._bounded(self._taken(), limit)
        if self._headers.get("expect", "").lower() == "100-continue":
            self._wire.say_continue()
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    is_last = self._body_state != "open"
                    share.take(self._held)
                    size += self._held
                    pieces.append(self._taken())
                    if is_last or size > limit:
                        break
                    self._wire.ask_for_more()
                    await self._wait()
        except TimeoutError:
            raise Refusal(SLOW_BODY) from None
        if self._body_state == "broken":
            raise Refusal(BROKEN_BODY)
        return self._bounded(b"".join(pieces), limit)

    async def body_pieces(self, *, limit: int, timeout_s: float) -> AsyncIterator[bytes]:
        """The body as it comes; the next piece is asked for when this one was taken. `timeout_s` is for each piece.

        Raises Refusal: 413, 408, or 400 when it broke off.
        """
        size = 0
        if self._body_state == "open" and self._headers.get("expect", "").lower() == "100-continue":
            self._wire.say_continue()
        while self._held or self._body_state == "open":
            if self._held:
                size += self._held
                if size > limit:
                    raise Refusal(TOO_LARGE, f"the request is larger than {limit} bytes")
                yield self._taken()
                continue
            self._wire.ask_for_more()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wait()
            except TimeoutError:
                raise Refusal(SLOW_BODY) from None
        if self._body_state == "broken":
            raise Refusal(BROKEN_BODY)

    def _taken(self) -> bytes:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body, self._held = [], 0
        return body

    def _bounded(self, body: bytes, limit: int) -> bytes:
        if len(body) > limit:
            raise Refusal(TOO_LARGE, f"the request is larger than {limit} bytes")
        return body

    def when_gone(self, told: Callable[[], None]) -> Callable[[], None]:
        """Calls `told` when the client has closed its connection, at once if it has; what is returned takes that back. Behind a body
        that is larger than what is held unread nobody is seen to leave."""
        if self._is_gone:
            told()
            return _nothing
        self._watchers.append(told)
        return partial(self._forget, told)

    def _forget(self, told: Callable[[], None]) -> None:
        if told in self._watchers:
            self._watchers.remove(told)

    async def wait_gone_unread(self, share: Share) -> None:
        """Returns when the client has closed its connection, for who has not read the body yet; what has come of that is taken of
        `share` meanwhile. Raises what `share` says.
        """
        counted = 0
        try:
            while not self._is_gone:
                share.take(self._held - counted)
                counted = self._held
                await self._wait()
        finally:
            share.give(counted)

    async def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes = b"") -> None:
        self._status = status
        self._write(self._heading(status, headers, len(body)) + (b"" if self.method == "HEAD" else body))
        self.is_ended = True

    async def answer_whole(
        self, status: int, headers: Iterable[tuple[str, str]], body: bytes, *, timeout_s: float
    ) -> None:
        """`answer` for a body of any size: it would be held for a client that does not read. Raises ClientGone."""
        if len(body) <= PIECE_BYTES:
            await self.answer(status, headers, body)
            return
        await self.begin(status, (*headers, ("content-length", str(len(body)))))
        await self.send(body, timeout_s=timeout_s)
        await self.end()

    async def begin(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """The head of a streamed answer."""
        self._status = status
        self._write(self._heading(status, headers, None))

    async def send(self, data: bytes, *, timeout_s: float) -> None:
        """Waits while the client does not read. Raises ClientGone when it has not read for `timeout_s`, or is not there."""
        for at in range(0, len(data), PIECE_BYTES):
            if not self.put(data[at : at + PIECE_BYTES]):
                await self.drained(timeout_s=timeout_s)

    def put(self, piece: bytes) -> bool:
        """`send` without waiting, for PIECE_BYTES at most; False when nothing more should be sent until `drained`. Raises ClientGone."""
        self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else piece)
        if self._is_gone:
            raise ClientGone
        return not self._wire.is_full

    async def drained(self, *, timeout_s: float) -> None:
        """Until the client has read enough. Raises ClientGone when it has not for `timeout_s`, or is not there."""
        if self._wire.is_full:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wire.drained()
            except TimeoutError:
                raise ClientGone from None
        if self._is_gone:
            raise ClientGone

    async def end(self) -> None:
        self._write(b"0\r\n\r\n" if self._is_chunked else b"")
        self.is_ended = True

    def leave(self) -> None:
        """`end`, although whoever answers goes on: the client has another connection for it by now, and may use this one again."""
        if self._wire.is_full:
            self._wire.abort()  # it does not read this one
            return
        self._write(b"0\r\n\r\n" if self._is_chunked else b"")
        self.is_ended = self._is_gone = True
        self._watchers.clear()
        self._wire.part()

    def _write(self, data: bytes) -> None:
        if self._is_gone or self._wire.is_lost:
            self._is_gone = True
            return
        if data:
            self._wire.write(data)

    def _heading(self, status: int, headers: Iterable[tuple[str, str]], size: int | None) -> bytes:
        """Status line and fields. `size` None: a stream, whose length may stand among `headers`."""
        lines = [f"{name}: {value}\r\n" for name, value in headers]
        fields = "".join(lines)
        if fields.count("\n") != len(lines) or fields.count("\r") != len(lines):
            raise ValueError("a header's value has a line break")
        if status == 101:
            return f"{_status_line(status)}{_date(int(time.time()))}{fields}\r\n".encode("latin-1")
        if size is None and (self.method == "HEAD" or status in {204, 304}):
            pass  # there is no body, whatever its length would be
        elif size is None and "\r\ncontent-length:" not in f"\r\n{fields}":
            self._is_chunked = self._has_chunks
            self.is_kept = self.is_kept and self._has_chunks
            fields += "transfer-encoding: chunked\r\n" if self._has_chunks else ""
        elif size is not None and (size or status not in {202, 204, 304}):
            fields += f"content-length: {size}\r\n"
        elif status == 202:
            fields += "content-length: 0\r\n"
        if not (self.is_kept and self._wire.keeps):
            self.is_kept = False
            fields += "connection: close\r\n"
        return f"{_status_line(status)}{_date(int(time.time()))}{fields}\r\n".encode("latin-1")


def _nothing() -> None:
    """There is nothing to take back."""


_KNOWN = frozenset(HTTPStatus)


@lru_cache(maxsize=100)
def _status_line(status: int) -> str:
    phrase = HTTPStatus(status).phrase if status in _KNOWN else ""  # a server may say what has no name
    return f"HTTP/1.1 {status} {phrase}\r\n"


@lru_cache(maxsize=2)
def _date(now: int) -> str:
    return f"date: {formatdate(now, usegmt=True)}\r\n"
