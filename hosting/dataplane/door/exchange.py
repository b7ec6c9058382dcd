"""One HTTP request and its answer, as the gateway sees them; the only module that knows the server's interface.

The server is granian, through ASGI: measured on 2.8.7, its RSGI interface queues streamed bytes without bound (a client that
does not read cost 500 MB), its ASGI interface holds four pieces and then waits, and costs the same 28 µs a request. ASGI also
tells a request body that broke off from one that ended. Pieces are at most PIECE_BYTES, so a stalled client holds little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal

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

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

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


class Exchange:
    """Created for each request; `answer` once, or `begin`, `send` … and `end`."""

    __slots__ = (
        "_headers",
        "_raw_headers",
        "_receive",
        "_send",
        "_status",
        "client",
        "cors",
        "era",
        "method",
        "path",
    )

    def __init__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("ascii", "replace")
        self.client: str = scope["client"][0]
        self.cors: Headers = ()  # what a browser is told with every answer, once its Origin was let in
        self.era: Era | Literal["none"] = "none"  # what it speaks, once that is known
        self._raw_headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        self._headers: dict[str, str] = {}
        self._receive = receive
        self._send = send
        self._status = 0

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
        message = await self._receive_within(timeout_s)
        body: bytes = message.get("body", b"")
        share.take(len(body))
        if message["type"] == "http.request" and not message.get("more_body"):
            return self._bounded(body, limit)
        pieces, size = [body], len(body)
        try:
            async with asyncio.timeout(timeout_s):
                while message["type"] == "http.request" and message.get("more_body") and size <= limit:
                    message = await self._receive()
                    piece = message.get("body", b"")
                    share.take(len(piece))
                    pieces.append(piece)
                    size += len(piece)
        except TimeoutError:
            raise Refusal(SLOW_BODY) from None
        if message["type"] != "http.request":
            raise Refusal(BROKEN_BODY)
        return self._bounded(b"".join(pieces), limit)

    async def _receive_within(self, timeout_s: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._receive()
        except TimeoutError:
            raise Refusal(SLOW_BODY) from None

    def _bounded(self, body: bytes, limit: int) -> bytes:
        if len(body) > limit:
            raise Refusal(TOO_LARGE, f"the request is larger than {limit} bytes")
        return body

    async def wait_gone(self) -> None:
        """Returns when the client has closed its connection. Only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes = b"") -> None:
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def answer_whole(
        self, status: int, headers: Iterable[tuple[str, str]], body: bytes, *, timeout_s: float
    ) -> None:
        """`answer` for a body of any size: the server would queue it for a client that does not read. Raises ClientGone."""
        if len(body) <= PIECE_BYTES:
            await self.answer(status, headers, body)
            return
        await self._start(status, (*headers, ("content-length", str(len(body)))))
        await self.send(body, timeout_s=timeout_s)
        await self.end()

    async def begin(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """The head of a streamed answer; it reaches the client with the first bytes."""
        await self._start(status, headers)

    async def send(self, data: bytes, *, timeout_s: float) -> None:
        """Waits while the client does not read. Raises ClientGone when it has not read for `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                for at in range(0, len(data), PIECE_BYTES):
                    piece = data[at : at + PIECE_BYTES] if len(data) > PIECE_BYTES else data
                    await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError:
            raise ClientGone from None

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        self._status = status
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
