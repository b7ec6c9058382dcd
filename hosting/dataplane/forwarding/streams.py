"""All streams that are open on this node, so that a drain and the end of somebody's access find them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hosting.dataplane.call import Call, Plan
from hosting.dataplane.contract import AnyFact
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.pace import Pace
from hosting.dataplane.forwarding.relay import Relay
from hosting.dataplane.telemetry.metrics import Metrics
from hosting.dataplane.telemetry.reports import Reports


class Streams:
    """Kept by tenant: one tenant's changes never look at another's streams."""

    def __init__(self, *, reports: Reports, metrics: Metrics) -> None:
        self._reports = reports
        self._metrics = metrics
        self._open: dict[str, set[Relay]] = {}
        self._paces: dict[str, Pace] = {}

    def pace_of(self, tenant: str) -> Pace:
        return self._paces.setdefault(tenant, Pace())

    @asynccontextmanager
    async def open(self, call: Call, plan: Plan, relay: Relay) -> AsyncIterator[None]:
        tenant, release = call.route.tenant, plan.target.release
        of_tenant = self._open.setdefault(tenant, set())
        of_tenant.add(relay)
        self._metrics.streams.inc()
        if not call.is_probe:
            self._reports.stream_opened(call.route, release)
        try:
            yield
        finally:
            of_tenant.discard(relay)
            if not of_tenant and self._open.get(tenant) is of_tenant:
                del self._open[tenant]
            self._metrics.streams.dec()
            if not call.is_probe:
                self._reports.stream_closed(call.route, release)

    def recheck(self, table: Table, fact: AnyFact | None) -> None:
        """Ends the streams of callers who would no longer be let in: after one fact, or (None) after a full reload."""
        tenants = list(self._open) if fact is None else [fact.tenant]
        for tenant in tenants:
            for relay in list(self._open.get(tenant, ())):
                if not relay.is_admitted(table):
                    relay.stop("revoked")

    def stop_listening(self) -> None:
        """The first act of a drain: whoever only listens can listen elsewhere."""
        self._stop(listening_only=True)

    def stop_all(self) -> None:
        """The last act: the time is up."""
        self._stop(listening_only=False)

    def _stop(self, *, listening_only: bool) -> None:
        for relays in list(self._open.values()):
            for relay in list(relays):
                if relay.is_listening or not listening_only:
                    relay.stop("drain")
