"""The operator's door, on a port of its own: /healthz (the process lives), /readyz (send it traffic), /metrics (Prometheus)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from hosting.dataplane.facts.follow import Follower
from hosting.dataplane.facts.pulse import REDIS_STATES, Pulse, RedisState
from hosting.dataplane.forwarding.journal import Journal
from hosting.dataplane.telemetry.metrics import Metrics

DEGRADED: dict[RedisState, str] = {
    "down": "redis: changes, revocations and reports wait",
    "slow": "redis: slow, changes and revocations arrive late, sessions heal late",
    "full": "redis: full, reports, revocations and what sessions remember are not kept",
}


class Admin:
    """Serves until `close`."""

    def __init__(
        self,
        *,
        follower: Follower,
        journal: Journal,
        pulse: Pulse,
        metrics: Metrics,
        node: str,
        is_draining: Callable[[], bool],
    ) -> None:
        self._follower = follower
        self._journal = journal
        self._pulse = pulse
        self._metrics = metrics
        self._node = node
        self._is_draining = is_draining
        self._runner: web.AppRunner | None = None

    async def open(self, host: str, port: int) -> None:
        """Raises OSError when the port is taken."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._get_metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return _json(200, {"status": "ok", "node": self._node})

    async def _readyz(self, _: web.Request) -> web.Response:
        """200 while requests are welcome. Without Redis they still are: `degraded` says what is stale then."""
        follower, table = self._follower, self._follower.table
        redis_state = self._redis_state()
        degraded = [DEGRADED[redis_state]] if redis_state in DEGRADED else []
        if follower.source == "disk":
            degraded.append("routes: from disk, not confirmed since the start")
        if self._journal.trouble:
            degraded.append(self._journal.trouble)
        is_ready = table is not None and not self._is_draining()
        state: dict[str, Any] = {
            "ready": is_ready,
            "node": self._node,
            "draining": self._is_draining(),
            "redis": redis_state,
            "redis_trouble": follower.trouble or self._pulse.trouble,
            "redis_write_s": round(self._pulse.write_s, 3),
            "source": follower.source,
            "degraded": degraded,
            "cursor": table.cursor if table is not None else "",
            "counts": table.counts if table is not None else {},
            "changed_at": follower.changed_at,
            "synced_s_ago": round(time.time() - follower.synced_at, 3) if follower.synced_at else None,
        }
        return _json(200 if is_ready else 503, state)

    def _redis_state(self) -> RedisState:
        """A full Redis also refuses the transactions in which the follower reads; nobody can publish to it either."""
        state = self._pulse.state
        return state if state == "full" or self._follower.is_connected else "down"

    async def _get_metrics(self, _: web.Request) -> web.Response:
        follower, metrics = self._follower, self._metrics
        metrics.redis_up.set(self._redis_state() != "down")
        for state in REDIS_STATES:
            metrics.redis_state.labels(state).set(state == self._redis_state())
        metrics.redis_seconds.set(self._pulse.write_s)
        metrics.reloads.set(follower.reloads)
        metrics.skipped.set(follower.skipped)
        metrics.changed_at.set(follower.changed_at)
        metrics.synced_at.set(follower.synced_at)
        for kind, count in (follower.table.counts if follower.table is not None else {}).items():
            metrics.facts.labels(kind).set(count)
        return web.Response(body=metrics.exposition(), headers={"content-type": "text/plain; version=0.0.4"})


def _json(status: int, value: object) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")
