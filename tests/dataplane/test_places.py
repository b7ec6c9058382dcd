"""Places in flight: bounded for an Environment and a tenant, with a line in front of them that is bounded, fair, and left at will."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from hosting.dataplane.contract import Limits, Route
from hosting.dataplane.door.places import Place, Places
from hosting.dataplane.protocol.errors import Refusal
from hosting.dataplane.telemetry.metrics import Metrics
from tests.dataplane.harness import (
    OTHER_TENANT,
    Caller,
    GatewayProcess,
    StandInProcess,
    World,
    call_of,
    error_of,
    modern_request,
)
from tests.waiting import wait_for

TENANT_PLACES, TENANT_STREAMS = 6, 4


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {
        "max_in_flight": "20",
        "max_tenant_in_flight": str(TENANT_PLACES),
        "max_tenant_streams": str(TENANT_STREAMS),
    }


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def waiting(world: World) -> float:
    return world.gateway.metric("smcp_gateway_requests_waiting")


def waited(world: World, outcome: str) -> float:
    return world.gateway.metric("smcp_gateway_waited_seconds_count", outcome=outcome)


class Held:
    """Places that are taken by calls whose server waits for the test."""

    def __init__(self, world: World, count: int) -> None:
        self.permit, self.count, self._world = secrets.token_hex(4), count, world

    def release(self, count: int = 1) -> None:
        self._world.standin.go(self.permit, count)
        self.count -= count


@contextmanager
def holding(world: World, caller: Caller, count: int) -> Iterator[Held]:
    """So many of the Environment's places are taken, until the end."""
    held = Held(world, count)
    with ExitStack() as stack:
        for _ in range(count):
            call = call_of("stream", count=1, permit=held.permit)
            response = stack.enter_context(caller.stream(body=call, connection="close"))
            assert response.status_code == 200
        yield held
        held.release(held.count)


def later(threads: ThreadPoolExecutor, caller: Caller, text: str = "") -> Future[httpx.Response]:
    return threads.submit(caller.call, "echo", text=text)


@pytest.mark.acceptance("P7", "S0.17")
def test_who_finds_no_place_waits_for_one_and_is_served_in_turn(
    world: World, threads: ThreadPoolExecutor
) -> None:
    """S0.17: near the limit requests queue."""
    limits = Limits(concurrency=1, queue=1, queue_wait_s=15)
    caller = world.caller(world.server("line", world.target("scripted-stateful"), limits=limits))
    placed = waited(world, "placed")
    with holding(world, caller, 1) as held:
        first = later(threads, caller, "first")
        wait_for(lambda: waiting(world) == 1, 5, what="the first to stand in line")
        assert not first.done()
        with caller.stream("GET") as listening:  # has a place of its own
            assert listening.status_code == 200
        refused = caller.call("echo")
        assert error_of(refused) == (429, -32000)
        assert refused.headers["retry-after"] == "15"
        assert "server" in refused.json()["error"]["message"]
        held.release()
        assert first.result(10).json()["result"]["content"][0]["text"] == "first"
    assert waited(world, "placed") == placed + 1
    assert waiting(world) == 0


def test_nobody_waits_for_ever(world: World) -> None:
    limits = Limits(concurrency=1, queue=1, queue_wait_s=0.3)
    caller = world.caller(world.server("line-late", limits=limits))
    with holding(world, caller, 1):
        began = time.monotonic()
        refused = caller.call("echo")
        assert 0.25 < time.monotonic() - began < 5
        assert error_of(refused) == (429, -32000)
        assert refused.headers["retry-after"] == "1"
        assert "in time" in refused.json()["error"]["message"]
        assert waiting(world) == 0


def test_a_client_that_wants_to_wait_less_does(world: World) -> None:
    limits = Limits(concurrency=1, queue=1, queue_wait_s=30)
    caller = world.caller(world.server("line-hurried", limits=limits))
    with holding(world, caller, 1):
        began = time.monotonic()
        assert caller.send(body=call_of("echo"), prefer="respond-async, wait=1").status_code == 429
        assert 0.9 < time.monotonic() - began < 10


