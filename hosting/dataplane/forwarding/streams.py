"""All streams that are open on this node, so that a drain and the end of somebody's access find them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from hosting.dataplane.call import Call, Errand
from hosting.dataplane.contract import AnyFact, Route
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.pace import Line, Pace
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.telemetry.metrics import Metrics
from hosting.dataplane.telemetry.reports import Reports

MAX_PACES = 10_000
# "moved": the client has come back at another connection; "lost": another node goes on with the stream.
StopReason = Literal["client_gone", "drain", "revoked", "moved", "lost"]


class Stream(Protocol):
    """Something open to a client that can be ended from outside."""

    @property
    def is_listening(self) -> bool:
        """Nobody is owed an answer on it."""

    def is_admitted(self, table: Table) -> bool:
        """Whether its caller would still be let in."""

    def stop(self, reason: StopReason) -> None: ...


@dataclass(frozen=True, slots=True)
class Holder:
    """Who opened something that stays open, and under which session (None: none yet)."""

    route: Route
    kind: str
    key_id: str
    session: Session | None

    def is_admitted(self, table: Table) -> bool:
        """Whether they would still be let in: a stream must not outlive what opened it."""
        route, session = table.route_now(self.route), self.session
        if route is None or table.suspension_of(route) is not None:
            return False
        if self.kind != "probe" and self.kind not in route.access:
            return False
        if session is not None and table.has_ended(route, session.handle, session.issued_at):
            return False
        return self.kind != "api_key" or table.has_credential(self.route.tenant, self.key_id)


def holder_of(call: Errand, session: Session | None) -> Holder:
    return Holder(call.route, call.caller.kind, call.caller.key_id, session)


def is_admitted(call: Call, session: Session | None, table: Table) -> bool:
    """Whether the caller would still be let in."""
    return holder_of(call, session).is_admitted(table)


Recheck = Callable[[Table, AnyFact | None], None]


def end_with_key(call: Call, stream: Stream) -> asyncio.TimerHandle | None:
    """Stops the stream when the caller's key runs out, which is nobody's fact to tell; None for one that never does. To be cancelled."""
    expires_at = call.caller.expires_at
    if expires_at is None:
        return None
    left_s = max(0.0, expires_at - time.time())
    return asyncio.get_running_loop().call_later(left_s, stream.stop, "revoked")


class Streams:
    """Kept by tenant: one tenant's changes never look at another's streams."""

    def __init__(self, *, reports: Reports, metrics: Metrics) -> None:
        self._reports = reports
        self._metrics = metrics
        self._is_draining = False
        self._open: dict[str, set[Stream]] = {}
        self._also: list[Recheck] = []
        self._lines: dict[str, Line] = {}
        self._paces: dict[tuple[str, str], Pace] = {}

    def pace_of(self, tenant: str, environment: str = "") -> Pace:
        found = self._paces.get((tenant, environment))
        if found is None:
            if len(self._paces) >= MAX_PACES:
                self._paces = {key: pace for key, pace in self._paces.items() if not pace.is_idle}
                self._lines = {key[0]: self._lines[key[0]] for key in self._paces}
            line = self._lines.setdefault(tenant, Line())
            found = self._paces[tenant, environment] = Pace(line)
        return found

    @asynccontextmanager
    async def open(self, call: Call, release: str, stream: Stream) -> AsyncIterator[None]:
        tenant = call.route.tenant
        of_tenant = self._open.setdefault(tenant, set())
        of_tenant.add(stream)
        self._metrics.streams.inc()
        if not call.is_probe:
            self._reports.stream_opened(call.route, release)
        if self._is_draining:
            asyncio.get_running_loop().call_soon(self._send_elsewhere, of_tenant, stream)
        try:
            yield
        finally:
            of_tenant.discard(stream)
            if not of_tenant and self._open.get(tenant) is of_tenant:
                del self._open[tenant]
            self._metrics.streams.dec()
            if not call.is_probe:
                self._reports.stream_closed(call.route, release)

    def also(self, recheck: Recheck) -> None:
        """Somebody else who keeps open what callers opened."""
        self._also.append(recheck)

    def recheck(self, table: Table, fact: AnyFact | None) -> None:
        """Ends the streams of callers who would no longer be let in: after one fact, or (None) after a full reload."""
        tenants = list(self._open) if fact is None else [fact.tenant]
        for tenant in tenants:
            for stream in list(self._open.get(tenant, ())):
                if not stream.is_admitted(table):
                    stream.stop("revoked")
        for recheck in self._also:
            recheck(table, fact)

    def stop_listening(self) -> None:
        """The first act of a drain: whoever only listens, or comes to, can listen elsewhere."""
        self._is_draining = True
        self._stop(listening_only=True)

    def _send_elsewhere(self, of_tenant: set[Stream], stream: Stream) -> None:
        if stream in of_tenant and stream.is_listening:
            stream.stop("drain")

    def stop_all(self) -> None:
        """The last act: the time is up."""
        self._stop(listening_only=False)

    def _stop(self, *, listening_only: bool) -> None:
        for streams in list(self._open.values()):
            for stream in list(streams):
                if stream.is_listening or not listening_only:
                    stream.stop("drain")
