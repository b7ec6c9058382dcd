"""WebSockets to a server's `/ws`, where its Environment allows other paths: messages pass both ways, each at the slower side's pace.

The server is connected first, so a client learns of a refusal before anything is open, and gets the sub-protocol the server chose.
One message each way is held at a time. A side that closes tells the other why; what no endpoint may say (RFC 6455, 7.4) becomes
something it may. Both sides are pinged: nothing between cuts the connection, and whoever gives no sign of life for PONGS_MISSED
pings is given up, unless it is us who do not read.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from hosting.dataplane.call import Call, Plan
from hosting.dataplane.door.auth import KEY_PREFIX
from hosting.dataplane.door.exchange import ClientGone
from hosting.dataplane.door.socket import Upgrade
from hosting.dataplane.doors.headers import check_query, request_headers
from hosting.dataplane.doors.policy import is_still_allowed
from hosting.dataplane.facts.buckets import choose_target
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.passage import HandshakeRefused, Passage, ServerSocket
from hosting.dataplane.forwarding.proxy import Proxy
from hosting.dataplane.forwarding.streams import StopReason, Streams, end_with_key
from hosting.dataplane.forwarding.upstream import UpstreamFailure
from hosting.dataplane.forwarding.verdicts import FAILURES, refuse_dispatch
from hosting.dataplane.protocol.errors import (
    PROBE_ONLY_LOOKS,
    UPSTREAM_DENIED,
    UPSTREAM_FAILED,
    Kind,
    Refusal,
)
from hosting.dataplane.protocol.frames import SENDABLE, Closed, FrameError
from hosting.dataplane.settings import Settings

GOODBYE_S = 5.0
STOPPED: Final[dict[StopReason, Closed]] = {
    "drain": Closed(1012, "this gateway is shutting down"),
    "revoked": Closed(1008, "access to this server has ended"),
    "client_gone": Closed(1001),
}
SERVER_LOST = Closed(1014, "the server's connection broke")
SERVER_SILENT = Closed(1014, "the server does not answer")
CLIENT_SILENT = Closed(1001, "no sign of life")
NO_ROOM = Closed(1013, "too much is in flight")
GONE = Closed(1001)
PONGS_MISSED = 3
AT_A_STRETCH = 8  # messages that were there already; then it is others' turn, as nothing made us wait
_SERVERS_OWN_STATUS = frozenset({400, 404, 405, 409, 410, 426, 429})


class Tunnels:
    """One per process."""

    def __init__(self, *, settings: Settings, passage: Passage, proxy: Proxy, streams: Streams) -> None:
        self._settings = settings
        self._passage = passage
        self._proxy = proxy
        self._streams = streams

    async def carry(self, call: Call, upgrade: Upgrade) -> None:
        """Until either side closes, or must. Raises Refusal while nothing is open."""
        if call.is_probe:
            raise Refusal(PROBE_ONLY_LOOKS)
        subprotocols = upgrade.subprotocols()
        check_query(upgrade.query, KEY_PREFIX)
        target = choose_target(call.route, sticky=call.caller.sticky)
        plan = Plan(target=target, method="GET", headers={}, body=None, is_listening=True)
        server = await self._connect(call, plan, subprotocols)
        tunnel = _Tunnel(call, upgrade, server, settings=self._settings)
        try:
            async with self._streams.open(call, target.release, tunnel):
                limit = call.route.limits.event_bytes
                upgrade.accept(server.subprotocol, call.extra, limit=limit, share=call.share)
                await tunnel.run()
        finally:
            await server.close(tunnel.for_server, waits=not tunnel.is_client_slow)
            self._proxy.streamed(call, plan, tunnel.sent_bytes)

    async def _connect(self, call: Call, plan: Plan, subprotocols: list[str]) -> ServerSocket:
        """Raises Refusal."""
        started, failure = time.perf_counter(), ""
        try:
            return await self._passage.connect(
                call, plan.target, headers=request_headers(call.headers), subprotocols=subprotocols
            )
        except UpstreamFailure as exc:
            failure = FAILURES[exc.kind].outcome
            raise Refusal(FAILURES[exc.kind]) from exc
        except HandshakeRefused as exc:
            refusal = _refusal_of(exc)
            failure = refusal.kind.outcome if refusal.status >= 500 else ""
            raise refusal from exc
        finally:
            latency_ms = (time.perf_counter() - started) * 1000
            self._proxy.recorded(call, plan, latency_ms=latency_ms, failure=failure, response_bytes=0)


def _refusal_of(refused: HandshakeRefused) -> Refusal:
    if refused.dispatch_error:
        return refuse_dispatch(refused.dispatch_error, refused.status, refused.retry_after)
    kind: Kind = UPSTREAM_FAILED if refused.status >= 500 else UPSTREAM_DENIED
    status = refused.status if refused.status in _SERVERS_OWN_STATUS else 0
    return Refusal(kind, "the server opens no WebSocket here", data={"status": refused.status}, status=status)


class _Tunnel:
    """One WebSocket, open on both sides."""

    is_listening = True

    def __init__(self, call: Call, client: Upgrade, server: ServerSocket, *, settings: Settings) -> None:
        self.for_server = GONE  # how it ended, as the server is told
        self.sent_bytes = 0
        self.is_client_slow = False  # what the server says waits for it
        self._is_server_slow = False
        self._call = call
        self._client = client
        self._server = server
        self._settings = settings
        self._ending: asyncio.Future[tuple[Closed, Closed]] = asyncio.get_running_loop().create_future()

    def is_admitted(self, table: Table) -> bool:
        return is_still_allowed(self._call, table)

    def stop(self, reason: StopReason) -> None:
        self._end(STOPPED[reason], GONE)

    async def run(self) -> None:
        """Leaves the server's side open, to be closed with `for_server`."""
        works = [self._inward(), self._outward(), self._keep_alive()]
        tasks = [asyncio.create_task(self._guarded(work)) for work in works]
        expiry = end_with_key(self._call, self)
        for_client = Closed(1011)
        try:
            for_client, self.for_server = await self._ending
        finally:
            if expiry is not None:
                expiry.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._client.close(for_client, timeout_s=0 if self.is_client_slow else GOODBYE_S)

    def _end(self, for_client: Closed, for_server: Closed) -> None:
        if not self._ending.done():
            self._ending.set_result((for_client, for_server))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ClientGone:
            self._end(GONE, GONE)
        except FrameError as exc:
            self._end(Closed(exc.code, str(exc)), GONE)
        except Refusal:
            self._end(NO_ROOM, GONE)
        except ConnectionError:
            self._end(SERVER_LOST, GONE)
        except TimeoutError:
            self._end(SERVER_SILENT, GONE)
        except Exception as exc:
            if not self._ending.done():
                self._ending.set_exception(exc)

    async def _inward(self) -> None:
        for number in itertools.count(1):
            if number % AT_A_STRETCH == 0:
                await asyncio.sleep(0)
            message = await self._client.receive()
            if isinstance(message, Closed):
                self._end(_sendable(message), _sendable(message))
                return
            with self._held(message):
                self._is_server_slow = True
                async with asyncio.timeout(self._call.route.limits.stream_idle_s):
                    await self._server.send_message(message)
                self._is_server_slow = False
                self._client.heard_at = time.monotonic()

    async def _outward(self) -> None:
        for number in itertools.count(1):
            if number % AT_A_STRETCH == 0:
                await asyncio.sleep(0)
            message = await self._server.receive()
            if isinstance(message, Closed):
                end = SERVER_LOST if message.code == 1006 else _sendable(message)
                self._end(end, _sendable(message))
                return
            with self._held(message) as size:
                self.is_client_slow = True
                await self._client.send_message(message, timeout_s=self._settings.stalled_client_s)
                self.is_client_slow = False
                self._server.heard_at = time.monotonic()
                self.sent_bytes += size

    @contextmanager
    def _held(self, message: str | bytes) -> Iterator[int]:
        """While a message is passed on, it counts in the memory its caller may take. Raises Refusal."""
        size = _size(message)
        self._call.share.take(size)
        try:
            yield size
        finally:
            self._call.share.give(size)

    async def _keep_alive(self) -> None:
        keepalive_s = self._settings.keepalive_s
        patience_s = keepalive_s * (PONGS_MISSED + 1)
        while True:
            await asyncio.sleep(keepalive_s)
            now = time.monotonic()
            if not self.is_client_slow and now - self._server.heard_at > patience_s:
                self._end(SERVER_SILENT, GONE)
            elif not self._is_server_slow and now - self._client.heard_at > patience_s:
                self._end(CLIENT_SILENT, GONE)
            await self._client.ping()
            await self._server.ping()


def _size(message: str | bytes) -> int:
    """In bytes."""
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())


def _sendable(end: Closed) -> Closed:
    """What may go on to the other side: it closed without a code, or just went."""
    if end.code in SENDABLE:
        return end
    return GONE if end.code == 1006 else Closed(1000)
