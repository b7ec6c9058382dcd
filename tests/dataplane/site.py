"""What a server serves besides MCP, as a process of its own behind a dispatcher: paths that do as their query says, and `/ws`.

`python -m tests.dataplane.site --port P` with the stand-in's environment. `/_control/seen` tells what arrived. Elsewhere the
query decides: `status`, `headers` (JSON, a list of pairs), `body`, `mb` (so many megabytes), `drip` (seconds between pieces),
`cut`; without one the answer tells the request. `/ws?mode=` is one of the methods of Socket.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import time
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hosting.dataplane.contract import unb64url, verify_assertion

MB = 1024 * 1024


class Site:
    """Believes only valid assertions for its audience."""

    def __init__(self, keys: dict[str, Ed25519PublicKey], audience: str) -> None:
        self._keys = keys
        self._audience = audience
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/_control/"):
            if request.path.endswith("forget"):
                self.seen.clear()
            return web.json_response(self.seen)
        try:
            assertion = verify_assertion(request.headers.get("smcp-assertion", ""), keys=self._keys)
        except ValueError:
            return web.Response(status=401)
        assert assertion.aud == self._audience
        entry: dict[str, Any] = {
            "method": request.method,
            "path": request.raw_path,
            "script": assertion.wrk,
            "headers": dict(request.headers),
            "sent": 0,
            "received": 0,
        }
        self.seen.append(entry)
        if request.path == "/ws":
            return await Socket(request, entry).run()
        return await self._answer(request, entry)

    async def _answer(self, request: web.Request, entry: dict[str, Any]) -> web.StreamResponse:
        query = request.query
        try:
            if "early" not in query:
                await self._read(request, entry)
            answer = web.StreamResponse(status=int(query.get("status", 200)))
            for name, value in json.loads(query.get("headers", "[]")):
                answer.headers.add(name, value)
            if "mb" in query:
                await answer.prepare(request)
                for _ in range(int(query["mb"]) * 16):
                    await answer.write(b"x" * (MB // 16))
                    entry["sent"] += MB // 16
            elif "drip" in query:
                await answer.prepare(request)
                while True:
                    await answer.write(b"data: drip\n\n")
                    await asyncio.sleep(float(query["drip"]))
            else:
                body = query["body"].encode() if "body" in query else json.dumps(entry).encode()
                answer.headers.setdefault("content-type", "application/json")
                answer.content_length = len(body) + (10 if "cut" in query else 0)
                await answer.prepare(request)
                if request.method != "HEAD" and answer.status != 304:
                    await answer.write(body)
            if "cut" in query and request.transport is not None:
                request.transport.close()
            await answer.write_eof()
            return answer
        except (ConnectionError, asyncio.CancelledError):
            entry["left"] = True
            raise

    async def _read(self, request: web.Request, entry: dict[str, Any]) -> None:
        digest = hashlib.sha256()
        async for piece in request.content.iter_any():
            entry["received"] += len(piece)
            digest.update(piece)
            if entry["received"] == len(piece):
                entry["first_at"] = time.time()
        entry["sha256"] = digest.hexdigest()


class Socket:
    """One WebSocket at the server's side. Ends with `closed` in its entry: what the other side said."""

    def __init__(self, request: web.Request, entry: dict[str, Any]) -> None:
        self.request = request
        self.entry = entry
        mode = request.query.get("mode", "echo")
        self.socket = web.WebSocketResponse(
            protocols=("chat.v2", "chat.v1"), autoping=False, max_msg_size=0, compress=False
        )
        self.work = getattr(self, mode)

    async def run(self) -> web.StreamResponse:
        if self.work == self.refuse:
            headers = json.loads(self.request.query.get("headers", "{}"))
            return web.Response(status=int(self.request.query["status"]), headers=headers, text="secret")
        await self.socket.prepare(self.request)
        try:
            await self.work()
        finally:
            self.entry["closed"] = [self.socket.close_code, self.entry.get("reason", "")]
        return self.socket

    async def refuse(self) -> None: ...

    async def echo(self) -> None:
        while (message := await self.socket.receive()).type is not WSMsgType.CLOSED:
            if message.type is WSMsgType.PING:
                self.entry["pings"] = self.entry.get("pings", 0) + 1
                await self.socket.pong(message.data)
            elif message.type is WSMsgType.TEXT:
                self.entry["received"] += 1
                await self.socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                self.entry["received"] += 1
                await self.socket.send_bytes(message.data)
            elif message.type in {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.ERROR}:
                self.entry["reason"] = message.extra or ""
                return

    async def close(self) -> None:
        """As the query says; 1006 is no close frame at all."""
        code = int(self.request.query["code"])
        if code == 1006:
            assert self.request.transport is not None
            self.request.transport.abort()
        elif code == 1005:
            await self.socket._writer.send_frame(b"", WSMsgType.CLOSE)  # type: ignore[union-attr]
        else:
            await self.socket.close(code=code, message=self.request.query.get("reason", "").encode())

    async def flood(self) -> None:
        """Sends as fast as it may."""
        size = int(self.request.query.get("size", MB // 16))
        while not self.socket.closed:
            await self.socket.send_bytes(b"x" * size)
            self.entry["sent"] += size

    async def bomb(self) -> None:
        """One message, larger than anybody wants."""
        await self.socket.send_bytes(b"x" * int(self.request.query["size"]))
        await self.echo()

    async def deaf(self) -> None:
        """Reads nothing, and answers no ping."""
        await asyncio.sleep(600)

    async def mute(self) -> None:
        """Reads, and answers no ping."""
        while (message := await self.socket.receive()).type is not WSMsgType.CLOSED:
            if message.type in {WSMsgType.CLOSE, WSMsgType.ERROR}:
                return

    async def rude(self) -> None:
        """Sends a close code that no endpoint may send."""
        await self.socket.close(code=WSCloseCode.ABNORMAL_CLOSURE)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    kid, _, encoded = os.environ["SMCP_STANDIN_KEYS"].partition(":")
    keys = {kid: Ed25519PublicKey.from_public_bytes(unb64url(encoded))}
    app = web.Application(client_max_size=1024 * MB)
    app.router.add_route("*", "/{path:.*}", Site(keys, os.environ["SMCP_STANDIN_AUD"]))
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0, auto_decompress=False
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", given.port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
