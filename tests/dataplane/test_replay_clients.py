"""Real clients whose connections break in the middle of a call, and who come to another node for the rest by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.clients import ClientName, call_tool, talk, text_of
from tests.dataplane.harness import GatewayProcess, RedisProcess, World
from tests.waiting import wait_until

pytestmark = pytest.mark.acceptance("S4.4", "S3.7")
RESUMING: tuple[ClientName, ...] = ("python-legacy", "sdk-legacy", "client-legacy")


class Balancer:
    """A load balancer of the simplest kind: all new connections go to one node."""

    def __init__(self, port: int) -> None:
        self.to_port = port
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Balancer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        self.cut()

    def cut(self) -> None:
        """Breaks all connections, without a goodbye."""
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self.to_port)
            self._open |= {writer, back}
            await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


@pytest.mark.parametrize("client", RESUMING)
async def test_a_real_client_gets_its_answer_from_another_node(
    world: World, other_node: GatewayProcess, client: ClientName
) -> None:
    route = world.server(f"replay-{client}", world.target("scripted-stateful"))
    permit = f"real-{client}"
    async with Balancer(world.gateway.port).running() as balancer:
        url = world.url(route).replace(f":{world.gateway.port}/", f":{balancer.port}/")
        call = call_tool("stream", count=2, permit=permit)
        talking = asyncio.create_task(talk(client, url, world.key(), [call]))
        await wait_until(lambda: calls(world), 30, what="the call to arrive")
        await asyncio.sleep(1)  # for the place to come back to
        balancer.to_port = other_node.port
        balancer.cut()
        world.standin.go(permit, 2)
        answers = (await asyncio.wait_for(talking, 60)).answers
    assert "error" not in answers[0]
    assert answers[0]["content"] == []
    assert calls(world) == 1


@pytest.mark.parametrize("client", RESUMING)
async def test_a_real_client_survives_the_death_of_its_node(
    world: World, own_redis: RedisProcess, tmp_path: Path, client: ClientName
) -> None:
    route = world.server(f"death-{client}", world.target("scripted-stateful"))
    mortal = world.gateway.sibling(tmp_path, redis_url=own_redis.url)
    mortal.start()
    run = f"death-{client}"
    async with Balancer(mortal.port).running() as balancer:
        url = world.url(route).replace(f":{world.gateway.port}/", f":{balancer.port}/")
        call = call_tool("durable", run=run, count=1)
        talking = asyncio.create_task(talk(client, url, world.key(), [call]))
        await wait_until(lambda: calls(world), 30, what="the call to arrive")
        world.standin.go(run)
        await asyncio.sleep(1)
        balancer.to_port = world.gateway.port
        assert mortal.process is not None
        mortal.process.kill()
        mortal.process.wait(10)
        world.standin.go(run)
        answers = (await asyncio.wait_for(talking, 60)).answers
    assert text_of(answers[0]) == f"{run} is done"
    assert calls(world) == 1


def calls(world: World) -> int:
    return sum('"tools/call"' in entry.get("body", "") for entry in world.standin.seen)