def test_without_a_line_nobody_waits(world: World) -> None:
    caller = world.caller(world.server("line-none", limits=Limits(concurrency=1, queue=0)))
    with holding(world, caller, 1):
        assert error_of(caller.call("echo")) == (429, -32000)


@pytest.mark.parametrize("sent", ["whole", "in part", "nothing"])
def test_a_client_that_leaves_the_line_gives_its_place_in_it_up(
    world: World, threads: ThreadPoolExecutor, sent: str
) -> None:
    """Unless its body is still to come: then it is only seen when its turn comes, or its time is up."""
    limits = Limits(concurrency=1, queue=1, queue_wait_s=2 if sent == "in part" else 20)
    caller = world.caller(world.server(f"leaving-{sent.replace(' ', '-')}", limits=limits))
    body = json.dumps(call_of("echo")).encode()
    with (
        holding(world, caller, 1) as held,
        socket.create_connection(("127.0.0.1", world.gateway.port)) as leaver,
    ):
        lines = [f"POST {caller.url.removeprefix(world.gateway.url)} HTTP/1.1", "host: 127.0.0.1"]
        lines += [
            f"content-length: {len(body)}",
            *(f"{name}: {value}" for name, value in caller.headers.items()),
        ]
        part = {"whole": body, "in part": body[:10], "nothing": b""}[sent]
        leaver.sendall("\r\n".join([*lines, "", ""]).encode() + part)
        wait_for(lambda: waiting(world) == 1, 5, what="it to stand in line")
        leaver.close()
        wait_for(lambda: waiting(world) == 0, 10, what="its place in the line to be free")
        patient = later(threads, caller, "patient")
        wait_for(lambda: waiting(world) == 1, 5, what="the next to stand in line")
        held.release()
        assert patient.result(10).status_code == 200


def test_a_body_that_came_while_its_request_waited_is_read_whole(
    world: World, threads: ThreadPoolExecutor
) -> None:
    limits = Limits(concurrency=1, queue=4, queue_wait_s=20)
    caller = world.caller(world.server("line-bodies", limits=limits))
    for text in ("small", "x" * 300_000, "y" * 2_000_000):
        with holding(world, caller, 1) as held:
            answer = later(threads, caller, text)
            wait_for(lambda: waiting(world) == 1, 5, what="it to stand in line")
            held.release()
            assert answer.result(20).json()["result"]["content"][0]["text"] == text
    wait_for(lambda: world.gateway.metric("smcp_gateway_held_bytes") == 0, 5, what="all to be given back")


@pytest.mark.acceptance("P7")
def test_a_tenant_has_no_more_than_its_share_and_its_neighbours_have_theirs(world: World) -> None:
    busy = world.caller(world.server("share-busy"))
    other_server = world.caller(world.server("share-other", limits=Limits(queue_wait_s=0.3)))
    neighbour = world.caller(world.server("share-neighbour", tenant=OTHER_TENANT))
    with holding(world, busy, TENANT_PLACES):
        refused = other_server.call("echo")
        assert error_of(refused) == (429, -32000)
        assert "tenant" in refused.json()["error"]["message"]
        assert neighbour.call("echo").status_code == 200
    assert other_server.call("echo").status_code == 200


def test_listening_streams_have_a_share_of_their_own_in_both_eras(world: World) -> None:
    legacy = world.caller(world.server("share-streams", world.target("scripted-stateful")))
    modern = world.at(legacy.url, legacy.headers["authorization"].removeprefix("Bearer "))
    body, headers = modern_request("subscriptions/listen")
    with ExitStack() as stack:
        for number in range(TENANT_STREAMS):
            stream = legacy.stream("GET") if number % 2 else modern.stream(body=body, **headers)
            assert stack.enter_context(stream).status_code == 200
        for refused in (legacy.send("GET"), modern.send(body=body, **headers)):
            assert error_of(refused) == (429, -32000)
        with holding(world, legacy, TENANT_PLACES - 1):
            assert legacy.call("echo").status_code == 200
    wait_for(lambda: world.gateway.metric("smcp_gateway_requests_in_flight") == 0, 10)
    assert modern.modern("tools/list").status_code == 200


