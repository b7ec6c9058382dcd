"""The only way out of a script: HTTP to the places its upload allowed, never to a private address.

workerd hands every `fetch` of a script to its door, whatever the scheme; TLS begins here. The name is resolved here, once, and the
connection goes to an address that was checked, so a name that changes its mind between check and use gains nothing. Redirects
are the script's own business: each is a new request and a new check. `connect()` (raw TCP) is refused.

Each script has its own connections and its own share of look-ups: one that waits for a slow place keeps no other from it.

`local` are `host:port` an operator lets scripts reach although they are private: for tests and for services on the same machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientError,
    ClientSession,
    ClientTimeout,
    TCPConnector,
    hdrs,
    web,
)
from yarl import URL

from edge.names import Names, Refused, ScriptNames, is_public, literal
from edge.runtime.capnp import PROTO_HEADER
from edge.runtime.relay import Progress, answer_with, client_session, open_upstream, passed_on, target_of
from edge.scripts.model import Script

log = logging.getLogger(__name__)
PORTS = {"http": 80, "https": 443}
MAX_CONNECTIONS = 256
MAX_CONNECTIONS_PER_HOST = 64
# `connect` is everything until there is a connection: the script's own queue, the look-up, the handshakes.
TIMEOUT = ClientTimeout(total=None, connect=30.0, sock_connect=10.0)
KEEP_S = 20.0  # longer than a connection is kept alive for the next request


class Way:
    """One script's connections to the outside."""

    def __init__(self, names: Names, local: Collection[str]) -> None:
        connector = TCPConnector(
            resolver=ScriptNames(names, local),
            use_dns_cache=False,
            limit=MAX_CONNECTIONS,
            limit_per_host=MAX_CONNECTIONS_PER_HOST,
        )
        self.session: ClientSession = client_session(connector, may_retry=True, timeout=TIMEOUT)
        self.users = 0
        self.closing: asyncio.TimerHandle | None = None


class Egress:
    def __init__(self, local: Collection[str], name_servers: Sequence[str] = ()) -> None:
        self._local = frozenset(local)
        self._names = Names(name_servers)
        self._ways: dict[int, Way] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self._names.start()

    async def stop(self) -> None:
        for slot in list(self._ways):
            self._close(slot)
        await asyncio.gather(*self._closing)
        await self._names.stop()

    async def pass_on(self, request: web.Request, script: Script, progress: Progress) -> web.StreamResponse:
        """One request of a script to the outside."""
        scheme = request.headers.get(PROTO_HEADER, "http").lower()
        if request.method == hdrs.METH_CONNECT or scheme not in PORTS:
            return _refusal("only http and https are possible")
        try:
            url = URL(f"{scheme}://{request.headers.get(hdrs.HOST, '')}{target_of(request)}", encoded=True)
            host, port = (url.host or "").lower().rstrip("."), url.port
        except ValueError:
            return _refusal("the address cannot be understood")
        if port is None or not is_allowed(host, port, script.version.egress):
            return _refusal(f"{host}:{port} is not on the script's allow-list")
        is_local = f"{host}:{port}" in self._local
        if not is_local and (address := literal(host)) is not None and not is_public(address):
            return _refusal(f"{host} is a private address")
        headers = passed_on(request.headers)
        async with self._way(script.slot) as session:
            try:
                upstream = await open_upstream(request, session, url, headers, progress=progress)
            except ClientConnectorDNSError as exc:
                if isinstance(exc.os_error, Refused):
                    return _refusal(f"{host} is a private address")
                return web.Response(status=530, text="error code: 1016")
            except ClientConnectorCertificateError:
                return web.Response(status=526, text="error code: 526")
            except (ClientError, OSError) as exc:
                facts = {"slot": script.slot, "host": host, "port": port, "error": repr(exc)}
                log.info("egress.failed", extra=facts)
                return web.Response(status=502, text="error code: 502")
            return await answer_with(request, upstream, progress=progress)

    @asynccontextmanager
    async def _way(self, slot: int) -> AsyncIterator[ClientSession]:
        """The script's own way out, closed when it was not used for a while."""
        way = self._ways.get(slot)
        if way is None:
            way = self._ways[slot] = Way(self._names, self._local)
        if way.closing is not None:
            way.closing.cancel()
        way.users += 1
        try:
            yield way.session
        finally:
            way.users -= 1
            if way.users == 0:
                way.closing = asyncio.get_running_loop().call_later(KEEP_S, self._close, slot)

    def _close(self, slot: int) -> None:
        way = self._ways.pop(slot, None)
        if way is None:
            return
        if way.closing is not None:
            way.closing.cancel()
        task = asyncio.create_task(way.session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def is_allowed(host: str, port: int, allow: Collection[str]) -> bool:
    """`allow` holds `host:port` and `*.domain:port`, which means any name below that domain, not the domain itself."""
    if f"{host}:{port}" in allow:
        return True
    labels = host.split(".")
    return any(f"*.{'.'.join(labels[start:])}:{port}" in allow for start in range(1, len(labels)))


def _refusal(reason: str) -> web.Response:
    return web.Response(status=403, text=f"Egress refused: {reason}.")
