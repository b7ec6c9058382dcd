"""The server behind everybody that is measured: `python -m tests.bench.peers.stub PORT`. Answers every POST at once, with JSON, or with one
event where the call's tool is `events`. Just enough HTTP for clients that send no second request before the answer.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import msgspec
import uvloop

_INITIALIZED = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "stub", "version": "1"},
}
_NUMBER = {"type": "integer"}
_SCHEMA = {"type": "object", "properties": {"a": _NUMBER, "b": _NUMBER}}
_TOOLS = {"tools": [{"name": name, "description": "", "inputSchema": _SCHEMA} for name in ("add", "events")]}
RESULTS = {
    "initialize": msgspec.json.encode(_INITIALIZED),
    "tools/list": msgspec.json.encode(_TOOLS),
    "tools/call": b'{"content":[{"type":"text","text":"42"}]}',
}


class _Params(msgspec.Struct, frozen=True):
    name: str = ""


class _Asked(msgspec.Struct):
    method: str = ""
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    params: _Params = _Params()


_asked = msgspec.json.Decoder(_Asked)


def answer_to(body: bytes) -> bytes:
    """A whole HTTP answer."""
    try:
        asked = _asked.decode(body)
    except msgspec.MsgspecError:
        return b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n"
    if asked.id is msgspec.UNSET:
        return b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
    told = b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (bytes(asked.id), RESULTS.get(asked.method, b"{}"))
    if asked.params.name.endswith("events"):
        return _http(b"text/event-stream", b"event: message\ndata: %b\n\n" % told)
    return _http(b"application/json", told)


def _http(content_type: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (content_type, len(body)) + body


class Stub(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, alike in all but name

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator:
            return
        whole = _whole(head.lower(), body)
        if whole is None:
            return
        self._data = b""
        self.answer(head.lower(), whole)

    def answer(self, head: bytes, body: bytes) -> None:
        self.write(answer_to(body))

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)


def _whole(head: bytes, body: bytes) -> bytes | None:
    """The body, once all of it is there: by its length, or in chunks."""
    at = head.find(b"content-length:")
    if at >= 0:
        size = int(head[at + 15 :].partition(b"\r\n")[0])
        return body if len(body) >= size else None
    if b"chunked" not in head:
        return body
    if not body.endswith(b"0\r\n\r\n"):
        return None
    pieces, rest = [], body
    while size := int(rest.partition(b"\r\n")[0], 16):
        rest = rest.partition(b"\r\n")[2]
        pieces.append(rest[:size])
        rest = rest[size + 2 :]
    return b"".join(pieces)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
