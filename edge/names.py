"""Names that scripts ask for, as addresses they may reach: looked up off the system's few threads, within bounds, and checked.

One c-ares channel serves all look-ups (it keeps answers for as long as their zone says, and knows `/etc/hosts`); a name server that
says nothing costs nobody but those who asked for that name. A script has a number of look-ups in flight, the rest of its
own wait; what was not found is not looked up again for some seconds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Collection, Sequence

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import AsyncResolver

TRY_S = 1.0  # before a name server is asked again; each time longer
TRIES = 3
LIMIT_S = 4.0
IN_FLIGHT = 16
FAILED_S = 5.0
MAX_FAILED = 2000
# Not 64:ff9b:1::/48: where IPv4 stands in those is the network's own choice (RFC 8215), so they are never public.
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refused(OSError):
    """The address is not one a script may reach."""


class Names:
    """Look-ups of all scripts. `servers` (`address` or `address:port`) are asked instead of the system's."""

    def __init__(self, servers: Sequence[str] = ()) -> None:
        self._servers = list(servers)
        self._resolver: AsyncResolver
        self._failed: dict[tuple[str, int], float] = {}

    async def start(self) -> None:
        self._resolver = AsyncResolver(timeout=TRY_S, tries=TRIES, servers=self._servers or None)

    async def stop(self) -> None:
        await self._resolver.close()

    async def look_up(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        """Every address of the name, public or not. Raises OSError when there is none, or none in time."""
        key = (host, family)
        if time.monotonic() < self._failed.get(key, 0.0):
            raise OSError(f"{host} was not found a moment ago")
        try:
            async with asyncio.timeout(LIMIT_S):
                return await self._resolver.resolve(host, port, family)
        except OSError as exc:
            self._failed.pop(key, None)
            if len(self._failed) >= MAX_FAILED:
                del self._failed[next(iter(self._failed))]
            self._failed[key] = time.monotonic() + FAILED_S
            raise OSError(f"{host} was not found") from exc


class ScriptNames(AbstractResolver):
    """One script's look-ups. The connector connects to what it is given here, no other, so a name that changes gains nothing."""

    def __init__(self, names: Names, local: Collection[str]) -> None:
        self._names = names
        self._local = local
        self._turn = asyncio.Semaphore(IN_FLIGHT)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The public ones of the name's addresses, of a local service all of them.

        Raises Refused when every address is private, OSError when the name does not resolve.
        """
        name = host.lower().rstrip(".")
        async with self._turn:
            found = await self._names.look_up(name, port, family)
        if f"{name}:{port}" in self._local:
            return found
        public = [result for result in found if is_public(ipaddress.ip_address(result["host"]))]
        if not public:
            raise Refused(f"{host} is a private address")
        return public

    async def close(self) -> None:
        """Nothing of its own."""


def literal(host: str) -> Address | None:
    """The address a host name is written as, in any of the spellings a resolver accepts (127.1, 0x7f000001)."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.ip_address(socket.inet_aton(host))
    except OSError:
        return None


def is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved
