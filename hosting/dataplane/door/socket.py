"""One WebSocket and its handshake, as the gateway sees them (RFC 6455).

Until it is accepted it is an Exchange like any other: it can be refused with any status. Then the connection is its own. It is
read no further than it is asked to, so whoever does not ask slows the client down; pings are answered while it is asked.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import time

from hosting.dataplane.door.exchange import ClientGone, Exchange
from hosting.dataplane.door.held import Share
from hosting.dataplane.protocol.errors import BAD_HEADER, UPGRADE_NEEDED, Headers, Refusal
from hosting.dataplane.protocol.frames import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Closed,
    Control,
    FrameError,
    FrameParser,
    encode_close,
    encode_frame,
)

VERSION = "13"
MAX_SUBPROTOCOLS = 10
PONG_S = 10.0
CONTROLS_AT_A_STRETCH = 8
CLOSING_BYTES = 1024 * 1024
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MARKS = "!#$%&'*+-.^_`|~"


class Upgrade(Exchange):
    """`answer` to refuse it; or `accept`, then `receive` and `send_message` … and `close`."""

    __slots__ = ("_parser", "_share", "_taken_bytes", "heard_at")
    is_upgrade = True

    def subprotocols(self) -> list[str]:
        """What the client offers. Raises Refusal for a handshake that is none (400, 426)."""
        has_body = self._headers.get("content-length", "0") != "0" or "transfer-encoding" in self._headers
        if self.method != "GET" or has_body:
            raise Refusal(BAD_HEADER, "a WebSocket's handshake is a GET without a body")
        if self._headers.get("sec-websocket-version") != VERSION:
            raise Refusal(UPGRADE_NEEDED, headers=(("sec-websocket-version", VERSION),))
        if not _is_key(self._headers.get("sec-websocket-key", "")):
            raise Refusal(BAD_HEADER, "Sec-WebSocket-Key is malformed")
        offered = self._headers.get("sec-websocket-protocol")
        names = [] if offered is None else [name.strip() for name in offered.split(",")]
        if len(names) > MAX_SUBPROTOCOLS or not all(map(_is_token, names)):
            raise Refusal(BAD_HEADER, "Sec-WebSocket-Protocol is malformed")
        return names

    def accept(self, subprotocol: str | None, headers: Headers, *, limit: int, share: Share) -> None:
        """`limit` is of one message; what is not whole yet is taken of `share`."""
        self._status = 101
        self._parser = FrameParser(limit)
        self._share = share
        self._taken_bytes = 0
        self.heard_at = time.monotonic()
        key = self._headers["sec-websocket-key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
        chosen = (("sec-websocket-protocol", subprotocol),) if subprotocol is not None else ()
        told = (("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", accept))
        self._write(self._heading(101, (*told, *chosen, *headers), None))
        self._wire.switch()

    async def receive(self) -> str | bytes | Closed:
        """The client's next message, or its end. Raises FrameError, and Refusal when there is no memory for it."""
        controls = 0
        while True:
            heard = self._parser.next()
            if isinstance(heard, Control):
                controls += 1
                if controls % CONTROLS_AT_A_STRETCH == 0:
                    await asyncio.sleep(0)  # it is others' turn
                if heard.kind == "ping":
                    await self._send(encode_frame(PONG, heard.data), timeout_s=PONG_S)
            elif heard is not None:
                self._hold()
                return heard
            elif self._held:
                self.heard_at = time.monotonic()
                self._parser.feed(self._taken())
            elif self._is_gone:
                return Closed(1006)
            else:
                self._hold()
                self._wire.ask_for_more()
                await self._wait()

    def _hold(self) -> None:
        grown = self._parser.held - self._taken_bytes
        if grown > 0:
            self._share.take(grown)
        else:
            self._share.give(-grown)
        self._taken_bytes += grown

    async def send_message(self, data: str | bytes, *, timeout_s: float) -> None:
        """Waits while the client does not read. Raises ClientGone when it has not read for `timeout_s`, or is not there."""
        frame = encode_frame(TEXT, data.encode()) if isinstance(data, str) else encode_frame(BINARY, data)
        await self._send(frame, timeout_s=timeout_s)

    async def ping(self) -> None:
        """Nothing while the client does not read: it could not hear it."""
        if not self._wire.is_full:
            self._write(encode_frame(PING, b""))

    async def close(self, end: Closed, *, timeout_s: float) -> None:
        """Says why, and waits `timeout_s` for the client to hear it, while it says no more than CLOSING_BYTES. The connection is ended
        by whoever owns it."""
        self._write(encode_close(end))
        self.is_ended = True
        self.is_kept = False
        try:
            async with asyncio.timeout(timeout_s):
                left = CLOSING_BYTES
                while left > 0 and not isinstance(message := await self.receive(), Closed):
                    left -= len(message) + 1
        except (TimeoutError, FrameError, Refusal, ClientGone):
            return

    async def _send(self, data: bytes, *, timeout_s: float) -> None:
        self._write(data)
        if self._wire.is_full:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wire.drained()
            except TimeoutError:
                raise ClientGone from None
        if self._is_gone:
            raise ClientGone


def _is_key(text: str) -> bool:
    try:
        return len(text) == 24 and len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _is_token(text: str) -> bool:
    """RFC 9110, 5.6.2."""
    return 0 < len(text) <= 100 and all(
        char.isascii() and (char.isalnum() or char in _MARKS) for char in text
    )
