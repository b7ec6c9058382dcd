"""The only way out of a script: HTTP to the places its upload allowed, never to a private address.

workerd hands every `fetch` of a script to its door, whatever the scheme; TLS begins here. The name is resolved here, once, and the
connection goes to an address that was checked, so a name that changes its mind between check and use gains nothing. Redirects
are the script's own business: each is a new request and a new check. `connect()` (raw TCP) is refused.

`local` are `host:port` an operator lets scripts reach although they are private: for tests and for services on the same machine.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Collection

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientError,
    ClientSession,
    TCPConnector,
    hdrs,
    web,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from edge.runtime.capnp import PROTO_HEADER
from edge.runtime.relay import Progress, answer_with, client_session, open_upstream, passed_on, target_of
from edge.scripts.model import Script

log = logging.getLogger(__name__)
PORTS = {"http": 80, "https": 443}
TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


class Refused(OSError):
    """The address is not one a script may reach."""


class Egress:
    def __init__(self, local: Collection[str]) -> None:
        self._local = frozenset(local)
        self._public: ClientSession
        self._trusted: ClientSession

    async def start(self) -> None:
        self._public = _session(PublicResolver())
        self._trusted = _session(ThreadedResolver())

    async def stop(self) -> None:
        await self._public.close()
        await self._trusted.close()

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
        session = self._trusted if is_local else self._public
        try:
            upstream = await open_upstream(request, session, url, headers, progress=progress)
        except ClientConnectorDNSError as exc:
            if isinstance(exc.os_error, Refused):
                return _refusal(f"{host} is a private address")
            return web.Response(status=530, text="error code: 1016")
        except ClientConnectorCertificateError:
            return web.Response(status=526, text="error code: 526")
        except (ClientError, OSError) as exc:
            log.info(
                "egress.failed", extra={"slot": script.slot, "host": host, "port": port, "error": repr(exc)}
            )
            return web.Response(status=502, text="error code: 502")
        return await answer_with(request, upstream, progress=progress)


class PublicResolver(AbstractResolver):
    """Resolves a name to the public ones of its addresses. The connector connects to what it is given here, no other."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises Refused when every address is private, OSError when the name does not resolve."""
        found = await self._inner.resolve(host, port, family)
        public = [result for result in found if is_public(ipaddress.ip_address(result["host"]))]
        if found and not public:
            raise Refused(f"{host} is a private address")
        return public

    async def close(self) -> None:
        await self._inner.close()


def is_allowed(host: str, port: int, allow: Collection[str]) -> bool:
    """`allow` holds `host:port` and `*.domain:port`, which means any name below that domain, not the domain itself."""
    if f"{host}:{port}" in allow:
        return True
    labels = host.split(".")
    return any(f"*.{'.'.join(labels[start:])}:{port}" in allow for start in range(1, len(labels)))


def literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address a host name is written as, in any of the spellings a resolver accepts (127.1, 0x7f000001)."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.ip_address(socket.inet_aton(host))
    except OSError:
        return None


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and any(address in network for network in TRANSLATED):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _session(resolver: AbstractResolver) -> ClientSession:
    connector = TCPConnector(resolver=resolver, use_dns_cache=False, limit=0, limit_per_host=64)
    return client_session(connector, may_retry=True)


def _refusal(reason: str) -> web.Response:
    return web.Response(status=403, text=f"Egress refused: {reason}.")
