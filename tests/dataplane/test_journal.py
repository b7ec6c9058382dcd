"""The log of a stream, two nodes' journals on one real Redis: bounded, sealed, one owner at a time, and nobody waits for it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import redis

from hosting.dataplane.contract import Route
from hosting.dataplane.forwarding import journal_scripts as module
from hosting.dataplane.forwarding.journal import About, Journal, Log, Record
from hosting.dataplane.forwarding.journal_redis import AWAY_S, JournalAway
from hosting.dataplane.protocol.event_ids import LoggedEvent, parse_event_id
from hosting.dataplane.sessions.session import Session, Sessions
from hosting.dataplane.telemetry.metrics import Metrics
from tests.dataplane.harness import INSTALLATION, TENANT, RedisProcess

RING = {"k1": b"1" * 32}
ROUTE = Route(
    tenant=TENANT, version=1, environment="env", tenant_slug="t", server_slug="s", environment_slug="p"
)


@dataclass
class Node:
    journal: Journal
    metrics: Metrics
    heard: list[str] = field(default_factory=list)
    hears: asyncio.Event = field(default_factory=asyncio.Event)

    def log(self, session: Session, *requests: Any) -> Log:
        log = self.journal.new_log(session, ROUTE, requests=requests)
        log.on_asked = lambda: self._hear("asked")
        log.on_lost = lambda: self._hear("lost")
        return log

    def _hear(self, said: str) -> None:
        self.heard.append(said)
        self.hears.set()

    async def read(self, session: Session, stream: str, after: int = 0) -> Any:
        return await self.journal.read(session, ROUTE, stream, after=after)

    def unlogged(self, reason: str) -> float:
        return (
            self.metrics.registry.get_sample_value("smcp_gateway_events_unlogged_total", {"reason": reason})
            or 0.0
        )


@pytest.fixture
async def nodes(own_redis: RedisProcess) -> AsyncIterator[list[Node]]:
    made = []
    for _ in range(2):
        metrics = Metrics()
        journal = Journal(
            installation=INSTALLATION, ring=RING, redis_url=own_redis.url, metrics=metrics, tenant_bytes=10**8
        )
        made.append(Node(journal, metrics))
    yield made
    for node in made:
        await node.journal.close()


def new_session() -> Session:
    return Sessions(RING).new(principal="key:x", now=time.time(), capabilities=0)


def stream_of(event_id: bytes | None) -> str:
    assert event_id is not None
    event = parse_event_id(event_id.decode())
    assert isinstance(event, LoggedEvent)
    return event.stream


async def test_what_one_node_wrote_another_reads_in_order(nodes: list[Node]) -> None:
    one, two = nodes
    session = new_session()
    log = one.log(session, 7, "eight")
    ids = await log.append([Record(b"a"), Record(b"b", 5)], position=b"ev 1")
    event = parse_event_id((ids[1] or b"").decode())
    assert event == LoggedEvent(stream_of(ids[0]), 2, (7, "eight"))
    await log.append([Record(b"c")], ends="done")
    page = await two.read(session, stream_of(ids[0]), after=1)
    assert [(n, record.data, record.retry_ms) for n, record in page.events] == [(2, b"b", 5), (3, b"c", None)]
    assert page.about == About((7, "eight"), "", "")
    assert (page.state, page.last, page.has_more) == ("done", 3, False)


@pytest.mark.acceptance("S4.5", "S4.27")
async def test_nobody_elses_session_reads_it_and_redis_holds_no_plain_text(
    nodes: list[Node], own_redis: RedisProcess
) -> None:
    one, two = nodes
    session = new_session()
    log = one.log(session)
    stream = stream_of((await log.append([Record(b"a secret")], position=b"ev secret"))[0])
    assert await two.read(new_session(), stream) is None
    client = redis.Redis.from_url(own_redis.url)
    keys = {bytes(key).decode() for key in list(client.keys("*log*"))}  # type: ignore[arg-type]
    assert all(key.startswith(f"smcp:{INSTALLATION}:t:{TENANT}:") for key in keys)
    told = b"".join(client.dump(key) or b"" for key in keys)
    assert b"secret" not in told
    # Moved to another place of the same session, an event is not opened; nor by one who knows the handle but not the session.
    other = stream_of((await one.log(session).append([Record(b"other")]))[0])
    base = f"smcp:{INSTALLATION}:t:{TENANT}:session:{session.handle}:log:"
    client.delete(base + other)
    client.copy(base + stream, base + other)
    assert await two.read(session, other) is None
    client.close()


async def test_appending_again_what_was_appended_changes_nothing(nodes: list[Node]) -> None:
    one, _ = nodes
    session = new_session()
    log = one.log(session)
    stream = stream_of((await log.append([Record(b"a"), Record(b"b")]))[0])
    log._sequence = 0  # as if the first answer of Redis had been lost
    await log.append([Record(b"a"), Record(b"b"), Record(b"c")])
    page = await one.read(session, stream)
    assert [record.data for _, record in page.events] == [b"a", b"b", b"c"]


class TestOwners:
    async def test_only_a_dead_owners_log_is_claimed_and_the_dead_write_no_more(
        self, nodes: list[Node]
    ) -> None:
        one, two = nodes
        session = new_session()
        log = one.log(session, 1)
        stream = stream_of((await log.append([Record(b"a")], position=b"ev 1"))[0])
        page = await two.read(session, stream)
        assert page.state == "live"
        assert await two.journal.claim(session, ROUTE, stream, page.about, after=0) is None
        two_redis: Any = two.journal.redis._redis
        await two_redis.delete(log._place.owner)  # its lease has ended
        assert (await two.read(session, stream)).state == "dead"
        taken = await two.journal.claim(session, ROUTE, stream, page.about, after=0)
        assert taken is not None
        assert taken.position == b"ev 1"
        assert await log.append([Record(b"of the dead")]) == [None]
        assert one.heard == ["lost"]
        await taken.append([Record(b"b")], ends="done")
        page = await one.read(session, stream)
        assert [record.data for _, record in page.events] == [b"a", b"b"]
        assert await one.journal.claim(session, ROUTE, stream, page.about, after=0) is None

    async def test_a_beat_keeps_the_lease_and_brings_what_another_node_asks(self, nodes: list[Node]) -> None:
        one, two = nodes
        session = new_session()
        log = one.log(session, 1)
        stream = stream_of((await log.append([Record(b"a")]))[0])
        any_redis: Any = one.journal.redis._redis
        await any_redis.pexpire(log._place.owner, 2500)
        beating = asyncio.create_task(one.journal.run())
        await two.journal.ask(session, ROUTE, stream)
        await asyncio.wait_for(one.hears.wait(), 10)
        assert one.heard == ["asked"]
        assert await any_redis.pttl(log._place.owner) > 2500
        beating.cancel()

    async def test_the_same_node_hears_at_once(self, nodes: list[Node]) -> None:
        one, _ = nodes
        session = new_session()
        log = one.log(session, 1)
        stream = stream_of((await log.append([Record(b"a")]))[0])
        await one.journal.ask(new_session(), ROUTE, stream)
        assert one.heard == []
        await one.journal.ask(session, ROUTE, stream)
        assert one.heard == ["asked"]

    async def test_a_released_log_is_anybodys(self, nodes: list[Node]) -> None:
        one, two = nodes
        session = new_session()
        log = one.log(session, 1)
        stream = stream_of((await log.append([Record(b"a")]))[0])
        await log.release()
        assert await log.append([Record(b"late")]) == [None]
        page = await two.read(session, stream)
        assert page.state == "dead"
        taken = await two.journal.claim(session, ROUTE, stream, page.about, after=5)
        assert taken is not None
        ids = await taken.append([Record(b"b")])
        assert parse_event_id((ids[0] or b"").decode()) == LoggedEvent(
            stream, 6, (1,)
        )  # 5 was given out before


class TestBounds:
    async def test_the_oldest_events_go_first(self, nodes: list[Node]) -> None:
        one, _ = nodes
        session = new_session()
        log = one.log(session)
        stream = stream_of((await log.append([Record(b"x") for _ in range(module.MAX_EVENTS)]))[0])
        await log.append([Record(b"x") for _ in range(100)])
        page = await one.read(session, stream)
        assert page.has_more
        assert page.events[0][0] == 101
        assert page.last == module.MAX_EVENTS + 100

    async def test_bytes_are_bounded(self, nodes: list[Node], own_redis: RedisProcess) -> None:
        one, _ = nodes
        session = new_session()
        log = one.log(session)
        for _ in range(20):
            await log.append([Record(b"x" * 200_000)])
        client = redis.Redis.from_url(own_redis.url)
        assert (client.memory_usage(log._place.log) or 0) < module.MAX_BYTES * 1.2
        client.close()

    async def test_an_event_that_is_too_large_goes_without_an_id(self, nodes: list[Node]) -> None:
        one, _ = nodes
        session = new_session()
        log = one.log(session, 1)
        ids = await log.append([Record(b"a"), Record(b"x" * module.MAX_BYTES)], ends="done")
        assert ids[1] is None
        assert one.unlogged("large") == 1
        assert (await one.read(session, stream_of(ids[0]))).state == "lost"

    async def test_a_session_keeps_its_newest_logs(self, nodes: list[Node]) -> None:
        one, _ = nodes
        session = new_session()
        running = one.log(session, 0)
        first = stream_of((await running.append([Record(b"a")]))[0])
        finished = stream_of((await one.log(session, 1).append([Record(b"a")], ends="done"))[0])
        for n in range(module.MAX_LOGS - 1):
            await one.log(session, n).append([Record(b"a")])
        assert await one.read(session, finished) is None  # before older ones that still run
        assert await one.read(session, first) is not None
        await one.log(session, 99).append([Record(b"a")])
        assert await one.read(session, first) is None
        assert await running.append([Record(b"b")]) == [None]
        assert one.unlogged("gone") == 1
        assert one.heard == []  # the client is still ours

    async def test_a_tenant_cannot_fill_redis(self, nodes: list[Node]) -> None:
        one, _ = nodes
        one.journal.tenant_bytes = 10_000
        session = new_session()
        route = msgspec.structs.replace(ROUTE, tenant=secrets.token_hex(13))
        log = one.journal.new_log(session, route, requests=[1])
        assert (await log.append([Record(b"x" * 6000)]))[0] is not None
        assert await log.append([Record(b"x" * 6000)]) == [None]
        assert one.unlogged("tenant") == 1
        assert not one.journal.trouble  # of the platform
        neighbour = msgspec.structs.replace(ROUTE, tenant=secrets.token_hex(13))
        other = one.journal.new_log(new_session(), neighbour, requests=[1])
        assert (await other.append([Record(b"x")]))[0] is not None

    async def test_everything_ages_out(self, nodes: list[Node], own_redis: RedisProcess) -> None:
        one, _ = nodes
        session = new_session()
        await one.log(session, 1).append([Record(b"a")], ends="done")
        client = redis.Redis.from_url(own_redis.url)
        for key in client.keys(f"*:session:{session.handle}:log*"):
            assert 0 < client.ttl(key) <= 2 * module.LIFE_S
        client.close()

    async def test_a_session_is_forgotten_with_all_its_logs(
        self, nodes: list[Node], own_redis: RedisProcess
    ) -> None:
        one, two = nodes
        session = new_session()
        log = one.log(session, 1)
        stream = stream_of((await log.append([Record(b"a")]))[0])
        await two.journal.forget(TENANT, session.handle)
        assert await log.append([Record(b"b")]) == [None]
        assert await one.read(session, stream) is None
        client = redis.Redis.from_url(own_redis.url)
        assert client.keys(f"*:session:{session.handle}:*") == []
        client.close()


class TestTrouble:
    async def test_a_redis_that_hangs_is_waited_for_once(
        self, nodes: list[Node], own_redis: RedisProcess
    ) -> None:
        one, _ = nodes
        session = new_session()
        log = one.log(session, 1)
        await log.append([Record(b"a")])
        assert own_redis.child is not None
        os.kill(own_redis.child.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            unsure = await log.append([Record(b"b")])
            assert unsure[0] is not None  # it may be there: whoever resumes after it gets it once
            for _ in range(50):
                assert await log.append([Record(b"c")]) == [None]
            assert time.monotonic() - began < 2
            with pytest.raises(JournalAway):
                await one.read(session, stream_of(unsure[0]))
        finally:
            os.kill(own_redis.child.pid, signal.SIGCONT)
        assert one.unlogged("away") == 51
        assert one.journal.trouble
        await asyncio.sleep(AWAY_S)
        assert (await log.append([Record(b"d")]))[0] is not None

    async def test_a_full_redis_is_told(self, nodes: list[Node], own_redis: RedisProcess) -> None:
        one, _ = nodes
        log = one.log(new_session(), 1)
        await log.append([Record(b"a")])
        client = redis.Redis.from_url(own_redis.url)
        client.config_set("maxmemory", "1")
        try:
            assert await log.append([Record(b"b")]) == [None]
        finally:
            client.config_set("maxmemory", "0")
            client.close()
        assert one.unlogged("full") == 1
        assert one.journal.trouble
