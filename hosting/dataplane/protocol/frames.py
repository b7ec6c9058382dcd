"""WebSocket frames as a server reads and writes them (RFC 6455, 5): bytes in, whole messages out; no I/O.

Strict: an unmasked frame, a reserved bit or opcode, a control frame that is long or in pieces, text that is no UTF-8, a close code that
no endpoint may send: each is an error with the code the other side is closed with. No extension is spoken, so nothing is
compressed. Bounded: a message over the limit is an error as soon as its length is known, before any of it is held.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_CONTINUED: Final = 0
MAX_CONTROL: Final = 125
MAX_REASON: Final = 123
SENDABLE: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})


class FrameError(Exception):
    """What came is no WebSocket, or more than is wanted; `code` says it in a close frame."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Closed:
    """The end of a WebSocket: what its side said. 1005: no code; 1006: it just went."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Control:
    """A ping or a pong."""

    kind: Literal["ping", "pong"]
    data: bytes


Heard = str | bytes | Closed | Control


class FrameParser:
    """Of one client's side. `limit` is of a whole message, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._left = -1  # of the frame that is being read; -1: none is
        self._opcode = 0
        self._is_final = False
        self._mask = b""
        self._control = b""
        self._kind = 0  # of the message that is being read
        self._message = (
            bytearray()
        )  # in one piece: a list of small fragments would cost many times their bytes

    @property
    def held(self) -> int:
        """Bytes of what is not whole yet."""
        return len(self._message) + len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Heard | None:
        """The next whole thing; None when more is needed. Raises FrameError, and is of no use then."""
        while self._left >= 0 or self._open_frame():
            piece = bytes(self._buffer[: self._left])
            del self._buffer[: len(piece)]
            self._left -= len(piece)
            self._take(piece)
            if self._left:
                return None
            self._left = -1
            whole = self._close_frame()
            if whole is not None:
                return whole
        return None

    def _open_frame(self) -> bool:
        """Whether the head of a frame was there."""
        if len(self._buffer) < 2:
            return False
        first, second = self._buffer[0], self._buffer[1]
        length = second & 0x7F
        size = 2 + {126: 2, 127: 8}.get(length, 0) + 4
        self._check_head(first, second)
        if len(self._buffer) < size:
            return False
        if length >= 126:
            (length,) = struct.unpack_from(">H" if length == 126 else ">Q", self._buffer, 2)
        if self._opcode < CLOSE and len(self._message) + length > self._limit:
            raise FrameError(1009, "the message is too large")
        self._mask = bytes(self._buffer[size - 4 : size])
        self._left = length
        del self._buffer[:size]
        return True

    def _check_head(self, first: int, second: int) -> None:
        opcode, is_final = first & 0x0F, bool(first & 0x80)
        if first & 0x70 or not second & 0x80:
            raise FrameError(1002, "a reserved bit, or no mask")
        if opcode in {CLOSE, PING, PONG}:
            if not is_final or second & 0x7F > MAX_CONTROL:
                raise FrameError(1002, "a control frame is long, or in pieces")
        elif opcode not in {_CONTINUED, TEXT, BINARY} or (opcode == _CONTINUED) != bool(self._kind):
            raise FrameError(1002, "an opcode that is none, or out of turn")
        self._opcode, self._is_final = opcode, is_final

    def _take(self, piece: bytes) -> None:
        plain = _unmasked(piece, self._mask)
        turn = len(piece) % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        if self._opcode >= CLOSE:
            self._control += plain
            return
        self._kind = self._kind or self._opcode
        self._message += plain

    def _close_frame(self) -> Heard | None:
        if self._opcode >= CLOSE:
            control, self._control = self._control, b""
            if self._opcode == CLOSE:
                return _closed(control)
            return Control("ping" if self._opcode == PING else "pong", control)
        if not self._is_final:
            return None
        data, kind = bytes(self._message), self._kind
        self._message, self._kind = bytearray(), 0
        return data if kind == BINARY else _text(data)


def encode_frame(opcode: int, data: bytes) -> bytes:
    """One whole frame, as a server sends it."""
    size = len(data)
    if size < 126:
        head = bytes((0x80 | opcode, size))
    elif size < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 127, size)
    return head + data


def encode_close(end: Closed) -> bytes:
    """A reason that is too long is cut."""
    if end.code not in SENDABLE:
        return encode_frame(CLOSE, b"")
    reason = end.reason.encode()[:MAX_REASON].decode(errors="ignore").encode()
    return encode_frame(CLOSE, struct.pack(">H", end.code) + reason)


def _closed(data: bytes) -> Closed:
    if not data:
        return Closed(1005)
    code = int.from_bytes(data[:2], "big")
    if len(data) == 1 or code not in SENDABLE:
        raise FrameError(1002, "a close code that no endpoint may send")
    return Closed(code, _text(data[2:]))


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FrameError(1007, "text that is no UTF-8") from None


def _unmasked(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(data, "little") ^ key).to_bytes(size, "little")
