"""Passing one HTTP exchange on, unchanged in meaning: bodies stream both ways, WebSockets become a pair of byte pipes.

Neither side can hand the other a header that belongs to the connection or to the edge. The pace is set by the slower side: nothing
is buffered but what the sockets hold. Whoever goes away first, the other end is told: a client that leaves closes the
request upstream, an upstream that breaks off aborts the answer, which therefore never looks complete.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from aiohttp import (
    BaseConnector,
    ClientPayloadError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    StreamReader,
    hdrs,
    web,
)
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from multidict import CIMultiDict
from yarl import URL

HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade", "expect",
    }
)  # fmt: skip
OURS = "x-edge-"
MAX_HEADER = 64 * 1024
NO_LIMIT = ClientTimeout(total=None, sock_connect=10.0)
PIPE_LIMIT = 256 * 1024
Progress = Callable[[], None]


# For servers whose clients are Workers or strangers: aiohttp logs every malformed request of theirs as our error, and it unpacks
# compressed bodies on the event loop, also those nobody reads, to pass them on under a header that then lies.
SILENT = logging.getLogger("edge.silent")
SILENT.setLevel(logging.CRITICAL + 1)
SERVER_OPTIONS: dict[str, Any] = {
    "handler_cancellation": True,
    "auto_decompress": False,
    "logger": SILENT,
    "max_line_size": MAX_HEADER,
    "max_field_size": MAX_HEADER,
}


def client_session(
    connector: BaseConnector, *, may_retry: bool, timeout: ClientTimeout = NO_LIMIT
) -> ClientSession:
    """A session that adds no header and decodes nothing. Without `may_retry` nothing is ever sent twice."""
    session = ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        max_line_size=MAX_HEADER,
        max_field_size=MAX_HEADER,
    )
    # By itself aiohttp repeats a GET whose connection broke; there is no public switch (its own test client sets this one).
    session._retry_connection = may_retry
    return session


def passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """The headers that belong to the message itself, in order: none of the connection's, none of the edge's."""
    named = {name.strip().lower() for name in headers.get(hdrs.CONNECTION, "").split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if (lower := name.lower()) not in HOP_BY_HOP and lower not in named and not lower.startswith(OURS)
    )


def wants_websocket(request: web.BaseRequest) -> bool:
    return request.method == "GET" and request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


def target_of(request: web.BaseRequest) -> str:
    """Path and query exactly as they were sent, also when the request line held a whole URL."""
    url = request.rel_url
    return url.raw_path_qs if url.absolute else request.raw_path


async def open_upstream(
    request: web.BaseRequest,
    session: ClientSession,
    url: URL,
    headers: CIMultiDict[str],
    *,
    progress: Progress,
) -> ClientResponse:
    """Send the request on; returns when the head of the answer is there. Raises what aiohttp's client raises."""
    if wants_websocket(request):
        headers[hdrs.CONNECTION] = "Upgrade"
        headers[hdrs.UPGRADE] = "websocket"
    response = await session.request(
        request.method,
        url,
        headers=headers,
        data=_body(request, progress) if request.body_exists else None,
        allow_redirects=False,
    )
    progress()
    return response


async def answer_with(
    request: web.BaseRequest,
    upstream: ClientResponse,
    *,
    progress: Progress,
    extra: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Give the client what `upstream` answers. An upstream that breaks off ends the client's connection."""
    headers = passed_on(upstream.headers)
    headers.update(extra or {})
    answer = Passed(status=upstream.status, reason=upstream.reason, headers=headers)
    try:
        if upstream.status == 101:
            return await _tunnel(request, upstream, answer, progress)
        if wants_websocket(request):
            answer.force_close()
        # A short answer is here as a whole by now, and leaves in one piece with its head.
        first = upstream.content.read_nowait()
        answer.waits_for_body = bool(first) or upstream.content.at_eof()
        await answer.prepare(request)
        if first and not upstream.content.at_eof():
            await answer.write(first)
            first = b""
        async for chunk in upstream.content.iter_any():
            progress()
            await answer.write(chunk)
        await answer.write_eof(first)
    except ClientPayloadError:
        # Cut off here as well, so what the client has does not look complete.
        if request.transport is not None:
            request.transport.abort()
    finally:
        if upstream.content.at_eof():
            upstream.release()
        else:
            upstream.close()
    return answer


class Passed(web.StreamResponse):
    """An answer with the upstream's headers and no others: aiohttp would add a content type, a date and itself.

    With `waits_for_body` the head is sent together with the first bytes of the body.
    """

    waits_for_body = False

    async def _start(self, request: web.BaseRequest) -> AbstractStreamWriter:
        self._send_headers_immediately = not self.waits_for_body
        return await super()._start(request)

    async def _prepare_headers(self) -> None:
        absent = [name for name in (hdrs.CONTENT_TYPE, hdrs.DATE, hdrs.SERVER) if name not in self.headers]
        await super()._prepare_headers()
        for name in absent:
            self.headers.popall(name, None)


async def _body(request: web.BaseRequest, progress: Progress) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_any():
        progress()
        yield chunk


class _Pipe:
    """What aiohttp's protocols feed after an upgrade: a stream that stops its sender while it is full."""

    def __init__(self, protocol: Any, progress: Progress) -> None:
        self.stream = StreamReader(protocol, PIPE_LIMIT, loop=asyncio.get_running_loop())
        self._progress = progress

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._progress()
        self.stream.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self.stream.feed_eof()


async def _tunnel(
    request: web.BaseRequest, upstream: ClientResponse, answer: Passed, progress: Progress
) -> web.StreamResponse:
    connection = upstream.connection
    if connection is None or connection.protocol is None or connection.transport is None:
        raise ClientPayloadError("the upstream closed while it switched protocols")
    protocol = connection.protocol
    answer.headers[hdrs.CONNECTION] = "Upgrade"
    answer.headers[hdrs.UPGRADE] = upstream.headers.get(hdrs.UPGRADE, "websocket")
    await answer.prepare(request)
    inward, outward = _Pipe(request.protocol, progress), _Pipe(protocol, progress)
    request.protocol.set_parser(inward)  # type: ignore[arg-type]  # it is fed like the WebSocketReader named there
    protocol.set_parser(outward, outward.stream)
    to_upstream = StreamWriter(protocol, asyncio.get_running_loop())

    async def inwards() -> None:
        async for chunk in inward.stream.iter_any():
            await to_upstream.write(chunk)

    async def outwards() -> None:
        async for chunk in outward.stream.iter_any():
            await answer.write(chunk)

    tasks = {asyncio.create_task(inwards()), asyncio.create_task(outwards())}
    try:
        # A WebSocket ends for both sides together; what is left of it is the closing handshake, already passed on.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        connection.close()
        if request.transport is not None:
            request.transport.close()
    return answer
