"""The gateway's other side, as a process of its own: a dispatcher that believes only valid assertions, and servers behind it.

`python -m tests.dataplane.standin --port P --raw-port R` with SMCP_STANDIN_KEYS (public keys as `kid:base64url`) and
SMCP_STANDIN_AUD. The script's name chooses the server:

    scripted-…   answers as the call's arguments ask it to, in both eras, keeping sessions where its name ends in `-stateful`
    legacy-…     speaks legacy revisions only (`legacy_standin.py`)
    official     the official Python SDK's server, both eras, with sessions
    modern-…, official-modern    as `modern_standin.py` says: the modern era only
    asking       the same SDK's, with tools that ask their client something; legacy revisions only
    broken       on the raw port: whatever bytes the control door was given, sent as they are

What arrived is told at `/_control/seen`; a scripted stream sends its next event when `/_control/go` says so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from mcp.server.transport_security import TransportSecuritySettings

from hosting.dataplane.contract import unb64url, verify_assertion
from tests.dataplane.asgi import (
    Receive,
    Scope,
    Send,
    answer,
    error,
    read,
)
from tests.dataplane.control import Control
from tests.dataplane.modern_standin import REVISION, ModernScripted
from tests.dataplane.official import asking, official, official_modern
from tests.dataplane.scripted import Scripted

MODERN_META = "io.modelcontextprotocol/protocolVersion"


class StandIn:
    """The ASGI app: control door, dispatcher, servers."""

    def __init__(self, keys: dict[str, Ed25519PublicKey], audience: str, control: Control) -> None:
        self._keys = keys
        self._audience = audience
        self._control = control
        self._scripted = Scripted(control)
        self._modern = ModernScripted(control)
        security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        self._asking = asking().streamable_http_app(transport_security=security)
        self.official = official().streamable_http_app(transport_security=security)
        self.official_modern = official_modern().streamable_http_app(transport_security=security)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with (
            self.official.router.lifespan_context(self.official),
            self.official_modern.router.lifespan_context(self.official_modern),
            self._asking.router.lifespan_context(self._asking),
        ):
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/_control/"):
            told = await self._control(scope["path"], await read(receive))
            await answer(send, 404 if told is None else 200, json.dumps(told).encode())
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            assertion = verify_assertion(headers.get("smcp-assertion", ""), keys=self._keys)
        except ValueError:
            await answer(send, 401, b"no valid assertion", content_type="text/plain")
            return
        if assertion.aud != self._audience:
            await answer(send, 401, b"another audience", content_type="text/plain")
            return
        entry = {
            "method": scope["method"],
            "path": scope["path"],
            "script": assertion.wrk,
            "tenant": assertion.ten,
            "headers": headers,
        }
        self._control.seen.append(entry)
        if assertion.wrk == "official":
            await self.official(scope, receive, send)  # type: ignore[arg-type]
        elif assertion.wrk == "official-modern":
            if headers.get("mcp-protocol-version") == REVISION:
                await self.official_modern(scope, receive, send)  # type: ignore[arg-type]
            else:
                await answer(
                    send, 405 if scope["method"] != "POST" else 404, error(None, -32601, "modern only")
                )
        elif assertion.wrk == "asking":
            if "mcp-method" in headers:
                await answer(send, 400, error(None, -32000, "legacy revisions only"))
            else:
                await self._asking(scope, receive, send)  # type: ignore[arg-type]
        elif assertion.wrk.startswith("legacy"):
            body = await read(receive)
            await self._control.legacy_only(assertion.wrk, entry, body, receive, send)
        elif assertion.wrk.startswith("scripted"):
            body = await read(receive)
            entry["body"] = body.decode()
            await self._scripted(assertion.wrk, entry, body, receive, send)
        elif assertion.wrk.startswith("modern-"):
            body = await read(receive)
            entry["body"] = body.decode()
            await self._modern(assertion.wrk, entry, body, receive, send)
        else:
            await answer(send, 404, b"no such script", [("smcp-dispatch-error", "not-found")], "text/plain")


async def serve_raw(control: Control, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request in, the bytes the test asked for out, and `more` of them for as long as somebody listens."""
    control.raw_open += 1
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        control.raw_seen.append(head.decode("latin-1"))
        writer.write(control.raw_answer)
        await writer.drain()
        more, every_s = control.raw_more, control.raw_every_s
        while more:
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(every_s)
        if control.raw_reads_nothing:
            await control.permit("raw").acquire()
        elif control.raw_stays_open:
            await reader.read()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        control.raw_open -= 1
        writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--raw-port", type=int, required=True)
    given = parser.parse_args()
    keys = {}
    for entry in os.environ["SMCP_STANDIN_KEYS"].split(","):
        kid, _, encoded = entry.partition(":")
        keys[kid] = Ed25519PublicKey.from_public_bytes(unb64url(encoded))
    control = Control()
    app = StandIn(keys, os.environ["SMCP_STANDIN_AUD"], control)
    raw = await asyncio.start_server(lambda r, w: serve_raw(control, r, w), "127.0.0.1", given.raw_port)
    config = uvicorn.Config(
        app,
        port=given.port,
        log_level="warning",
        timeout_graceful_shutdown=1,
        timeout_keep_alive=60,
        lifespan="off",
    )
    async with raw, app.running():
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(main())
