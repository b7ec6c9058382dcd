"""What stands behind and beside the gateway while it is measured, each a process: `python -m tests.bench._peers stub|pass …`.

stub PORT            answers every POST at once, with JSON, or with one event where the call's tool is `events`
pass PORT UPSTREAM   the barest pass-through one would write with aiohttp: no routes, no callers, no sessions
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop
from aiohttp import ClientSession, DummyCookieJar, TCPConnector, web

RESULT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"42"}]}}'
INITIALIZED = (
    b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},'
    b'"serverInfo":{"name":"stub","version":"1"}}}'
)


def _http(content_type: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
        content_type,
        len(body),
        body,
    )


ANSWER = _http(b"application/json", RESULT)
EVENT = _http(b"text/event-stream", b"event: message\ndata: " + RESULT + b"\n\n")
FIRST = _http(b"application/json", INITIALIZED)
ACCEPTED = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"


class Stub(asyncio.Protocol):
    """Just enough HTTP for clients that send no second request before the answer: a Content-Length, or chunks."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, alike in all but name

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator or not _is_whole(head.lower(), body):
            return
        self._data = b""
        assert self._transport is not None
        if b'"initialize"' in body:
            self._transport.write(FIRST)
        elif b'"notifications/' in body:
            self._transport.write(ACCEPTED)
        else:
            self._transport.write(EVENT if b"events" in body else ANSWER)


def _is_whole(head: bytes, body: bytes) -> bool:
    at = head.find(b"content-length:")
    if at >= 0:
        return len(body) >= int(head[at + 15 :].partition(b"\r\n")[0])
    return b"chunked" not in head or body.endswith(b"0\r\n\r\n")


async def serve_stub(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


async def serve_pass(port: int, upstream: str) -> None:
    async with ClientSession(
        connector=TCPConnector(limit=0), cookie_jar=DummyCookieJar(), auto_decompress=False
    ) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            body = await request.read()
            headers = {"content-type": request.headers["content-type"], "accept": request.headers["accept"]}
            async with session.post(upstream, data=body, headers=headers) as answer:
                told = web.StreamResponse(status=answer.status, headers={"content-type": answer.content_type})
                await told.prepare(request)
                async for piece in answer.content.iter_any():
                    await told.write(piece)
                await told.write_eof()
                return told

        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    which, port = sys.argv[1], int(sys.argv[2])
    uvloop.run(serve_stub(port) if which == "stub" else serve_pass(port, sys.argv[3]))
