"""Letting a request in: what it may hold of memory, its place among those in flight, and the time it has.

The time is the Environment's `answer_budget_s`, counted from the request's head, waiting for a place included. A client that wants
to wait less says so with `Prefer: wait=<seconds>` (RFC 7240, 4.3); more than the Environment's it does not get.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from hosting.dataplane.contract import Limits, Route
from hosting.dataplane.door.exchange import Exchange
from hosting.dataplane.door.held import Holdings, Share
from hosting.dataplane.door.places import Place, Places
from hosting.dataplane.protocol.errors import OVERLOADED, RETRY_SOON, Refusal
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.metrics import Metrics

_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})(?![0-9.])", re.IGNORECASE | re.ASCII)


class Admission:
    """One per process."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._max_in_flight = settings.max_in_flight
        self._places = Places(
            tenant_requests=settings.max_tenant_in_flight,
            tenant_streams=settings.max_tenant_streams,
            metrics=metrics,
        )
        self._holdings = Holdings(
            process_bytes=settings.max_held_bytes, tenant_bytes=settings.max_tenant_held_bytes
        )
        metrics.held.set_function(lambda: self._holdings.held)

    @asynccontextmanager
    async def let_in(
        self, exchange: Exchange, route: Route, *, in_flight: int, until: float
    ) -> AsyncIterator[tuple[Share, Place]]:
        """For as long as the request lasts. `in_flight` is the process's, `until` (monotonic) when its time is up.

        Raises Refusal (429, 503), ClientGone.
        """
        if in_flight > self._max_in_flight:
            raise Refusal(OVERLOADED, headers=RETRY_SOON)
        share = self._holdings.open(route.tenant)
        try:
            place = await self._places.enter(
                route,
                is_stream=exchange.is_upgrade or (exchange.is_mcp and exchange.method == "GET"),
                within_s=max(0.0, min(route.limits.queue_wait_s, until - time.monotonic())),
                gone=lambda: exchange.wait_gone_unread(share),
            )
            try:
                yield share, place
            finally:
                place.leave()
        finally:
            share.close()


def budget_s(headers: Mapping[str, str], limits: Limits) -> float:
    """Seconds until an answer must be complete: the Environment's bound, or less where the client wants less."""
    preferred = headers.get("prefer")
    found = _WAIT.search(preferred) if preferred is not None else None
    return limits.answer_budget_s if found is None else min(float(found.group(1)), limits.answer_budget_s)
