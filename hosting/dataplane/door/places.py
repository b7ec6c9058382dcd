"""Bulkheads: how many requests an Environment and a tenant may have in flight on this node, and who waits for a place.

A request needs a place among its Environment's (`Limits.concurrency`) and among its tenant's. Who finds none waits in line: bounded
in number, per Environment and per tenant, and in time; first come, first served within an Environment, and by turns between a tenant's
Environments when it is the tenant's places that are short, so that a busy Server of a tenant does not starve the others. Who leaves
the line is not served. Streams that only listen have places of their own and do not wait: theirs are held for hours.

A place that becomes free goes straight to whoever is next, so nobody overtakes the line. Nothing here outlives its requests.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from hosting.dataplane.contract import Limits, Route
from hosting.dataplane.door.exchange import ClientGone
from hosting.dataplane.protocol.errors import BUSY, TENANT_BUSY, Headers, Kind, Refusal
from hosting.dataplane.settings import waiting_of
from hosting.dataplane.telemetry.metrics import Metrics, WaitOutcome

LEFT: WaitOutcome = "left"
NO_PLACE_IN_TIME = "no place became free in time: too many requests are in flight for this {}"


class _Tenant:
    """A tenant's requests, or its listening streams."""

    __slots__ = ("is_listening", "key", "lanes", "share", "taken", "turns", "waiting")

    def __init__(self, key: tuple[str, bool], share: int) -> None:
        self.key = key
        self.is_listening = key[1]
        self.share = share
        self.taken = 0
        self.waiting = 0
        self.lanes: dict[str, _Lane] = {}
        self.turns: deque[_Lane] = deque()  # those somebody waits in, in the order of their turns


class _Lane:
    """One Environment's part of them."""

    __slots__ = ("route", "taken", "tenant", "waiting")

    def __init__(self, route: Route, tenant: _Tenant) -> None:
        self.route = route  # as the last request found it
        self.tenant = tenant
        self.taken = 0
        self.waiting: deque[asyncio.Future[Place]] = deque()

    @property
    def limits(self) -> Limits:
        return self.route.limits

    @property
    def has_room(self) -> bool:
        return self.taken < self.limits.concurrency

    @property
    def bound(self) -> Kind:
        """Whose bound it is that keeps a request out."""
        return BUSY if not self.has_room else TENANT_BUSY


class Place:
    """One request's; leave it in `finally`."""

    __slots__ = ("_lane", "_places")

    def __init__(self, places: Places, lane: _Lane) -> None:
        self._places = places
        self._lane: _Lane | None = lane

    def listen(self) -> None:
        """For a request that turns out to open a listening stream: a place among those. Raises Refusal."""
        if self._lane is not None and not self._lane.tenant.is_listening:
            self._lane = self._places.move(self._lane)

    def leave(self) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            self._places.free(lane)


