"""One gateway process, put together: the parts in the order they start, and the other way round when it ends.

SIGTERM: /readyz turns 503 and new connections are refused; whoever only listens is sent elsewhere at once; for LAST_CALL_S a connection
that is open may bring one more request, later ones are refused; requests in flight have `drain_s` to finish, then their streams end with
an honest error; what was counted is reported; exit 0. A second SIGTERM does not wait. SIGKILL loses at most one window of reports: nothing else is only here.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable
from typing import Any

from hosting.dataplane.admin import Admin
from hosting.dataplane.bridges.to_legacy.bridge import ToLegacy
from hosting.dataplane.bridges.to_modern.bridge import ToModern
from hosting.dataplane.contract import AnyFact
from hosting.dataplane.door.server import Server
from hosting.dataplane.endpoint import Endpoint
from hosting.dataplane.facts.follow import Follower, connect_redis
from hosting.dataplane.facts.pulse import Pulse
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.asking import Asker
from hosting.dataplane.forwarding.breaker import Breakers
from hosting.dataplane.forwarding.elsewhere import Elsewhere
from hosting.dataplane.forwarding.farewell import Farewells
from hosting.dataplane.forwarding.healing import Healer
from hosting.dataplane.forwarding.journal import Journal
from hosting.dataplane.forwarding.links import Links
from hosting.dataplane.forwarding.passage import Passage
from hosting.dataplane.forwarding.proxy import Proxy
from hosting.dataplane.forwarding.replay import Resumer
from hosting.dataplane.forwarding.scripts import Scripts
from hosting.dataplane.forwarding.sending import Sender
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.gateway import Gateway
from hosting.dataplane.lifecycle import Lifecycle
from hosting.dataplane.protocol.errors import Kind
from hosting.dataplane.sessions.activity import Activity, kept_s
from hosting.dataplane.sessions.mailbox import Mailbox
from hosting.dataplane.sessions.renewals import Renewals
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.logs import log
from hosting.dataplane.telemetry.metrics import Metrics
from hosting.dataplane.telemetry.reports import Reports

HEAD_S = 15.0
FIRST_LOAD_S = 3.0
LAST_WORDS_S = 1.0
LAST_CALL_S = 2.0  # longer than a balancer keeps a connection that it does not use


class App:
    """Runs until a signal ends it. Create it inside the running loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis = connect_redis(settings.redis_url)
        self._metrics = Metrics()
        self._reports = Reports(
            installation=settings.installation,
            node=settings.node,
            window_s=settings.report_window_s,
            redis=self._redis,
            metrics=self._metrics,
        )
        self._streams = Streams(reports=self._reports, metrics=self._metrics)
        self._follower = Follower(settings, self._redis, self._on_change)
        self._scripts = Scripts(settings.dispatch_keys)
        self._passage = Passage(self._scripts.assertions)
        self._elsewhere = Elsewhere(settings)
        self._links = Links(
            self._elsewhere, settings=settings, metrics=self._metrics, pace_of=self._streams.pace_of
        )
        self._streams.also(self._links.recheck)
        self._mailbox = Mailbox(
            installation=settings.installation,
            node=settings.node,
            ring=settings.sealing_keys,
            redis=self._redis,
        )
        renewals = Renewals(
            installation=settings.installation,
            ring=settings.sealing_keys,
            redis=self._redis,
            kept_s=kept_s(settings.session_idle_s),
        )
        self._activity = Activity(
            installation=settings.installation,
            idle_s=settings.session_idle_s,
            redis=self._redis,
            renewals=renewals,
            reports=self._reports,
            metrics=self._metrics,
        )
        sender = Sender(self._scripts, self._elsewhere, self._links, Breakers(self._metrics))
        self._journal = Journal(
            installation=settings.installation,
            ring=settings.sealing_keys,
            redis_url=settings.redis_url,
            metrics=self._metrics,
            tenant_bytes=settings.max_tenant_logged_bytes,
        )
        self._farewells = Farewells(
            sender=sender,
            renewals=renewals,
            activity=self._activity,
            journal=self._journal,
            table=lambda: self._follower.table,
        )
        asker = Asker(sender=sender, healer=Healer(sender=sender, renewals=renewals, metrics=self._metrics))
        proxy = Proxy(
            settings=settings,
            sender=sender,
            asker=asker,
            journal=self._journal,
            streams=self._streams,
            reports=self._reports,
            metrics=self._metrics,
        )
        to_modern = ToModern(
            settings=settings,
            redis=self._redis,
            mailbox=self._mailbox,
            renewals=renewals,
            asker=asker,
            proxy=proxy,
            streams=self._streams,
            journal=self._journal,
        )
        self._to_legacy = ToLegacy(
            settings=settings,
            sender=sender,
            streams=self._streams,
            proxy=proxy,
            mailbox=self._mailbox,
            metrics=self._metrics,
        )
        endpoint = Endpoint(
            settings=settings,
            follower=self._follower,
            proxy=proxy,
            resumer=Resumer(
                settings=settings,
                journal=self._journal,
                asker=asker,
                proxy=proxy,
                metrics=self._metrics,
                adopt=to_modern.take_up,
            ),
            journal=self._journal,
            to_modern=to_modern,
            to_legacy=self._to_legacy,
            renewals=renewals,
            lifecycle=Lifecycle(
                activity=self._activity,
                renewals=renewals,
                streams=self._streams,
                reports=self._reports,
                metrics=self._metrics,
            ),
        )
        self._gateway = Gateway(
            settings=settings,
            follower=self._follower,
            endpoint=endpoint,
            proxy=proxy,
            passage=self._passage,
            mailbox=self._mailbox,
            streams=self._streams,
            reports=self._reports,
            metrics=self._metrics,
        )
        self._pulse = Pulse(settings)
        self._admin = Admin(
            follower=self._follower,
            journal=self._journal,
            pulse=self._pulse,
            metrics=self._metrics,
            node=settings.node,
            is_draining=lambda: self._gateway.is_draining,
        )
        self._stopping = asyncio.Event()

    def _on_change(self, table: Table, fact: AnyFact | None) -> None:
        self._streams.recheck(table, fact)
        self._farewells.heard(table, fact)

    async def run(self) -> None:
        """Raises OSError when a port is taken."""
        try:
            await self._serve()
        finally:
            await self._passage.close()
            await self._links.close()
            await self._elsewhere.close()
            await self._scripts.close()
            await self._redis.aclose()
            await self._journal.close()
            await self._pulse.close()
            await self._admin.close()

    async def _serve(self) -> None:
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        await self._admin.open(settings.admin_host, settings.admin_port)
        self._follower.load_from_disk()
        parts = (
            self._follower,
            self._reports,
            self._mailbox,
            self._activity,
            self._farewells,
            self._journal,
            self._pulse,
            self._to_legacy,
        )
        tasks = [asyncio.create_task(part.run()) for part in parts]
        await _first(FIRST_LOAD_S, self._follower.wait_loaded(), self._stopping.wait())
        server = Server(
            self._gateway.handle,
            on_refused=self._refused,
            head_s=HEAD_S,
            stalled_s=settings.stalled_client_s,
            max_connections=settings.max_in_flight * 2,
        )
        await server.start(settings.host, settings.port)
        log("gateway.started", node=settings.node, port=settings.port, admin_port=settings.admin_port)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            await self._drain(server)
        finally:
            stopping.cancel()
            await server.close(LAST_WORDS_S)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await _first(LAST_WORDS_S, asyncio.gather(self._reports.flush(), self._activity.flush()))
        log("gateway.stopped", node=settings.node)

    async def _drain(self, server: Server) -> None:
        log("gateway.draining", in_flight=self._gateway.in_flight)
        until = time.monotonic() + self._settings.drain_s
        self._gateway.is_draining = True
        self._stopping.clear()
        self._streams.stop_listening()
        await server.stop()
        await _first(min(LAST_CALL_S, self._settings.drain_s), server.wait_unused(), self._stopping.wait())
        self._gateway.is_closed = True
        server.close_unused()
        if not self._stopping.is_set():
            await _first(max(0.0, until - time.monotonic()), self._wait_idle(), self._stopping.wait())
        self._streams.stop_all()
        await _first(LAST_WORDS_S, self._gateway.wait_idle())
        self._gateway.end_rest()
        await _first(LAST_WORDS_S, self._gateway.wait_idle())
        await self._to_legacy.close()

    async def _wait_idle(self) -> None:
        await self._gateway.wait_idle()
        await self._to_legacy.wait_idle()

    def _refused(self, kind: Kind) -> None:
        self._metrics.answered(era="none", outcome=kind.outcome, seconds=0.0)


async def _first(timeout_s: float, *awaitables: Awaitable[Any]) -> None:
    """Until one of them is done, or the time is up; the others are cancelled."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
