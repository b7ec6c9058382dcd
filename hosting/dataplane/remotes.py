"""What both planes must agree on about servers that run elsewhere: which of them may be reached, and how their headers are sealed.

A remote's URL and what its name resolves to come from a tenant, so both are an attacker's: only public addresses may be reached, and
what is public is said here once (`is_public`), for the check when it is configured and for the check of every connection.
Operators let in what is private by name or by network (SMCP_GATEWAY_REMOTE_ALLOW).

A remote's configured headers hold secrets. Whoever writes a Route has public keys only (`seal_headers`): the process behind the REST
API can seal what it cannot open again, nor what it finds in Redis. The private keys are derived from the gateway's key ring
(`open_headers`), so they rotate with it and are in no database. Nothing here does I/O.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hosting.dataplane.contract import b64url, unb64url

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# ── Which addresses ──────────────────────────────────────────────────────────────────────────────────────────────────

#: Global by the registries, and yet no place for a tenant's server: the anycast relay of 6to4, protocol assignments, and the
#: platform services of one cloud that stand at a public address.
_NOT_FOR_TENANTS: Final[tuple[Network, ...]] = (
    ipaddress.ip_network("192.0.0.0/24"),
    ipaddress.ip_network("192.88.99.0/24"),
    ipaddress.ip_network("168.63.129.16/32"),
    ipaddress.ip_network("2001::/23"),  # Teredo among them
    ipaddress.ip_network("2002::/16"),  # 6to4
    ipaddress.ip_network("3fff::/20"),
)
_UNICAST_6: Final = ipaddress.ip_network(
    "2000::/3"
)  # all that is given out; NAT64 and mapped IPv4 lie outside


def is_public(address: Address) -> bool:
    """Whether anybody on the internet may be meant. IPv4 in the clothes of IPv6 (mapped, 6to4, Teredo, NAT64) is not."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST_6:
        return False
    if any(address.version == network.version and address in network for network in _NOT_FOR_TENANTS):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def literal(host: str) -> Address | None:
    """The address a host is written as, in any of the spellings that resolvers take (127.1, 0x7f000001, 017700000001)."""
    bare = host.removeprefix("[").removesuffix("]").partition("%")[0]
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        pass
    try:
        return ipaddress.ip_address(socket.inet_aton(bare))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an operator lets tenants reach although it is private, and without TLS."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    def may_connect(self, host: str, address: Address) -> bool:
        """Whether a connection that is made for `host` may go to `address`."""
        if is_public(address) or host in self.hosts:
            return True
        return any(address.version == network.version and address in network for network in self.networks)

    def may_be_plain(self, host: str) -> bool:
        """Whether http will do."""
        address = literal(host)
        return host in self.hosts or (
            address is not None and not is_public(address) and self.may_connect(host, address)
        )


NONE_ALLOWED: Final = Allowed()


def parse_allowed(text: str) -> Allowed:
    """`name[,address][,network/bits]…`. Raises ValueError naming the entry."""
    hosts: set[str] = set()
    networks: list[Network] = []
    for entry in filter(None, (part.strip().lower() for part in text.split(","))):
        try:
            networks.append(ipaddress.ip_network(entry))
            continue
        except ValueError:
            pass
        if not _HOST.fullmatch(entry) or literal(entry) is not None:
            raise ValueError(f"“{entry}” is no host name, address or network")
        hosts.add(entry)
    return Allowed(frozenset(hosts), tuple(networks))


# ── Which URLs ───────────────────────────────────────────────────────────────────────────────────────────────────────

MAX_URL: Final = 2048
_URL: Final = re.compile(r"[!#-\[\]_a-z~]+", re.IGNORECASE | re.ASCII)  # visible ASCII without " \ ^ ` { | }
_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?)*"
)
_LOCAL_NAMES: Final = (".localhost", ".local", ".internal", ".localdomain", ".home.arpa")


def check_url(url: str, allowed: Allowed) -> str:
    """What is wrong with a remote's URL, in a sentence; empty when nothing is. What its name resolves to is seen later."""
    parts = split_url(url)
    if parts is None:
        return "Give an absolute URL such as https://mcp.example.com/mcp, in ASCII, at most 2,048 characters."
    host = parts.hostname or ""
    if parts.username is not None or parts.password is not None:
        return "A URL holds no user name or password: put them into a secret and configure a header."
    if "#" in url:
        return "A fragment (#…) is never sent."
    if parts.scheme == "http" and not allowed.may_be_plain(host):
        return "Only https: what is sent to this server must not be read on the way."
    address = literal(host)
    if address is not None:
        if str(address) != host:
            return "Write the address the usual way (four decimal numbers, or IPv6 in brackets, shortened)."
        if not allowed.may_connect(host, address):
            return "This address is not public."
    elif host not in allowed.hosts and (f".{host}".endswith(_LOCAL_NAMES) or "." not in host):
        return "This is a name for private networks."
    return ""


