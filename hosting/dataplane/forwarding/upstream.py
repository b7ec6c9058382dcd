"""The way to the servers, behind a small interface, so that another client can take its place.

Connections of `Upstream` go to the dispatcher Worker of the Environment's account, with an assertion that lets them pass; those to
servers that run elsewhere are `elsewhere.py`'s. Nothing a server does is unbounded here: connecting, the first byte, silence
within an answer and sizes all have limits, redirects are not followed, cookies not kept, bodies not decompressed.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
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
from hosting.dataplane.reach import AddressRefused

POOL_IDLE_S = 20.0
READ_BYTES = 64 * 1024
PIECE_BYTES = 16 * 1024  # of a stream, so that no piece keeps the loop for long
MAX_HEADER_BYTES = 16 * 1024
ASSERTION_SPARE_S = 15
MAX_ASSERTIONS = 10_000

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
        try:
            async with asyncio.timeout(timeout_s):
                while held <= size:
                    piece = await self._next(None)
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
                return await self._next(PIECE_BYTES)
        except TimeoutError:
            return None

    @abstractmethod
    async def _next(self, at_most: int | None) -> bytes:
        """Some bytes (None: as many as there are), b"" at the end. Raises UpstreamFailure (cut)."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will be read."""


class HttpAnswer(Answer):
    """Of one HTTP exchange. What the dispatcher says of itself is believed only where it was asked (`is_dispatched`)."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        request: _Pieces | None,
        *,
        is_dispatched: bool,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        headers = response.headers
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if headers.get("content-encoding", "identity").strip().lower() not in {"identity", ""}:
            content_type = ""  # compressed although identity was asked for: not an answer we can read
        super().__init__(response.status, content_type, size=response.content_length)
        self.session_id = headers.get("mcp-session-id", "")
        self.retry_after = headers.get("retry-after", "")
        self.dispatch_error = headers.get("smcp-dispatch-error", "") if is_dispatched else ""
        self._response = response
        self._request = request
        self._on_close = on_close

    @property
    def has_request(self) -> bool:
        return self._request is None or self._request.is_sent

    async def _next(self, at_most: int | None) -> bytes:
        content = self._response.content
        try:
            return await (content.readany() if at_most is None else content.read(at_most))
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamFailure("cut") from exc

    def close(self) -> None:
        """Gives a connection whose answer was read to the end back to the pool, and cuts any other."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


def new_session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    """A client that keeps no cookies, follows nothing, unpacks nothing and adds nothing of its own."""
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("user-agent", "accept-encoding", "content-type", "accept"),
        read_bufsize=READ_BYTES,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    *,
    headers: dict[str, str],
    body: bytes | None,
    limits: Limits,
    wait_s: float,
    is_dispatched: bool,
    on_close: Callable[[], None] | None = None,
) -> HttpAnswer:
    """Until the head of the answer (within `wait_s`, else limits.answer_timeout_s). Raises UpstreamFailure."""
    headers["accept-encoding"] = "identity"
    pieces = _Pieces(body) if body is not None and len(body) > READ_BYTES else None
    if body is not None and pieces is not None:
        headers["content-length"] = str(len(body))
    try:
        async with asyncio.timeout(wait_s or limits.answer_timeout_s):
            response = await session.request(
                method,
                url,
                headers=headers,
                data=body if pieces is None else pieces,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=limits.connect_timeout_s),
            )
    except TimeoutError as exc:  # aiohttp's connection timeouts are TimeoutErrors too
        raise UpstreamFailure("refused" if isinstance(exc, aiohttp.ClientError) else "timeout") from exc
    except aiohttp.ClientConnectorError as exc:
        is_forbidden = isinstance(exc.os_error, AddressRefused)
        raise UpstreamFailure("forbidden" if is_forbidden else "refused") from exc
    except aiohttp.InvalidURL as exc:
        raise UpstreamFailure("refused") from exc
    except (aiohttp.ClientConnectionError, OSError) as exc:
        raise UpstreamFailure("lost") from exc
    except (aiohttp.ClientError, ValueError) as exc:
        raise UpstreamFailure("cut") from exc
    return HttpAnswer(response, pieces, is_dispatched=is_dispatched, on_close=on_close)


class Upstream:
    """The way to the dispatchers. Create it inside the running loop; `close` waits for nothing."""

    def __init__(self, seeds: Mapping[str, bytes]) -> None:
        self._assertions = Assertions(seeds)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=POOL_IDLE_S, ttl_dns_cache=30)
        self._session = new_session(connector)
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
        if dispatch.host:
            headers["host"] = dispatch.host
        return await exchange(
            self._session,
            method,
            self._url(dispatch.url, target.path),
            headers=headers,
            body=body,
            limits=limits,
            wait_s=wait_s,
            is_dispatched=True,
        )

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
