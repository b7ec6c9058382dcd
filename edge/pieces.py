"""JSON on its way out, in pieces: made in a thread, bounded while it is made, and sent without ever being whole.

A call into C keeps the interpreter to itself until it returns, whichever thread makes it; so nothing here encodes more at once than about
PIECE bytes, and the event loop has its turn in between.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

PIECE = 64 * 1024
SUCCESS_BEGINS, SUCCESS_ENDS = b'{"result":', b',"success":true,"errors":[],"messages":[]}'
ENCODER = msgspec.json.Encoder()


class NoRoom(Exception):
    """The JSON is larger than the room it was given."""


class JsonWriter:
    """Collects JSON up to `room` bytes. Every method raises NoRoom when there is more."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._pieces: list[bytes] = []
        self._buffer = bytearray()

    def raw(self, text: bytes) -> None:
        self._buffer += text
        if len(self._buffer) >= PIECE:
            self._flush()

    def value(self, value: Any) -> None:
        """A value of which the caller knows that it is small."""
        ENCODER.encode_into(value, self._buffer, -1)
        if len(self._buffer) >= PIECE:
            self._flush()

    def text(self, text: str) -> None:
        """A text of any length."""
        self._expect(len(text))
        if len(text) <= PIECE:
            return self.value(text)
        self.raw(b'"')
        for start in range(0, len(text), PIECE):
            self.raw(ENCODER.encode(text[start : start + PIECE])[1:-1])
        return self.raw(b'"')

    def utf8(self, text: bytes) -> None:
        """A text of any length that is still encoded. Raises UnicodeDecodeError."""
        self._expect(len(text))
        decoder = codecs.getincrementaldecoder("utf-8")()
        self.raw(b'"')
        for start in range(0, len(text), PIECE):
            self.raw(ENCODER.encode(decoder.decode(text[start : start + PIECE]))[1:-1])
        decoder.decode(b"", final=True)
        self.raw(b'"')

    def numbers(self, blob: bytes) -> None:
        """The bytes of a blob of any length, as a list of numbers."""
        self._expect(2 * len(blob))
        self.raw(b"[")
        step = PIECE // 4
        for start in range(0, len(blob), step):
            if start:
                self.raw(b",")
            self.raw(ENCODER.encode(list(blob[start : start + step]))[1:-1])
        self.raw(b"]")

    def finish(self) -> list[bytes]:
        """All of it, in order."""
        self._flush()
        return self._pieces

    def _expect(self, length: int) -> None:
        if length > self._room:
            raise NoRoom

    def _flush(self) -> None:
        self._room -= len(self._buffer)
        if self._room < 0:
            raise NoRoom
        if self._buffer:
            self._pieces.append(bytes(self._buffer))
            self._buffer.clear()


async def send_success(request: web.Request, result: Sequence[bytes]) -> web.StreamResponse:
    """`send_json` of a result in Cloudflare's envelope."""
    return await send_json(request, [SUCCESS_BEGINS, *result, SUCCESS_ENDS])


async def send_json(
    request: web.Request, pieces: Sequence[bytes], *, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Answer with JSON that is ready, piece by piece, as fast as the client takes it."""
    response = web.StreamResponse(headers=headers)
    response.content_type = "application/json"
    response.content_length = sum(map(len, pieces))
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
    await response.write_eof()
    return response