def split_url(url: str) -> SplitResult | None:
    """The parts of a URL that can be connected to; None for any other text."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    is_whole = parts.scheme in {"http", "https"} and port != 0
    is_named = _HOST.fullmatch(host) is not None or literal(host) is not None
    # Whatever else stands between the slashes, another reader of URLs could take for the host.
    where = f"[{host}]" if ":" in host else host
    is_plain = parts.netloc.rpartition("@")[2].lower() in {where, f"{where}:{port}"}
    is_readable = len(url) <= MAX_URL and _URL.fullmatch(url) is not None
    return parts if is_whole and is_named and is_plain and is_readable else None


# ── Which headers ────────────────────────────────────────────────────────────────────────────────────────────────────

MAX_HEADERS: Final = 16
MAX_HEADERS_BYTES: Final = 12 * 1024  # names and values; servers refuse heads of more than 16 KB
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_RESERVED: Final = frozenset(
    {
        "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "forwarded",
        "host", "keep-alive", "last-event-id", "origin", "proxy-authenticate", "proxy-authorization", "proxy-connection", "range",
        "te", "trailer", "transfer-encoding", "upgrade", "via", "x-request-id",
    }
)  # fmt: skip
_RESERVED_PREFIXES: Final = ("mcp-", "smcp-", "x-forwarded-", "sec-")


def check_header_name(name: str) -> str:
    """Why a header cannot be configured; empty when it can. Those of the connection and of MCP are the gateway's own."""
    lowered = name.lower()
    if not _TOKEN.fullmatch(name):
        return "A header's name is a token of at most 64 characters (RFC 9110, section 5.6.2)."
    if lowered in _RESERVED or lowered.startswith(_RESERVED_PREFIXES):
        return "The gateway sets this header itself."
    return ""


def is_header_value(value: str) -> bool:
    """Visible ASCII, with spaces inside: what every server reads the same way."""
    return _VALUE.fullmatch(value) is not None


# ── Sealing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

FORM: Final = "r1"
_ONCE: Final = bytes(12)  # every sealing has a key of its own, so one nonce will do
_ENVELOPE: Final = 32  # the sender's key, used once
RemoteHeaders = tuple[tuple[str, str], ...]


class CannotOpen(Exception):
    """Sealed for something else, altered, or under a key that this process does not have."""


def private_ring(ring: Mapping[str, bytes]) -> dict[str, X25519PrivateKey]:
    """The keys that open, from the gateway's key ring (`parse_keyring`)."""
    return {
        kid: X25519PrivateKey.from_private_bytes(_derived(key, b"smcp/remote", b""))
        for kid, key in ring.items()
    }


def public_ring(ring: Mapping[str, bytes]) -> dict[str, bytes]:
    """The keys that seal: 32 bytes each, good for nothing else. In the ring's order, so its first key seals."""
    return {kid: key.public_key().public_bytes_raw() for kid, key in private_ring(ring).items()}


def seal_headers(
    headers: RemoteHeaders, *, ring: Mapping[str, bytes], tenant: str, environment: str, url: str
) -> str:
    """For one Environment and one URL: whoever could change the URL in a Route could not have the headers sent there.

    Raises StopIteration for an empty ring.
    """
    kid, public = next(iter(ring.items()))
    once = X25519PrivateKey.generate()
    sender = once.public_key().public_bytes_raw()
    shared = once.exchange(X25519PublicKey.from_public_bytes(public))
    sealed = AESGCM(_derived(shared, b"smcp/remote-headers", sender + public)).encrypt(
        _ONCE, msgspec.json.encode(headers), _context(tenant, environment, url)
    )
    return f"{FORM}.{kid}.{b64url(sender + sealed)}"


def open_headers(
    text: str, *, ring: Mapping[str, X25519PrivateKey], tenant: str, environment: str, url: str
) -> RemoteHeaders:
    """Raises CannotOpen. Costs about 150 µs: keep what comes out."""
    form, _, rest = text.partition(".")
    kid, _, encoded = rest.partition(".")
    private = ring.get(kid)
    if form != FORM or private is None:
        raise CannotOpen
    try:
        raw = unb64url(encoded)
        if b64url(raw) != encoded:  # one text, one spelling
            raise CannotOpen
        sender, sealed = raw[:_ENVELOPE], raw[_ENVELOPE:]
        shared = private.exchange(X25519PublicKey.from_public_bytes(sender))
        key = _derived(shared, b"smcp/remote-headers", sender + private.public_key().public_bytes_raw())
        plain = AESGCM(key).decrypt(_ONCE, sealed, _context(tenant, environment, url))
        return msgspec.json.decode(plain, type=RemoteHeaders)
    except (ValueError, InvalidTag, msgspec.MsgspecError) as exc:
        raise CannotOpen from exc


def _derived(secret: bytes, purpose: bytes, parties: bytes) -> bytes:
    """32 bytes for one purpose between two parties (RFC 5869)."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose + b"\0" + parties).derive(
        secret
    )


def _context(tenant: str, environment: str, url: str) -> bytes:
    return f"remote\0{tenant}\0{environment}\0{url}".encode()
