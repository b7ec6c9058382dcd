"""What the control plane learns from traffic: counted in memory, sent in batches, never waited for.

Health is summed per Environment and Release over a window; sessions are told one by one. Both go through one bounded buffer to
one Redis stream. While Redis is away the buffer fills, then the oldest reports are lost and counted; a node that dies loses
what it had not sent, at most one window.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from redis.asyncio import Redis
from redis.exceptions import RedisError

from hosting.dataplane.contract import (
    CHANGES_KEPT,
    LATENCY_BUCKETS_MS,
    PUBLISH_LUA,
    REPORTS_KEPT,
    AnyReport,
    CredentialReport,
    HealthReport,
    Keys,
    Revocation,
    Route,
    SessionReport,
    encode,
)
from hosting.dataplane.telemetry.logs import log
from hosting.dataplane.telemetry.metrics import Metrics

MAX_BUFFERED = 20_000
MAX_SESSIONS_OF_TENANT = 5_000  # reports in a window
BATCH = 500
SEND_EVERY_S = 0.25


@dataclass(slots=True)
class _Window:
    tenant: str
    started_at: float
    requests: int = 0
    failures: int = 0
    latency_ms_sum: float = 0.0
    latency_ms_max: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0
    last_failure: str = ""
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_MS) + 1))


class Reports:
    """Collects and sends. `run` never ends by itself; `flush` sends what is left at the end."""

    def __init__(
        self, *, installation: str, node: str, window_s: float, redis: Redis, metrics: Metrics
    ) -> None:
        self._keys = Keys(installation)
        self._node = node
        self._window_s = window_s
        self._redis = redis
        self._metrics = metrics
        self._windows: dict[tuple[str, str], _Window] = {}
        self._streams: dict[tuple[str, str], tuple[str, int]] = {}  # tenant, how many
        self._used: dict[tuple[str, str], float] = {}  # tenant, key → when
        self._sessions_told: dict[str, int] = {}  # tenant → reports in this window
        self._buffer: deque[bytes] = deque()
        self._revocations: deque[Revocation] = deque()
        self._publish = redis.register_script(PUBLISH_LUA)

    def answered(
        self,
        route: Route,
        release: str,
        *,
        latency_ms: float,
        failure: str,
        request_bytes: int,
        response_bytes: int,
    ) -> None:
        """One request to one Release. `failure` is empty or from a closed list."""
        window = self._window(route.tenant, route.environment, release)
        window.requests += 1
        window.latency_ms_sum += latency_ms
        window.latency_ms_max = max(window.latency_ms_max, latency_ms)
        window.buckets[bisect_left(LATENCY_BUCKETS_MS, latency_ms)] += 1
        window.request_bytes += request_bytes
        window.response_bytes += response_bytes
        if failure:
            window.failures += 1
            window.last_failure = failure

    def streamed(self, route: Route, release: str, size: int) -> None:
        """Bytes that went out on a stream after its first."""
        self._window(route.tenant, route.environment, release).response_bytes += size

    def stream_opened(self, route: Route, release: str) -> None:
        key = (route.environment, release)
        self._streams[key] = (route.tenant, self._open_streams(key) + 1)

    def stream_closed(self, route: Route, release: str) -> None:
        key = (route.environment, release)
        left = self._open_streams(key) - 1
        if left > 0:
            self._streams[key] = (route.tenant, left)
        else:
            self._streams.pop(key, None)

    def used(self, tenant: str, key_id: str, now: float) -> None:
        """An API key let somebody in."""
        self._used[tenant, key_id] = now

    def session(self, report: SessionReport) -> None:
        """One tenant's sessions cannot crowd out what others have to tell: beyond its share of a window they are lost and counted."""
        told = self._sessions_told[report.tenant] = self._sessions_told.get(report.tenant, 0) + 1
        if told > MAX_SESSIONS_OF_TENANT:
            self._metrics.reports_lost.inc()
            return
        self._put(report)

    def revoke(self, revocation: Revocation) -> None:
        """Tells the other nodes of a session that was ended here; kept until Redis has it."""
        self._revocations.append(revocation)
        if len(self._revocations) > MAX_BUFFERED:
            self._revocations.popleft()
            self._metrics.reports_lost.inc()

    async def run(self) -> None:
        close_at = time.monotonic() + self._window_s
        while True:
            await asyncio.sleep(SEND_EVERY_S)
            try:
                if time.monotonic() >= close_at:
                    close_at = time.monotonic() + self._window_s
                    self._close_windows()
                await self._send()
            except Exception:  # a surprise must not end a gateway, nor the reports after it
                log("reports.failed", level=logging.ERROR, exc_info=True)

    async def flush(self) -> None:
        self._close_windows()
        await self._send()

    def _window(self, tenant: str, environment: str, release: str) -> _Window:
        window = self._windows.get((environment, release))
        if window is None:
            window = self._windows[environment, release] = _Window(tenant, time.time())
        return window

    def _open_streams(self, key: tuple[str, str]) -> int:
        return self._streams.get(key, ("", 0))[1]

    def _put(self, report: AnyReport) -> None:
        # Written here, where whoever made it hears of an error: behind the buffer one bad report would stop them all.
        written = encode(report)
        if len(self._buffer) >= MAX_BUFFERED:
            self._buffer.popleft()
            self._metrics.reports_lost.inc()
        self._buffer.append(written)

    def _close_windows(self) -> None:
        for (environment, release), (tenant, _) in self._streams.items():
            self._window(tenant, environment, release)
        self._sessions_told = {}
        used, self._used = self._used, {}
        for (tenant, key_id), at in used.items():
            self._put(CredentialReport(tenant=tenant, credential=key_id, at=at))
        closed, self._windows = self._windows, {}
        now = time.time()
        for (environment, release), window in closed.items():
            report = HealthReport(
                tenant=window.tenant,
                environment=environment,
                release=release,
                node=self._node,
                window_start=window.started_at,
                window_s=now - window.started_at,
                requests=window.requests,
                failures=window.failures,
                latency_ms_sum=window.latency_ms_sum,
                latency_ms_max=window.latency_ms_max,
                latency_buckets=tuple(window.buckets),
                request_bytes=window.request_bytes,
                response_bytes=window.response_bytes,
                open_streams=self._open_streams((environment, release)),
                last_failure=window.last_failure,
            )
            self._put(report)

    async def _send(self) -> None:
        try:
            while self._revocations:
                fact = self._revocations[0]
                args = (CHANGES_KEPT, fact.key, fact.version, 0, encode(fact))
                await self._publish(keys=[self._keys.facts, self._keys.changes], args=args)
                self._revocations.popleft()
            while self._buffer:
                await self._send_batch([self._buffer.popleft() for _ in range(min(BATCH, len(self._buffer)))])
        except (RedisError, OSError, TimeoutError) as exc:
            log("reports.held", reason=type(exc).__name__, held=len(self._buffer))

    async def _send_batch(self, batch: list[bytes]) -> None:
        pipe = self._redis.pipeline(transaction=True)
        for report in batch:
            pipe.xadd(self._keys.reports, {"report": report}, maxlen=REPORTS_KEPT, approximate=True)
        try:
            await pipe.execute()
        except BaseException:
            self._buffer.extendleft(reversed(batch))
            raise
