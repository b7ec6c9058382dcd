"""The way to a server that runs elsewhere: connections that go to checked addresses only.

A name is resolved here for every connection, and the address is looked at again by whoever opens the socket: what was checked is
what is connected to, so a name that changes its mind gains nothing. One c-ares channel serves all look-ups (it keeps answers for
as long as their zone says, and knows `/etc/hosts`), each within LIMIT_S.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import AsyncResolver

from hosting.dataplane.remotes import Allowed, literal

TRY_S = 1.0  # before a name server is asked again; each time longer
TRIES = 3
LIMIT_S = 4.0
IDLE_S = 20.0  # a connection is kept for the next request


class AddressRefused(OSError):
    """The address is none that a tenant's server may have."""


class Names:
    """Look-ups for all remotes. `servers` (`address` or `address:port`) are asked instead of the system's. Make it in the loop."""

    def __init__(self, servers: Sequence[str] = ()) -> None:
        self._resolver = AsyncResolver(timeout=TRY_S, tries=TRIES, servers=list(servers) or None)

    async def look_up(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        """Every address of the name. Raises OSError when there is none, or none in time."""
        try:
            async with asyncio.timeout(LIMIT_S):
                return await self._resolver.resolve(host, port, family)
        except TimeoutError:
            raise OSError(f"{host} was not found in time") from None

    async def close(self) -> None:
        await self._resolver.close()


class Guard(AbstractResolver):
    """The addresses one host may be reached at."""

    def __init__(self, names: Names, host: str, allowed: Allowed) -> None:
        self._names = names
        self._host = host
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Those of the name's addresses that may be connected to. Raises AddressRefused when none may, OSError."""
        found = await self._names.look_up(host, port, family)
        usable = [result for result in found if self._may_connect(result["host"])]
        if not usable:
            raise AddressRefused(f"{host} has no public address")
        return usable

    async def close(self) -> None:
        """Nothing of its own."""

    def open_socket(self, info: Any) -> socket.socket:
        """A socket for this very address (of `getaddrinfo`'s shape), which is then connected to it. Raises AddressRefused."""
        family, kind, protocol, _, where = info
        if not self._may_connect(str(where[0])):
            raise AddressRefused(f"{self._host} is not at a public address")
        return socket.socket(family, kind, protocol)

    def _may_connect(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:  # with a zone: link-local
            return False
        return self._allowed.may_connect(self._host, address)


def connector_to(host: str, *, names: Names, allowed: Allowed, limit: int) -> aiohttp.TCPConnector:
    """Connections to `host` (of a URL that `check_url` let pass), `limit` at a time; who comes then waits for one.

    Raises AddressRefused for an address in the place of a name. TLS is verified by what OpenSSL trusts.
    """
    guard = Guard(names, host, allowed)
    address = literal(host)
    if address is not None and not allowed.may_connect(host, address):
        raise AddressRefused(f"{host} is not a public address")
    return aiohttp.TCPConnector(
        resolver=guard,
        use_dns_cache=False,
        socket_factory=guard.open_socket,
        limit=limit,
        keepalive_timeout=IDLE_S,
    )