class Places:
    """One per process."""

    def __init__(self, *, tenant_requests: int, tenant_streams: int, metrics: Metrics) -> None:
        self._share = {False: tenant_requests, True: tenant_streams}
        self._tenant_queue = waiting_of(tenant_requests)
        self._metrics = metrics
        self._tenants: dict[tuple[str, bool], _Tenant] = {}

    async def enter(
        self, route: Route, *, is_stream: bool, within_s: float, gone: Callable[[], Awaitable[None]]
    ) -> Place:
        """A place, at once or after waiting for it until `gone` returns, `within_s` at most.

        Raises Refusal (429, with Retry-After), ClientGone, and what `gone` raises.
        """
        lane = self._lane(route, is_stream)
        tenant = lane.tenant
        if not lane.waiting and lane.has_room and tenant.taken < tenant.share:
            return self._take(lane)
        try:
            return await self._wait(lane, within_s, gone)
        finally:
            self._forget_if_idle(lane)

    def move(self, lane: _Lane) -> _Lane:
        """From the requests' places to the listening streams'. Raises Refusal, and then nothing has changed."""
        other = self._lane(lane.route, True)
        if not (other.has_room and other.tenant.taken < other.tenant.share):
            self._metrics.place_refused("streams")
            bound = other.bound
            self._forget_if_idle(other)
            raise Refusal(bound, headers=_retry_after(lane.limits.queue_wait_s))
        other.taken += 1
        other.tenant.taken += 1
        self._give_back(lane)
        return other

    def free(self, lane: _Lane) -> None:
        self._metrics.in_flight.dec()
        self._give_back(lane)

    def _give_back(self, lane: _Lane) -> None:
        was_tenant_full = lane.tenant.taken >= lane.tenant.share
        lane.taken -= 1
        lane.tenant.taken -= 1
        if lane.tenant.waiting:
            self._hand_on(lane, by_turns=was_tenant_full)
        self._forget_if_idle(lane)

    async def _wait(self, lane: _Lane, within_s: float, gone: Callable[[], Awaitable[None]]) -> Place:
        tenant, bound = lane.tenant, lane.bound
        name = "tenant" if bound is TENANT_BUSY else "server"
        is_full = len(lane.waiting) >= lane.limits.queue or tenant.waiting >= self._tenant_queue
        if tenant.is_listening or is_full:
            self._metrics.place_refused("streams" if tenant.is_listening else "full")
            raise Refusal(bound, headers=_retry_after(lane.limits.queue_wait_s))
        promise: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._line_up(lane, promise)
        leaving = asyncio.ensure_future(gone())
        began, outcome = time.monotonic(), LEFT
        try:
            both: set[asyncio.Future[Any]] = {promise, leaving}
            await asyncio.wait(both, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                leaving.result()
                raise ClientGone
            if not promise.done():
                outcome = "late"
                raise Refusal(bound, NO_PLACE_IN_TIME.format(name), headers=_retry_after(within_s))
            outcome = "placed"
            return promise.result()
        finally:
            leaving.cancel()
            if outcome != "placed":
                self._step_out(lane, promise)
            self._metrics.waited(outcome, time.monotonic() - began)

    def _line_up(self, lane: _Lane, promise: asyncio.Future[Place]) -> None:
        if not lane.waiting:
            lane.tenant.turns.append(lane)
        lane.waiting.append(promise)
        lane.tenant.waiting += 1
        self._metrics.waiting.inc()
        if lane.has_room and lane.tenant.taken < lane.tenant.share:  # the bound was raised meanwhile
            self._hand_on(lane, by_turns=False)

    def _step_out(self, lane: _Lane, promise: asyncio.Future[Place]) -> None:
        """Out of the line; or a place that came just now goes on to the next."""
        if promise.done():
            promise.result().leave()
            return
        lane.waiting.remove(promise)
        lane.tenant.waiting -= 1
        self._metrics.waiting.dec()
        if not lane.waiting:
            lane.tenant.turns.remove(lane)

    def _hand_on(self, lane: _Lane, *, by_turns: bool) -> None:
        """What has become free: to this lane's own line, or to the tenant's lines by turns."""
        tenant = lane.tenant
        if not by_turns:
            while lane.waiting and lane.has_room and tenant.taken < tenant.share:
                self._serve_first(lane)
            return
        for _ in range(len(tenant.turns)):
            if tenant.taken >= tenant.share:
                return
            first = tenant.turns[0]
            if first.has_room:
                self._serve_first(first)
            if first.waiting:
                tenant.turns.rotate(-1)

    def _serve_first(self, lane: _Lane) -> None:
        promise = lane.waiting.popleft()
        lane.tenant.waiting -= 1
        self._metrics.waiting.dec()
        if not lane.waiting:
            lane.tenant.turns.remove(lane)
        promise.set_result(self._take(lane))

    def _take(self, lane: _Lane) -> Place:
        lane.taken += 1
        lane.tenant.taken += 1
        self._metrics.in_flight.inc()
        return Place(self, lane)

    def _lane(self, route: Route, is_stream: bool) -> _Lane:
        key = (route.tenant, is_stream)
        tenant = self._tenants.get(key)
        if tenant is None:
            tenant = self._tenants[key] = _Tenant(key, self._share[is_stream])
        lane = tenant.lanes.get(route.environment)
        if lane is None:
            lane = tenant.lanes[route.environment] = _Lane(route, tenant)
        lane.route = route
        return lane

    def _forget_if_idle(self, lane: _Lane) -> None:
        tenant = lane.tenant
        if not lane.taken and not lane.waiting and tenant.lanes.get(lane.route.environment) is lane:
            del tenant.lanes[lane.route.environment]
            if not tenant.lanes and self._tenants.get(tenant.key) is tenant:
                del self._tenants[tenant.key]


def _retry_after(wait_s: float) -> Headers:
    """As long as the line is worth waiting in; whole seconds, from 1."""
    return (("retry-after", str(max(1, math.ceil(wait_s)))),)
