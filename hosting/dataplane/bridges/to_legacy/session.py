"""One session with a legacy server, opened for one Principal's modern requests with the same client capabilities."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Protocol

from hosting.dataplane.bridges.to_legacy.answers import params_in, text_in
from hosting.dataplane.bridges.to_legacy.facts import UPDATED, Facts, Interests, Key
from hosting.dataplane.call import Call, Passage
from hosting.dataplane.contract import Era, Route, Target
from hosting.dataplane.door.auth import Caller
from hosting.dataplane.door.held import Share
from hosting.dataplane.forwarding.conversation import Said
from hosting.dataplane.protocol.era import PROTOCOL_VERSION_HEADER, SESSION_HEADER


@dataclass(slots=True)
class Upkeep:
    """What outlives the request that began it: an Errand of the gateway's own."""

    route: Route
    caller: Caller
    request_id: str
    share: Share
    hops: int = 0
    is_probe: bool = False
    era: Era = "legacy"
    until: float = math.inf  # monotonic
    passage: Passage | None = None

    def within_budget(self, wait_s: float) -> float:
        return max(0.001, min(wait_s, self.until - time.monotonic()))


def upkeep_of(call: Call, *, until: float = math.inf) -> Upkeep:
    return Upkeep(call.route, call.caller, call.request_id, call.share, call.hops, call.is_probe, until=until)


MAX_PENDING = 1000  # things that changed, of one listener
MAX_PENDING_BYTES = 1024 * 1024


class Listener:
    """One `subscriptions/listen`. What it has not fetched yet is kept once for each thing that changed: whoever falls behind by more than
    MAX_PENDING of them, or MAX_PENDING_BYTES, is told that it listens no more."""

    def __init__(self, interests: Interests) -> None:
        self.interests = interests
        self.is_lost = False  # its session is over
        self._pending: dict[tuple[str, str], bytes] = {}
        self._held = 0
        self._bell = asyncio.Event()

    def hear(self, method: str, uri: str, raw: bytes) -> None:
        if self.is_lost or not self.interests.match(method, uri):
            return
        self._held += len(raw) - len(self._pending.get((method, uri), b""))
        self._pending[method, uri] = raw
        self._bell.set()
        if len(self._pending) > MAX_PENDING or self._held > MAX_PENDING_BYTES:
            self.lose()

    def lose(self) -> None:
        self.is_lost = True
        self._bell.set()

    async def next(self) -> tuple[str, bytes] | None:
        """A method and the notification; None when the session is over."""
        while not self._pending:
            if self.is_lost:
                return None
            self._bell.clear()
            await self._bell.wait()
        (method, uri), raw = next(iter(self._pending.items()))
        del self._pending[method, uri]
        self._held -= len(raw)
        return method, raw


class Asked(Protocol):
    """A call under way, to which a question on the session's stream may belong."""

    def overhear(self, said: Said) -> bool:
        """Whether the question is taken for the call's own."""


@dataclass(eq=False, slots=True)
class UpstreamSession:
    """Nothing of it is shared with another Principal or another set of capabilities."""

    key: Key
    opened_by: Upkeep
    target: Target
    facts: Facts
    upstream_id: str  # empty: the server keeps none
    is_exclusive: bool = False  # of one anonymous call, and over with it
    is_lost: bool = False  # the server does not know it any more
    users: int = 0
    used_at: float = field(default_factory=time.monotonic)
    level: str = ""  # what the server was told to tell
    levels: list[str] = field(default_factory=list)  # what the calls under way want to hear
    listeners: set[Listener] = field(default_factory=set)
    uris: Counter[str] = field(default_factory=Counter)  # subscribed to, by how many listeners
    calls: set[Asked] = field(default_factory=set)  # under way, in the midst of which the server may ask
    follower: asyncio.Task[None] | None = None  # reads the server's stream
    deaf_until: float = 0.0  # that stream failed, and is not tried before (monotonic)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # for what must happen one after the other
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def errand(self) -> Upkeep:
        """For one thing that the gateway asks by itself."""
        return replace(self.opened_by, passage=None)

    @property
    def headers(self) -> dict[str, str]:
        headers = {PROTOCOL_VERSION_HEADER: self.facts.revision}
        if self.upstream_id:
            headers[SESSION_HEADER] = self.upstream_id
        return headers

    def number(self) -> int:
        """The next request id, and progress token, of this session."""
        return next(self._numbers)

    def spread(self, method: str, raw: bytes) -> None:
        """News of the server's, to whom they interest."""
        if method.endswith("tools/list_changed"):
            self.facts.tools = None
        uri = text_in(params_in(raw), "uri") if method == UPDATED else ""
        for listener in self.listeners:
            listener.hear(method, uri, raw)

    @property
    def may_ask(self) -> bool:
        """Whether its client offers anything that a server can ask for."""
        return self.key[3] != 0

    def unfollow(self) -> None:
        follower, self.follower = self.follower, None
        if follower is not None and follower is not asyncio.current_task():
            follower.cancel()

    def lose(self) -> None:
        self.is_lost = True
        self.unfollow()
        for listener in self.listeners:
            listener.lose()
