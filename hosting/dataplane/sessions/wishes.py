"""What a client has asked for that holds from then on, where its server keeps no session: the log level, and the resources it watches.

Written down where all nodes look (`renewals.py`). The level goes with every request, so each node asks for it at most once in LEVEL_S
per session: what is set at one node holds at the others within a second. Redis away: this node goes on with what it knows, and what
is wished meanwhile holds here. This process crashes: only that is lost.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field

from hosting.dataplane.contract import Route
from hosting.dataplane.sessions.renewals import (
    LEVELS,
    MAX_SUBSCRIPTIONS,
    MAX_URI,
    SET_LEVEL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Memory,
    Renewals,
)
from hosting.dataplane.sessions.session import Session

LEVEL_S = 0.8  # how old what a node knows of a level may be
AWAY_S = 5.0  # how long Redis is left alone once it was away
KEPT = 50_000  # sessions a node knows the wishes of
KEPT_BYTES = 4096  # of one session's URIs, for when Redis is away


@dataclass(slots=True)
class _Known:
    """`is_own_*`: set here, and Redis does not know."""

    level: str = ""
    levels_set: int = 0
    is_own_level: bool = False
    looked_at: float = -LEVEL_S
    own_uris: dict[str, bool] = field(
        default_factory=dict
    )  # wished here and not written down: watched, or no more
    uris: tuple[str, ...] = ()


class Wishes:
    """One per process. Nothing here raises because of Redis."""

    def __init__(self, renewals: Renewals) -> None:
        self._renewals = renewals
        self._known: OrderedDict[tuple[str, bytes], _Known] = OrderedDict()
        self._away_until = 0.0

    async def set_level(self, session: Session, route: Route, level: object) -> bool:
        """False for what is no level."""
        if not isinstance(level, str) or not level.isascii() or level.encode() not in LEVELS:
            return False
        known = self._of(session, route)
        known.level, known.is_own_level, known.looked_at = level, True, time.monotonic()
        known.levels_set += 1
        known.is_own_level = not await self._note(session, route, SET_LEVEL, {"level": level})
        return True

    async def level(self, session: Session, route: Route) -> str:
        """As the client set it; empty when it never did."""
        known = self._of(session, route)
        if time.monotonic() - known.looked_at >= LEVEL_S:
            await self._look(known, session, route)
        return known.level

    async def watch(self, session: Session, route: Route, uri: str, *, is_wanted: bool) -> bool:
        """Subscribes or unsubscribes; False when the session watches too much, or the URI is too long."""
        known = self._of(session, route)
        if not _is_fit(uri):
            return False
        if is_wanted:
            watched = await self.watched(session, route)
            if uri not in watched and len(watched) >= MAX_SUBSCRIPTIONS:
                return False
        if await self._note(session, route, SUBSCRIBE if is_wanted else UNSUBSCRIBE, {"uri": uri}):
            known.own_uris.pop(uri, None)
            return True
        own = {**known.own_uris, uri: is_wanted}
        if sum(map(len, own)) > KEPT_BYTES:
            return False
        known.own_uris = own
        return True

    async def watched(self, session: Session, route: Route) -> tuple[str, ...]:
        """URIs, sorted."""
        known = self._of(session, route)
        memory = await self._look(known, session, route)
        written = known.uris if memory is None else memory.subscriptions
        uris = set(written) | {uri for uri, is_wanted in known.own_uris.items() if is_wanted}
        return tuple(sorted(uris - {uri for uri, is_wanted in known.own_uris.items() if not is_wanted}))

    def forget(self, session: Session, route: Route) -> None:
        self._known.pop((route.environment, session.jti), None)

    def _of(self, session: Session, route: Route) -> _Known:
        key = (route.environment, session.jti)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known()
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return known

    async def _look(self, known: _Known, session: Session, route: Route) -> Memory | None:
        """What Redis knows; None when it is away."""
        known.looked_at = time.monotonic()
        if known.looked_at < self._away_until:
            return None
        levels_set = known.levels_set
        memory: Memory = await self._renewals.recall(session, route)
        if memory.is_away:
            self._away_until = time.monotonic() + AWAY_S
            return None
        is_small = sum(map(len, memory.subscriptions)) <= KEPT_BYTES
        known.uris = memory.subscriptions if is_small else ()
        is_newer = known.levels_set == levels_set  # than what was set: nothing was while we looked
        if is_newer and not known.is_own_level:
            known.level = memory.level
        return memory

    async def _note(self, session: Session, route: Route, method: str, params: dict[str, str]) -> bool:
        if time.monotonic() < self._away_until:
            return False
        began = time.monotonic()
        is_written = await self._renewals.note(session, route, method, params)
        if not is_written and time.monotonic() - began >= 0.9:  # it did not answer
            self._away_until = time.monotonic() + AWAY_S
        return is_written


def _is_fit(uri: str) -> bool:
    try:
        return len(uri.encode()) <= MAX_URI
    except UnicodeEncodeError:  # half a surrogate pair: no server could be told
        return False