class TestTurns:
    """The line itself, where what is next can be said exactly."""

    ROUTE = Route(
        tenant="t", version=1, environment="", tenant_slug="t", server_slug="s", environment_slug="p"
    )

    async def enter(self, places: Places, environment: str, **limits: float) -> Place:
        route = msgspec.structs.replace(self.ROUTE, environment=environment, limits=Limits(**limits))  # type: ignore[arg-type]
        return await places.enter(
            route, is_stream=False, within_s=20, gone=asyncio.get_running_loop().create_future
        )

    def line_up(
        self, places: Places, names: list[str], served: list[str], **limits: float
    ) -> list[asyncio.Task[None]]:
        async def work(name: str) -> None:
            place = await self.enter(places, name, **limits)
            served.append(name)
            place.leave()

        return [asyncio.create_task(work(name)) for name in names]

    def test_a_tenants_environments_take_turns(self) -> None:
        async def run() -> list[str]:
            places = Places(tenant_requests=20, tenant_streams=1, metrics=Metrics())
            held = [await self.enter(places, "busy") for _ in range(20)]
            served: list[str] = []
            tasks = self.line_up(places, ["busy", "busy", "busy", "quiet"], served)
            await asyncio.sleep(0)
            held.pop().leave()
            await asyncio.gather(*tasks)
            return served

        assert asyncio.run(run()) == ["busy", "quiet", "busy", "busy"]

    def test_an_environment_at_its_own_bound_holds_up_nobody_else_in_the_line(self) -> None:
        async def run() -> list[str]:
            places = Places(tenant_requests=20, tenant_streams=1, metrics=Metrics())
            held = [await self.enter(places, "full", concurrency=2) for _ in range(2)]
            others = [await self.enter(places, "other") for _ in range(18)]
            served: list[str] = []
            tasks = self.line_up(places, ["full"], served, concurrency=2) + self.line_up(
                places, ["other"], served
            )
            await asyncio.sleep(0)
            others.pop().leave()
            await tasks[1]
            assert served == ["other"]
            held.pop().leave()
            await tasks[0]
            return served

        assert asyncio.run(run()) == ["other", "full"]

    def test_a_place_that_comes_as_its_request_leaves_goes_to_the_next(self) -> None:
        async def run() -> list[str]:
            places = Places(tenant_requests=20, tenant_streams=1, metrics=Metrics())
            held = await self.enter(places, "one", concurrency=1)
            served: list[str] = []
            first, second = self.line_up(places, ["one", "one"], served, concurrency=1)
            await asyncio.sleep(0)
            held.leave()  # the first has its place now, and does not know it yet
            first.cancel()
            await second
            await self.enter(places, "one", concurrency=1)
            assert first.cancelled()
            return served

        assert asyncio.run(run()) == ["one"]

    def test_nothing_is_left_of_it(self) -> None:
        async def run() -> None:
            metrics = Metrics()
            places = Places(tenant_requests=20, tenant_streams=1, metrics=metrics)
            held = await self.enter(places, "one", concurrency=1)
            tasks = self.line_up(places, ["one"] * 3, [], concurrency=1, queue=2)
            await asyncio.sleep(0)
            tasks[0].cancel()
            held.leave()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(one) for one in done] == [asyncio.CancelledError, type(None), Refusal]
            assert places._tenants == {}
            told = metrics.exposition().decode()
            assert "smcp_gateway_requests_waiting 0.0" in told
            assert "smcp_gateway_requests_in_flight 0.0" in told

        asyncio.run(run())


def test_a_share_that_is_all_there_is_is_refused(tmp_path: Path, standin: StandInProcess) -> None:
    gateway = GatewayProcess(
        tmp_path,
        redis_url="redis://127.0.0.1:1",
        dispatch_ring=standin.dispatch_ring,
        max_in_flight="100",
        max_tenant_streams="90",
    )
    gateway.spawn()
    assert gateway.wait(20) == 2
    assert "must stay below SMCP_GATEWAY_MAX_IN_FLIGHT" in gateway.log
