"""The way to what a server serves besides MCP: its own paths, and its WebSocket. The same dispatcher and assertions as for MCP; connections of
aiohttp's, since what counts here is bytes and not requests.

Redirects are never followed: aiohttp follows those that answer a WebSocket's handshake, with the assertion among the headers, unless
it is kept from it (`_refuse_redirect`). Nothing is decompressed, and no extension of WebSockets is offered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import aiohttp
from yarl import URL

from hosting.dataplane.call import Call
from hosting.dataplane.contract import ASSERTION_HEADER, Dispatch, Target
from hosting.dataplane.facts.addresses import WS_PATH
from hosting.dataplane.forwarding.elsewhere import HttpAnswer, failures_told, new_session
from hosting.dataplane.forwarding.scripts import Assertions
from hosting.dataplane.forwarding.upstream import UpstreamFailure
from hosting.dataplane.protocol.errors import NOTHING_DEPLOYED, Refusal
from hosting.dataplane.protocol.frames import Closed

GOODBYE_S = 5.0
POOL_IDLE_S = 20.0


class PassedAnswer(HttpAnswer):
    """What the dispatcher, or the script behind it, began to answer, with all of its headers."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        super().__init__(response, None)
        self.headers = response.headers
        self.dispatch_error = response.headers.get("smcp-dispatch-error", "")


class HandshakeRefused(Exception):
    """The server answered a WebSocket's handshake with something else than 101."""

    def __init__(self, status: int, dispatch_error: str, retry_after: str) -> None:
        super().__init__(status)
        self.status = status
        self.dispatch_error = dispatch_error
        self.retry_after = retry_after


class ServerSocket:
    """A WebSocket to a server."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.heard_at = time.monotonic()

    @property
    def subprotocol(self) -> str | None:
        return self._socket.protocol

    async def receive(self) -> str | bytes | Closed:
        """The server's next message, or its end. Pings are answered; they and pongs only move `heard_at`."""
        while True:
            message: Any = await self._socket.receive()
            self.heard_at = time.monotonic()
            match message.type:
                case aiohttp.WSMsgType.TEXT:
                    return str(message.data)
                case aiohttp.WSMsgType.BINARY:
                    return bytes(message.data)
                case aiohttp.WSMsgType.PING:
                    await self._socket.pong(message.data)
                case aiohttp.WSMsgType.PONG:
                    pass
                case aiohttp.WSMsgType.CLOSE:
                    return Closed(message.data or 1005, message.extra or "")
                case aiohttp.WSMsgType.ERROR if isinstance(message.data, aiohttp.WebSocketError):
                    return Closed(int(message.data.code))
                case _:
                    return Closed(1006)

    async def send_message(self, data: str | bytes) -> None:
        """Waits while the server does not read. Raises ConnectionError when it is gone."""
        try:
            await (self._socket.send_str(data) if isinstance(data, str) else self._socket.send_bytes(data))
        except aiohttp.ClientError as exc:
            raise ConnectionError from exc

    async def ping(self) -> None:
        """Raises ConnectionError when it is gone."""
        try:
            await self._socket.ping()
        except aiohttp.ClientError as exc:
            raise ConnectionError from exc

    async def close(self, end: Closed, *, waits: bool) -> None:
        """Says why, and `waits` GOODBYE_S for the server to agree, whatever it still has to say; otherwise cuts it off."""
        with suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(GOODBYE_S if waits else 0):
                await self._socket.close(code=end.code, message=end.reason.encode())


class Passage:
    """One per process. Create it inside the running loop."""

    def __init__(self, assertions: Assertions) -> None:
        self._assertions = assertions
        watched = aiohttp.TraceConfig()
        watched.on_request_redirect.append(_refuse_redirect)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=POOL_IDLE_S, ttl_dns_cache=30)
        self._session = new_session(connector, watched=watched)

    async def send(
        self,
        call: Call,
        target: Target,
        path: str,
        *,
        headers: dict[str, str],
        body: AsyncIterator[bytes] | None,
    ) -> PassedAnswer:
        """Until the head of the answer. `path` goes on as it is, with its query. Raises UpstreamFailure, Refusal."""
        dispatch, limits = _dispatch_of(call), call.route.limits
        with failures_told():
            async with asyncio.timeout(limits.answer_timeout_s):
                response = await self._session.request(
                    call.exchange.method,
                    URL(dispatch.url.rstrip("/") + path, encoded=True),
                    headers={**headers, **self._own_headers(call, dispatch, target)},
                    data=body,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, connect=limits.connect_timeout_s),
                )
        return PassedAnswer(response)

    async def connect(
        self, call: Call, target: Target, *, headers: dict[str, str], subprotocols: Sequence[str]
    ) -> ServerSocket:
        """The server's WebSocket. Raises UpstreamFailure, HandshakeRefused, Refusal."""
        dispatch, limits = _dispatch_of(call), call.route.limits
        query = f"?{call.exchange.query}" if call.exchange.query else ""
        try:
            with failures_told():
                async with asyncio.timeout(limits.answer_timeout_s):
                    socket = await self._session.ws_connect(
                        URL(dispatch.url.rstrip("/") + WS_PATH + query, encoded=True),
                        headers={**headers, **self._own_headers(call, dispatch, target)},
                        protocols=subprotocols,
                        max_msg_size=limits.event_bytes + 1,  # aiohttp's bound is the first size it refuses
                        autoping=False,
                        autoclose=False,
                        timeout=aiohttp.ClientWSTimeout(ws_receive=None, ws_close=GOODBYE_S),
                    )
        except UpstreamFailure as exc:
            if isinstance(exc.__cause__, aiohttp.WSServerHandshakeError):
                raise _refused(exc.__cause__) from exc
            raise
        return ServerSocket(socket)

    async def close(self) -> None:
        await self._session.close()

    def _own_headers(self, call: Call, dispatch: Dispatch, target: Target) -> dict[str, str]:
        assertion = self._assertions.for_target(
            audience=dispatch.audience, tenant=call.route.tenant, target=target
        )
        own = {
            ASSERTION_HEADER: assertion,
            "x-request-id": call.request_id,
            "accept-encoding": "identity",
        }
        if dispatch.host:
            own["host"] = dispatch.host
        return own


def _dispatch_of(call: Call) -> Dispatch:
    """Raises Refusal."""
    if call.route.dispatch is None:
        raise Refusal(NOTHING_DEPLOYED)
    return call.route.dispatch


def _refused(error: aiohttp.WSServerHandshakeError) -> HandshakeRefused:
    headers: Mapping[str, str] = error.headers or {}
    return HandshakeRefused(
        error.status, headers.get("smcp-dispatch-error", ""), headers.get("retry-after", "")
    )


async def _refuse_redirect(
    session: aiohttp.ClientSession, context: object, params: aiohttp.TraceRequestRedirectParams
) -> None:
    params.response.close()
    raise aiohttp.WSServerHandshakeError(
        params.response.request_info, (), status=params.response.status, headers=params.response.headers
    )
