"""The way to the servers: one connection pool behind a small interface, so that another client can take its place.

Connections go to the dispatcher Worker of the Environment's account, with an assertion that lets them pass. Nothing a server
does is unbounded here: connecting, the first byte, silence within an answer and sizes all have limits, redirects are not
followed, cookies not kept, bodies not decompressed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Literal

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from hosting.dataplane.contract import (
    ASSERTION_HEADER,
    ASSERTION_LIFE_S,
    Assertion,
    Dispatch,
    Limits,
    Target,
    sign_assertion,
)
from hosting.dataplane.door.held import Share

POOL_IDLE_S = 20.0
READ_BYTES = 64 * 1024
PIECE_BYTES = 16 * 1024  # of a stream, so that no piece keeps the loop for long
MAX_HEADER_BYTES = 16 * 1024
ASSERTION_SPARE_S = 15
MAX_ASSERTIONS = 10_000

FailureKind = Literal["refused", "lost", "timeout", "cut", "too_large", "silent"]


class UpstreamFailure(Exception):
    """A server, or the way to it, failed.

    refused    no connection was made: nothing was executed
    lost       the connection ended before an answer began: it may have been executed
    timeout    no answer began in time
    cut        the answer ended before its end, or is no HTTP
    too_large  the answer passed its bound
    silent     the answer fell silent for too long
    """

    def __init__(self, kind: FailureKind) -> None:
        super().__init__(kind)
        self.kind: FailureKind = kind


class Assertions:
    """Signed once per target and life, then reused: signing costs 40 µs."""

    def __init__(self, seeds: Mapping[str, bytes]) -> None:
        self._kid, seed = next(iter(seeds.items()))
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._signed: dict[tuple[str, str, Target], tuple[float, str]] = {}

    def for_target(self, *, audience: str, tenant: str, target: Target) -> str:
        now = time.time()
        found = self._signed.get((audience, tenant, target))
        if found is not None and now < found[0]:
            return found[1]
        if len(self._signed) >= MAX_ASSERTIONS:
            self._signed = {name: kept for name, kept in self._signed.items() if now < kept[0]}
        made = Assertion(
            aud=audience,
            ten=tenant,
            wrk=target.script,
            iat=int(now),
            exp=int(now) + ASSERTION_LIFE_S,
            egress=target.egress,
        )
        text = sign_assertion(made, kid=self._kid, key=self._key)
        self._signed[audience, tenant, target] = (now + ASSERTION_LIFE_S - ASSERTION_SPARE_S, text)
        return text


class Answer:
    """What a server began to answer. Close it in `finally`."""

    __slots__ = (
        "_request",
        "_response",
        "_start",
        "content_type",
        "dispatch_error",
        "retry_after",
        "session_id",
        "size",
        "status",
    )

    def __init__(self, response: aiohttp.ClientResponse, request: _Pieces | None) -> None:
        self._response = response
        self._request = request
        self._start: bytes | None = None
        headers = response.headers
        self.status = response.status
        self.size = response.content_length  # as the server announces it, if it does
        self.content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        self.session_id = headers.get("mcp-session-id", "")
        self.retry_after = headers.get("retry-after", "")
        self.dispatch_error = headers.get("smcp-dispatch-error", "")
        if headers.get("content-encoding", "identity").strip().lower() not in {"identity", ""}:
            self.content_type = ""  # compressed although identity was asked for: not an answer we can read

    @property
    def has_request(self) -> bool:
        """Whether the server has taken the whole request; it may answer before."""
        return self._request is None or self._request.is_sent

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
        try:
            async with asyncio.timeout(timeout_s):
                while held <= size:
                    piece = await self._response.content.readany()
                    if not piece:
                        has_ended = True
                        break
                    share.take(len(piece))
                    pieces.append(piece)
                    held += len(piece)
                    if held > limit:
                        raise UpstreamFailure("too_large")
        except TimeoutError as exc:
            raise UpstreamFailure("timeout") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamFailure("cut") from exc
        self._start = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return has_ended

    def take_start(self) -> bytes:
        """What `read_start` has read; held here no longer."""
        start, self._start = self._start or b"", None
        return start

    async def next_piece(self, *, timeout_s: float) -> bytes | None:
        """Some bytes, b"" at the end, None when `timeout_s` passed without any. Raises UpstreamFailure (cut)."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._response.content.read(PIECE_BYTES)
        except TimeoutError:
            return None
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamFailure("cut") from exc

    def close(self) -> None:
        """Gives a connection whose answer was read to the end back to the pool, and cuts any other."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class Upstream:
    """The pool. Create it inside the running loop; `close` waits for nothing."""

    def __init__(self, seeds: Mapping[str, bytes]) -> None:
        self._assertions = Assertions(seeds)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=POOL_IDLE_S, ttl_dns_cache=30)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("user-agent", "accept-encoding", "content-type", "accept"),
            read_bufsize=READ_BYTES,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        self._urls: dict[tuple[str, str], URL] = {}

    async def send(
        self,
        method: str,
        *,
        tenant: str,
        dispatch: Dispatch,
        target: Target,
        headers: dict[str, str],
        body: bytes | None,
        limits: Limits,
        wait_s: float = 0,
    ) -> Answer:
        """Until the head of the answer (within `wait_s`, else limits.answer_timeout_s). Raises UpstreamFailure."""
        headers[ASSERTION_HEADER] = self._assertions.for_target(
            audience=dispatch.audience, tenant=tenant, target=target
        )
        headers["accept-encoding"] = "identity"
        pieces = _Pieces(body) if body is not None and len(body) > READ_BYTES else None
        if body is not None and pieces is not None:
            headers["content-length"] = str(len(body))
        if dispatch.host:
            headers["host"] = dispatch.host
        try:
            async with asyncio.timeout(wait_s or limits.answer_timeout_s):
                response = await self._session.request(
                    method,
                    self._url(dispatch.url, target.path),
                    headers=headers,
                    data=body if pieces is None else pieces,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, connect=limits.connect_timeout_s),
                )
        except TimeoutError as exc:  # aiohttp's connection timeouts are TimeoutErrors too
            raise UpstreamFailure("refused" if isinstance(exc, aiohttp.ClientError) else "timeout") from exc
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as exc:
            raise UpstreamFailure("refused") from exc
        except (aiohttp.ClientConnectionError, OSError) as exc:
            raise UpstreamFailure("lost") from exc
        except (aiohttp.ClientError, ValueError) as exc:
            raise UpstreamFailure("cut") from exc
        return Answer(response, pieces)

    async def close(self) -> None:
        await self._session.close()

    def _url(self, origin: str, path: str) -> URL:
        found = self._urls.get((origin, path))
        if found is None:
            if len(self._urls) >= MAX_ASSERTIONS:
                self._urls.clear()
            found = self._urls[origin, path] = URL(origin).join(URL(path))
        return found


class _Pieces:
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
