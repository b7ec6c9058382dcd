"""Which door a request knocks at, where it is none of MCP's own."""

from __future__ import annotations

from collections.abc import Callable

from hosting.dataplane.call import Call
from hosting.dataplane.door.exchange import Exchange
from hosting.dataplane.door.socket import Upgrade
from hosting.dataplane.doors.http_sse import HttpSse
from hosting.dataplane.doors.passing import Passing
from hosting.dataplane.doors.sse_stream import Serve
from hosting.dataplane.doors.tunnel import Tunnels
from hosting.dataplane.facts.addresses import Knock
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.passage import Passage
from hosting.dataplane.forwarding.proxy import Proxy
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.protocol.era import SESSION_HEADER
from hosting.dataplane.protocol.errors import (
    BAD_HEADER,
    METHOD_NOT_ALLOWED,
    MISPLACED_UPGRADE,
    UPGRADE_NEEDED,
    Refusal,
)
from hosting.dataplane.sessions.mailbox import Mailbox
from hosting.dataplane.settings import Settings

METHODS = {
    "mcp": ("GET", "POST", "DELETE"),
    "init": ("POST",),
    "message": ("POST",),
    "stream": ("GET",),
    "sse": ("GET",),
    "endpoint": ("GET", "POST"),  # `sse` with an id
    "ws": ("GET",),
}


def check_method(exchange: Exchange, knock: Knock) -> None:
    """Raises Refusal: 405, 426, or 400 for a WebSocket where there is none. A server's own paths judge for themselves."""
    if exchange.is_upgrade and knock.door != "ws":
        raise Refusal(MISPLACED_UPGRADE)
    if knock.door == "ws" and not exchange.is_upgrade:
        raise Refusal(UPGRADE_NEEDED, headers=(("upgrade", "websocket"), ("connection", "upgrade")))
    allowed = METHODS.get("endpoint" if knock.door == "sse" and knock.rest else knock.door)
    if allowed is not None and exchange.method not in allowed:
        raise Refusal(METHOD_NOT_ALLOWED, headers=(("allow", ", ".join((*allowed, "OPTIONS"))),))


def name_session(headers: dict[str, str], knock: Knock) -> None:
    """`/mcp/v1/stream/{id}` says in its path what MCP says in a header. Raises Refusal where both do, and differ."""
    if knock.door == "stream" and headers.setdefault(SESSION_HEADER, knock.rest) != knock.rest:
        raise Refusal(BAD_HEADER, "Mcp-Session-Id and the path name two sessions")


class Doors:
    """One per process. `serve` answers a request as any other that reaches the gateway."""

    def __init__(
        self,
        *,
        settings: Settings,
        passage: Passage,
        proxy: Proxy,
        streams: Streams,
        mailbox: Mailbox,
        serve: Serve,
        is_draining: Callable[[], bool],
    ) -> None:
        self._passing = Passing(settings=settings, passage=passage, proxy=proxy, streams=streams)
        self._tunnels = Tunnels(settings=settings, passage=passage, proxy=proxy, streams=streams)
        self._http_sse = HttpSse(
            settings=settings, mailbox=mailbox, streams=streams, serve=serve, is_draining=is_draining
        )

    async def carry(self, call: Call, knock: Knock, table: Table) -> bool:
        """False for a door of MCP's own: it is the caller's. Raises Refusal, ClientGone."""
        match knock.door:
            case "other":
                await self._passing.carry(call, knock.rest)
            case "ws":
                assert isinstance(call.exchange, Upgrade)
                await self._tunnels.carry(call, call.exchange)
            case "sse":
                call.exchange.era = "legacy"
                if call.exchange.method == "POST":
                    await self._http_sse.post(call, knock)
                else:
                    await self._http_sse.listen(call, knock, table)
            case _:
                return False
        return True
