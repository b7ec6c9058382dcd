"""What Redis remembers of a session, where two nodes come at it in an order that a test through the gateway meets by chance only."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

from hosting.dataplane.contract import Revocation, Route
from hosting.dataplane.facts.follow import connect_redis
from hosting.dataplane.sessions.renewals import Renewal, Renewals
from hosting.dataplane.sessions.session import Sessions, opened
from tests.dataplane.harness import INSTALLATION, TENANT, RedisProcess
from tests.parts import free_port

RING = {"k1": secrets.token_bytes(32)}
ROUTE = Route(
    tenant=TENANT,
    version=1,
    environment="env",
    tenant_slug="t",
    server_slug="s",
    environment_slug="production",
)


def test_who_asks_before_the_opening_was_written_takes_nothing_of_the_session(tmp_path: Path) -> None:
    """The node that opened it writes that behind; another may hear of its end first."""

    async def run(url: str) -> None:
        redis = connect_redis(url)
        renewals = Renewals(installation=INSTALLATION, ring=RING, redis=redis, kept_s=60)
        fresh = Sessions(RING).new(principal="key:1", now=time.time(), capabilities=0)
        session = opened(fresh, revision="2025-11-25", release="rel", upstream_id="first")
        renewal = Renewal(number=1, at=time.time(), release="rel", upstream_id="second")
        await renewals.renew(session, ROUTE, renewal)
        ended = Revocation(
            tenant=TENANT, version=1, session=session.handle, until=time.time() + 60, environment="env"
        )
        assert await renewals.take([ended]) == [None]
        name, sealed = renewals.opening(session, ROUTE)
        await redis.hset(renewals.key(TENANT, session.handle), name, sealed)
        (taken,) = await renewals.take([ended])
        assert taken is not None
        assert taken.upstream_id == "second"
        assert await renewals.take([ended]) == [None]
        await redis.aclose()

    process = RedisProcess(tmp_path / "redis", free_port())
    process.start()
    try:
        asyncio.run(run(process.url))
    finally:
        process.stop()
