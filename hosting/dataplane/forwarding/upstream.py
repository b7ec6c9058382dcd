"""What a server answers, whatever the way to it: the head at once, the body as it is asked for. Nothing here does I/O.

`scripts.py` is the way to the scripts we host, `elsewhere.py` to servers that run elsewhere. Nothing a server does is unbounded on
either: connecting, the first byte, silence within an answer and sizes all have limits, redirects are not followed, cookies not
kept, bodies not decompressed.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Literal

from hosting.dataplane.door.held import Share

READ_BYTES = 64 * 1024
PIECE_BYTES = 16 * 1024  # of a stream, so that no piece keeps the loop for long

FailureKind = Literal[
    "refused", "lost", "timeout", "cut", "too_large", "silent", "forbidden", "locked", "full"
]


class UpstreamFailure(Exception):
    """A server, or the way to it, failed.

    refused    no connection was made: nothing was executed
    lost       the connection ended before an answer began: it may have been executed
    timeout    no answer began in time
    cut        the answer ended before its end, or is no HTTP
    too_large  the answer passed its bound
    silent     the answer fell silent for too long
    forbidden  the server's address is none it may have: nothing was sent
    locked     its configured headers cannot be opened here: nothing was sent
    full       all connections it may have are in use: nothing was sent
    """

    def __init__(self, kind: FailureKind) -> None:
        super().__init__(kind)
        self.kind: FailureKind = kind


class Answer(ABC):
    """What a server began to answer. Close it in `finally`, more than once does no harm."""

    def __init__(self, status: int, content_type: str, *, size: int | None = None) -> None:
        self.status = status
        self.content_type = content_type
        self.size = size  # as the server announces it, if it does
        self.session_id = ""
        self.retry_after = ""
        self.dispatch_error = ""
        self._start: bytes | None = None

    @property
    def has_request(self) -> bool:
        """Whether the server has taken the whole request; it may answer before."""
        return True

    async def read(self, *, limit: int, timeout_s: float, share: Share) -> bytes:
        """The whole body, as often as it is asked for, taken of `share` as it comes.

        Raises UpstreamFailure (too_large, cut, timeout) and what `share` says.
        """
        if self._start is None:
            await self.read_start(limit, limit=limit, timeout_s=timeout_s, share=share)
        return self._start or b""

    async def read_start(self, size: int, *, limit: int, timeout_s: float, share: Share) -> bool:
        """Reads until the body ends or passes `size`, for `take_start`; whether it has ended. Once; otherwise as `read`."""
        if self.size is not None and self.size > limit:
            raise UpstreamFailure("too_large")
        pieces, held, has_ended = [], 0, False
        deadline = time.monotonic() + timeout_s
        while held <= size:
            piece = await self._next_within(deadline - time.monotonic(), None)
            if piece is None:
                raise UpstreamFailure("timeout")
            if not piece:
                has_ended = True
                break
            share.take(len(piece))
            pieces.append(piece)
            held += len(piece)
            if held > limit:
                raise UpstreamFailure("too_large")
        self._start = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return has_ended

    def take_start(self) -> bytes:
        """What `read_start` has read; held here no longer."""
        start, self._start = self._start or b"", None
        return start

    async def next_piece(self, *, timeout_s: float) -> bytes | None:
        """Some bytes, b"" at the end, None when `timeout_s` passed without any. Raises UpstreamFailure (cut)."""
        return await self._next_within(timeout_s, PIECE_BYTES)

    async def _next_within(self, timeout_s: float, at_most: int | None) -> bytes | None:
        """`_next`, or None when the time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._next(at_most)
        except TimeoutError:
            return None

    @abstractmethod
    async def _next(self, at_most: int | None) -> bytes:
        """Some bytes (None: as many as there are), b"" at the end. Raises UpstreamFailure (cut)."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will be read."""


class Pieces:
    """A large body on its way: at once it would be copied, and keep the loop. Held until its last piece was asked for."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    @property
    def is_sent(self) -> bool:
        return not self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        at = 0
        while self._body:
            piece = self._body[at : at + READ_BYTES]
            at += READ_BYTES
            if at >= len(self._body):
                self._body = b""
            yield piece
