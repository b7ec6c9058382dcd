"""MCP 2024-11-05 over two connections (HTTP+SSE): a stream that brings everything, and an address where messages are posted to.

To the rest of the gateway such a client is one that speaks Streamable HTTP: each message posted becomes a request to the gateway
itself (`inner.py`), under the session its `initialize` opened, and whatever is answered goes onto the one stream. So sessions,
healing, limits and policies are those of every other client.

The address is told in the first event and holds the sealed name of the stream and of its node: a message that reaches another
node goes to that one's Mailbox. Every request must come from the Principal who opened the stream. When the stream ends, the session
it opened ends; one that was named in its path (`/sse/{session}`) stays. A node that dies takes its streams with it: then messages
are answered 404, and the client starts anew.
Source: MCP 2024-11-05, Transports, HTTP with SSE.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import msgspec

from hosting.dataplane.call import EMPTY, Call
from hosting.dataplane.contract import Route
from hosting.dataplane.doors.sse_stream import Serve, SseStream
from hosting.dataplane.facts.addresses import MCP_PATH, Knock
from hosting.dataplane.facts.buckets import choose_target
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.protocol.era import accepts, check_content_type
from hosting.dataplane.protocol.errors import (
    BUSY,
    INVALID_REQUEST,
    NOT_ACCEPTABLE,
    OVERLOADED,
    PROBE_ONLY_LOOKS,
    RETRY_SOON,
    UNKNOWN_SESSION,
    Refusal,
)
from hosting.dataplane.protocol.jsonrpc import parse_body
from hosting.dataplane.sessions.mailbox import Mailbox
from hosting.dataplane.sessions.seal import NotSealed, Seal
from hosting.dataplane.sessions.session import Session, Sessions, UnknownSession
from hosting.dataplane.settings import Settings

SSE_PATH = "/sse"


class _Endpoint(msgspec.Struct, frozen=True):
    """What an address holds, sealed: whose stream, under which name, on which node."""

    name: str
    node: str
    principal: str


class HttpSse:
    """One per process. `serve` answers a request as any other that reaches the gateway."""

    def __init__(
        self,
        *,
        settings: Settings,
        mailbox: Mailbox,
        streams: Streams,
        serve: Serve,
        is_draining: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self.streams = streams
        self.serve = serve
        self.is_draining = is_draining
        self._mailbox = mailbox
        self._sessions = Sessions(settings.sealing_keys)
        self._seal = Seal(settings.sealing_keys, "endpoint")

    async def listen(self, call: Call, knock: Knock, table: Table) -> None:
        """The stream, until either side ends it. Raises Refusal."""
        if call.is_probe:
            raise Refusal(PROBE_ONLY_LOOKS)
        if not accepts(call.headers.get("accept"), "text", "event-stream"):
            raise Refusal(NOT_ACCEPTABLE, "Accept must allow text/event-stream")
        release = choose_target(call.route, sticky=call.caller.sticky).release
        name = secrets.token_hex(16)
        endpoint = _Endpoint(name, self._mailbox.node, call.caller.principal)
        sealed = self._seal.seal(msgspec.json.encode(endpoint), _context(call.route))
        stream = SseStream(self, call, mcp_path=_mcp_path(knock), endpoint=f"{_sse_path(knock)}/{sealed}")
        if knock.rest:
            session = self.opened_session(call, knock.rest)
            if session is None or table.is_revoked(call.route.tenant, session.handle):
                raise Refusal(UNKNOWN_SESSION)
            stream.adopt(knock.rest, session)
        with self._mailbox.open(call.route.tenant, name) as box:
            async with self.streams.open(call, release, stream):
                await stream.run(box)

    async def post(self, call: Call, knock: Knock) -> None:
        """Hands one message to its stream, wherever that is. Raises Refusal: 404 when there is none of this caller's."""
        endpoint = self._opened(call, knock.rest)
        check_content_type(call.headers)
        body = await call.exchange.read_body(
            limit=call.route.limits.request_bytes, timeout_s=self.settings.body_timeout_s, share=call.share
        )
        if isinstance(await parse_body(body, call.share.turn), list):
            raise Refusal(INVALID_REQUEST, "one message at a time")
        said = await self._mailbox.post(call.route.tenant, endpoint.name, body, node=endpoint.node)
        if said == "dead":
            raise Refusal(UNKNOWN_SESSION)
        if said != "delivered":
            raise Refusal(BUSY if said == "full" else OVERLOADED, headers=RETRY_SOON)
        await call.exchange.answer(202, (*EMPTY, *call.extra))

    def opened_session(self, call: Call, text: str) -> Session | None:
        """The caller's session of that id, revoked or not."""
        try:
            return self._sessions.open(
                text, route=call.route, principal=call.caller.principal, now=time.time()
            )
        except UnknownSession:
            return None

    def _opened(self, call: Call, text: str) -> _Endpoint:
        try:
            plain = self._seal.open(text, _context(call.route))
        except NotSealed:
            raise Refusal(UNKNOWN_SESSION) from None
        endpoint = msgspec.json.decode(plain, type=_Endpoint)
        if endpoint.principal != call.caller.principal:
            raise Refusal(UNKNOWN_SESSION)
        return endpoint


def _mcp_path(knock: Knock) -> str:
    return knock.address if knock.address.startswith("/") else MCP_PATH


def _sse_path(knock: Knock) -> str:
    return f"{_mcp_path(knock).removesuffix(MCP_PATH)}{SSE_PATH}"


def _context(route: Route) -> bytes:
    return f"endpoint\0{route.tenant}\0{route.environment}".encode()
