"""The frame every request goes through, in this order: host, address, suspension, Origin, method, caller, capacity; then it is the
endpoint's (`endpoint.py`), or another door's (`doors/`).

What can be refused early is, before a byte of the body is read. Whatever goes wrong becomes one JSON-RPC error with the
right HTTP status; a surprise is logged with its traceback and told as nothing but that.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time

from hosting.dataplane.call import EMPTY, JSON, PROBLEM, Call
from hosting.dataplane.contract import Route
from hosting.dataplane.door.admission import Admission, budget_s
from hosting.dataplane.door.auth import Caller, authenticate
from hosting.dataplane.door.exchange import ClientGone, Exchange
from hosting.dataplane.door.origins import Origins, preflight
from hosting.dataplane.doors.doors import Doors, check_method, name_session
from hosting.dataplane.doors.headers import REQUEST_HEADERS
from hosting.dataplane.doors.policy import OWN_DOORS, is_allowed
from hosting.dataplane.endpoint import Endpoint
from hosting.dataplane.facts.addresses import Hosts, Knock, split_host
from hosting.dataplane.facts.follow import Follower
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.breaker import judged
from hosting.dataplane.forwarding.passage import Passage
from hosting.dataplane.forwarding.proxy import Proxy
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.protocol.errors import (
    DRAINING,
    INTERNAL,
    RETRY_SOON,
    STARTING,
    SUSPENDED,
    UNKNOWN_ADDRESS,
    UNKNOWN_HOST,
    Headers,
    Refusal,
)
from hosting.dataplane.sessions.mailbox import Mailbox
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.logs import log
from hosting.dataplane.telemetry.metrics import Metrics
from hosting.dataplane.telemetry.reports import Reports


class Gateway:
    """All requests of one process. Its parts are made and ended by `app.py`."""

    def __init__(
        self,
        *,
        settings: Settings,
        follower: Follower,
        endpoint: Endpoint,
        proxy: Proxy,
        passage: Passage,
        mailbox: Mailbox,
        streams: Streams,
        reports: Reports,
        metrics: Metrics,
    ) -> None:
        self.is_draining = False  # told to end
        self.is_closed = False  # and nobody new is served any more
        self._settings = settings
        self._follower = follower
        self._endpoint = endpoint
        self._reports = reports
        self._metrics = metrics
        self._hosts = Hosts(shared=settings.shared_hosts, domain=settings.domain)
        self._origins = Origins(settings)
        self._admission = Admission(settings, metrics)
        self._total = 0
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_ending = False
        self._numbers = itertools.count()
        self._doors = Doors(
            settings=settings,
            passage=passage,
            proxy=proxy,
            streams=streams,
            mailbox=mailbox,
            serve=self.handle,
            is_draining=lambda: self.is_draining,
        )

    @property
    def in_flight(self) -> int:
        return self._total

    async def wait_idle(self) -> None:
        """Until no request is in flight."""
        while self._total:
            self._idle.clear()
            await self._idle.wait()

    def end_rest(self) -> None:
        """The time is up: whoever still waits for an answer is told that the gateway is shutting down."""
        self._is_ending = True
        for task in self._tasks:
            task.cancel()

    async def handle(self, exchange: Exchange) -> None:
        """Answers one request, whatever happens."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        started = time.perf_counter()
        request_id = f"{self._settings.node}-{next(self._numbers):x}"
        extra: Headers = (("x-request-id", request_id),)
        outcome = "ok"
        self._total += 1
        try:
            await self._serve(exchange, request_id, extra)
        except Refusal as refusal:
            outcome = refusal.kind.outcome
            await self._refuse(exchange, refusal, extra)
        except ClientGone:
            outcome = "client_gone"
        except asyncio.CancelledError:
            if not self._is_ending:
                raise
            task.uncancel()
            outcome = DRAINING.outcome
            await self._refuse(exchange, Refusal(DRAINING, headers=RETRY_SOON), extra)
        except Exception:
            outcome = INTERNAL.outcome
            log("request.failed", level=logging.ERROR, exc_info=True, request=request_id)
            await self._refuse(exchange, Refusal(INTERNAL), extra)
        finally:
            self._total -= 1
            self._tasks.discard(task)
            if not self._total:
                self._idle.set()
            if not exchange.is_inner:
                seconds = time.perf_counter() - started
                self._metrics.answered(era=exchange.era, outcome=outcome, seconds=seconds)

    async def _refuse(self, exchange: Exchange, refusal: Refusal, extra: Headers) -> None:
        if not exchange.status:
            form, body = (JSON, refusal.body()) if exchange.is_mcp else (PROBLEM, refusal.problem())
            await exchange.answer(refusal.status, (*form, *extra, *exchange.cors, *refusal.headers), body)

    async def _serve(self, exchange: Exchange, request_id: str, extra: Headers) -> None:
        """Raises Refusal, ClientGone; by then `exchange.era` says what was spoken, if that was known."""
        began = time.monotonic()
        headers = exchange.read_headers()
        if self.is_closed and not exchange.is_inner:
            raise Refusal(DRAINING, headers=RETRY_SOON)
        table = self._follower.table
        if table is None:
            raise Refusal(STARTING, headers=RETRY_SOON)
        knock, route = self._find_route(table, exchange, headers)
        exchange.cors = self._origins.check(headers.get("origin"), host=headers["host"], route=route)
        if exchange.method == "OPTIONS" and (exchange.is_mcp or "access-control-request-method" in headers):
            asked = headers.get("access-control-request-headers")
            told = preflight(exchange.cors, asked, own=frozenset() if exchange.is_mcp else REQUEST_HEADERS)
            await exchange.answer(204, (*EMPTY, *extra, *told))
            return
        check_method(exchange, knock)
        name_session(headers, knock)
        now = time.time()
        caller = self._authenticate(headers, route, table, exchange.client, now)
        if caller.key_id:
            self._reports.used(route.tenant, caller.key_id, now)
        until = began + budget_s(headers, route.limits)
        async with self._admission.let_in(exchange, route, in_flight=self._total, until=until) as (
            share,
            place,
        ):
            cors = (*extra, *exchange.cors)
            call = Call(exchange, headers, route, caller, cors, request_id, now, share, place, until=until)
            with judged(call):
                if not await self._doors.carry(call, knock, table):
                    await self._endpoint.serve(call, knock, table)

    def _find_route(self, table: Table, exchange: Exchange, headers: dict[str, str]) -> tuple[Knock, Route]:
        host = split_host(headers.get("host", ""))
        knock = self._hosts.knock_of(host, exchange.path) if host else None
        if knock is None:
            raise Refusal(UNKNOWN_HOST)
        route = table.route_at(knock.address)
        if route is None or not is_allowed(route, knock):
            raise Refusal(UNKNOWN_ADDRESS)
        exchange.is_mcp = knock.door not in OWN_DOORS
        reason = table.suspension_of(route)
        if reason is not None:
            raise Refusal(SUSPENDED, f"{SUSPENDED.message}: {reason}" if reason else "")
        return knock, route

    def _authenticate(
        self, headers: dict[str, str], route: Route, table: Table, client: str, now: float
    ) -> Caller:
        return authenticate(
            headers.get("authorization"),
            route=route,
            table=table,
            probe_key=self._settings.probe_key,
            client=client,
            now=now,
        )
