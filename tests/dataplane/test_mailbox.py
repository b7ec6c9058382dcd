"""Letters between two nodes, over a real Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hosting.dataplane.contract import Keys
from hosting.dataplane.facts.follow import connect_redis
from hosting.dataplane.sessions.mailbox import DEAD_AFTER_S, MAX_LETTERS, Mailbox
from tests.dataplane.harness import INSTALLATION, TENANT, RedisProcess
from tests.parts import free_port

RING = {"k1": secrets.token_bytes(32)}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path / "redis", free_port())
    process.start()
    yield process
    process.stop()


async def until(asked: Callable[[], Awaitable[bool]], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not await asked():  # noqa: ASYNC110 - another process is waited for
            await asyncio.sleep(0.05)


@asynccontextmanager
async def node(redis: RedisProcess, name: str) -> AsyncIterator[Mailbox]:
    """A node that lives and fetches its letters."""
    client = connect_redis(redis.url)
    mailbox = Mailbox(installation=INSTALLATION, node=name, ring=RING, redis=client)
    running = asyncio.create_task(mailbox.run())
    try:

        async def lives() -> bool:
            return bool(await client.exists(Keys(INSTALLATION).node(name)))

        await until(lives)
        yield mailbox
    finally:
        running.cancel()
        await client.aclose()


def test_letters_reach_the_other_node_in_order_and_are_sealed_on_their_way(redis: RedisProcess) -> None:
    async def run() -> None:
        async with node(redis, "a") as here, node(redis, "b") as there:
            with here.open(TENANT, "box") as box:
                for letter in (b"first", b"second"):
                    assert await there.post(TENANT, "box", letter, node="a") == "delivered"
                assert [await box.take(5), await box.take(5)] == [b"first", b"second"]
                assert await box.take(0.05) is None
                assert await here.post(TENANT, "box", b"own", node="a") == "delivered"
                assert await box.take(5) == b"own"

    asyncio.run(run())


def test_nobody_else_hears_a_letter_and_none_is_in_the_clear(redis: RedisProcess) -> None:
    async def run() -> None:
        client = connect_redis(redis.url)
        keys = Keys(INSTALLATION)
        await client.set(keys.node("deaf"), b"1")  # lives, and fetches nothing
        async with node(redis, "b") as there:
            assert await there.post(TENANT, "box", b"a secret answer", node="deaf") == "delivered"
        (letter,) = await client.lrange(keys.of_tenant(TENANT, "mail", "box"), 0, -1)
        assert b"secret" not in letter
        assert await client.ttl(keys.of_tenant(TENANT, "mail", "box")) > 0
        assert await client.ttl(keys.bells("deaf")) > 0
        async with node(redis, "deaf") as late:
            with late.open(TENANT, "another box") as box:
                assert await box.take(0.3) is None
        await client.aclose()

    asyncio.run(run())


def test_a_node_that_is_gone_is_known_to_be(redis: RedisProcess) -> None:
    async def run() -> None:
        async with node(redis, "b") as there:
            async with node(redis, "a"):
                assert await there.is_alive("a")

            async def is_dead() -> bool:
                return await there.post(TENANT, "box", b"?", node="a") == "dead"

            await until(is_dead, DEAD_AFTER_S * 3)
            assert not await there.is_alive("a")
            assert await there.post(TENANT, "closed", b"?", node="b") == "dead"

    asyncio.run(run())


def test_a_box_is_bounded_on_either_way(redis: RedisProcess) -> None:
    async def run() -> None:
        client = connect_redis(redis.url)
        await client.set(Keys(INSTALLATION).node("deaf"), b"1")
        async with node(redis, "b") as there:
            said = [await there.post(TENANT, "far", b"x", node="deaf") for _ in range(MAX_LETTERS + 1)]
            assert said == ["delivered"] * MAX_LETTERS + ["full"]
            with there.open(TENANT, "near"):
                said = [await there.post(TENANT, "near", b"x", node="b") for _ in range(MAX_LETTERS + 1)]
                assert said == ["delivered"] * MAX_LETTERS + ["full"]
        await client.aclose()

    asyncio.run(run())


def test_without_redis_letters_reach_the_own_process_only(redis: RedisProcess) -> None:
    async def run() -> None:
        async with node(redis, "a") as here, node(redis, "b") as there:
            redis.kill()
            with here.open(TENANT, "box") as box:
                assert await there.post(TENANT, "box", b"x", node="a") == "away"
                assert await here.post(TENANT, "box", b"own", node="a") == "delivered"
                assert await box.take(1) == b"own"
                assert await there.is_alive("a")  # nobody can say otherwise
                redis.start()

                async def is_back() -> bool:
                    return await there.post(TENANT, "box", b"back", node="a") == "delivered"

                await until(is_back)
                assert await box.take(10) == b"back"

    asyncio.run(run())
