"""MCP sessions that need no look-up: everything a node must know of one is sealed in its own id.

An id binds the tenant and Environment (additional data), the Principal, the pinned Release and the server's own session id.
Whoever presents it must be the Principal who opened it; a stranger's, forged, expired or revoked id is one and the same
`UnknownSession`, and the server behind never hears of it. Ids live MAX_LIFE_S; a node that crashes loses none.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from hosting.dataplane.contract import Era, Route
from hosting.dataplane.sessions.seal import NotSealed, Seal, derive_key

MAX_LIFE_S = 30 * 24 * 3600
MAX_ID = 512
OPENED_KEPT = 2_000  # a session's id comes with each of its requests; more than this would be felt in memory
MAX_UPSTREAM_ID = 256
MAX_CLIENT_TEXT = 64  # bytes of what a client calls itself, name and version each
_LAYOUT = 2
_HEAD = struct.Struct(">B16s8sIIHB")  # layout, jti, principal tag, issued at, expires at, capabilities, leg
_LEGS: tuple[Era, Era] = ("legacy", "modern")

CAPABILITIES = (
    "roots",
    "sampling",
    "elicitation",
    "elicitation.url",
    "tasks",
    "experimental",
    "sampling.tools",
    "extensions",
    "roots.listChanged",
    "elicitation.form",
)


class UnknownSession(Exception):
    """No session of this caller at this Environment, for whatever reason."""


@dataclass(frozen=True, slots=True)
class Session:
    """One open session, as sealed in its id. Times in whole seconds since the epoch."""

    jti: bytes  # 16 random bytes
    principal: bytes  # tag, 8 bytes
    issued_at: int
    expires_at: int
    revision: str  # negotiated protocol revision
    capabilities: int  # of the client, bits in the order of CAPABILITIES
    leg: Era  # which era is spoken upstream
    release: str
    upstream_id: str  # the server's own session id; empty: it has none
    client_name: str = ""  # as the client calls itself; only kept where a server is told with every request
    client_version: str = ""

    @property
    def handle(self) -> str:
        """How the planes name this session without its id: first 8 bytes of sha256(jti), hex."""
        return _handle_of(self.jti)


@lru_cache(maxsize=OPENED_KEPT)
def _handle_of(jti: bytes) -> str:
    return hashlib.sha256(jti).hexdigest()[:16]


def capability_bits(capabilities: Mapping[str, object]) -> int:
    """What of a client's declared capabilities the gateway must remember."""
    bits = 0
    for bit, name in enumerate(CAPABILITIES):
        outer, _, inner = name.partition(".")
        declared = capabilities.get(outer)
        if declared is not None and (not inner or (isinstance(declared, Mapping) and inner in declared)):
            bits |= 1 << bit
    return bits


def capabilities_of(bits: int) -> dict[str, dict[str, Any]]:
    """The capabilities a client declared, as far as `capability_bits` remembers them."""
    made: dict[str, dict[str, Any]] = {}
    for bit, name in enumerate(CAPABILITIES):
        if bits & 1 << bit:
            outer, _, inner = name.partition(".")
            made.setdefault(outer, {}).update(
                {inner: True if inner == "listChanged" else {}} if inner else {}
            )
    return made


def _pack(session: Session) -> bytes:
    head = _HEAD.pack(
        _LAYOUT,
        session.jti,
        session.principal,
        session.issued_at,
        session.expires_at,
        session.capabilities,
        _LEGS.index(session.leg),
    )
    texts = [
        text.encode()
        for text in (session.revision, session.release, session.client_name, session.client_version)
    ]
    return head + b"".join(bytes((len(text),)) + text for text in texts) + session.upstream_id.encode()


def _unpack(plain: bytes) -> Session:
    layout, jti, principal, issued_at, expires_at, capabilities, leg = _HEAD.unpack_from(plain)
    if layout != _LAYOUT:
        raise ValueError("another layout")
    texts, at = [], _HEAD.size
    for _ in range(4):
        end = at + 1 + plain[at]
        texts.append(plain[at + 1 : end].decode())
        at = end
    revision, release, client_name, client_version = texts
    return Session(
        jti,
        principal,
        issued_at,
        expires_at,
        revision,
        capabilities,
        _LEGS[leg],
        release,
        plain[at:].decode(),
        client_name,
        client_version,
    )


class Sessions:
    """Mints and opens session ids. Does no I/O."""

    def __init__(self, ring: Mapping[str, bytes]) -> None:
        self._seal = Seal(ring, "session")
        self._opened: dict[
            tuple[str, str, str, str], Session
        ] = {}  # by whom and where, so nobody opens another's
        keys = [derive_key(key, "principal") for key in ring.values()]
        self._tags = lru_cache(maxsize=10_000)(
            lambda principal: tuple(hmac.digest(key, principal.encode(), "sha256")[:8] for key in keys)
        )

    def new(self, *, principal: str, now: float, capabilities: int, life_s: int = MAX_LIFE_S) -> Session:
        """A session that is still to be opened upstream: revision, Release and upstream id come later."""
        issued_at = int(now)
        return Session(
            jti=os.urandom(16),
            principal=self._tags(principal)[0],
            issued_at=issued_at,
            expires_at=issued_at + life_s,
            revision="",
            capabilities=capabilities,
            leg="legacy",
            release="",
            upstream_id="",
        )

    def mint(self, session: Session, route: Route) -> str:
        """The id a client is given. Raises ValueError when it would not fit (a Release or revision of absurd length)."""
        text = self._seal.seal(_pack(session), _context(route))
        if len(text) > MAX_ID:
            raise ValueError("the session id would be too long")
        return text

    def open(self, text: str, *, route: Route, principal: str, now: float) -> Session:
        """Raises UnknownSession. Whether it was revoked is the caller's question to the table."""
        key = (route.tenant, route.environment, principal, text)
        session = self._opened.get(key)
        if session is None:
            session = self._open(text, route=route, principal=principal)
            if len(self._opened) >= OPENED_KEPT:
                self._opened.clear()
            self._opened[key] = session
        if not session.issued_at - 60 <= now < session.expires_at:
            raise UnknownSession
        return session

    def _open(self, text: str, *, route: Route, principal: str) -> Session:
        if len(text) > MAX_ID:
            raise UnknownSession
        try:
            session = _unpack(self._seal.open(text, _context(route)))
        except (NotSealed, ValueError, IndexError, struct.error) as exc:
            raise UnknownSession from exc
        if session.principal not in self._tags(principal):
            raise UnknownSession
        return session


def opened(session: Session, *, revision: str, release: str, upstream_id: str) -> Session:
    """The session once its server has answered `initialize`."""
    return replace(session, revision=revision, release=release, upstream_id=upstream_id)


def opened_without_server(session: Session, *, revision: str, release: str, client: object) -> Session:
    """The session of a server that knows of none: every request tells it what `initialize` told us. `client`: as given there."""
    told = client if isinstance(client, Mapping) else {}
    return replace(
        session,
        leg="modern",
        revision=revision,
        release=release,
        client_name=client_text(told.get("name")),
        client_version=client_text(told.get("version")),
    )


def client_text(said: object) -> str:
    """At most MAX_CLIENT_TEXT bytes of it, of whole characters; halves of surrogate pairs are left out."""
    text = said if isinstance(said, str) else ""
    return text[:MAX_CLIENT_TEXT].encode(errors="ignore")[:MAX_CLIENT_TEXT].decode(errors="ignore")


def _context(route: Route) -> bytes:
    return f"sid\0{route.tenant}\0{route.environment}".encode()
