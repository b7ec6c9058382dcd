"""Two gateways that never had a Redis, behind a real nginx: each was given a file with the routes, and where Redis should be is nobody.
What works wherever requests go, and what needs nginx to bring everything of a session to one node (`$smcp_affinity`).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dataplane.balancing import Pair, kill, paired, talk_http_sse
from tests.dataplane.harness import (
    Caller,
    GatewayProcess,
    Publisher,
    RedisProcess,
    StandInProcess,
    World,
    call_of,
    events_of,
    next_event,
)
from tests.dataplane.resuming import progress_in
from tests.parts import free_port
from tests.waiting import wait_for

pytestmark = pytest.mark.nginx


@pytest.fixture(scope="module")
def known(
    tmp_path_factory: pytest.TempPathFactory, own_redis: RedisProcess, standin: StandInProcess
) -> Iterator[tuple[World, str]]:
    """A gateway that writes the file, and a key it knows."""
    directory = tmp_path_factory.mktemp("writer")
    publisher = Publisher(own_redis.url)
    publisher.new_epoch()
    writer = GatewayProcess(directory, redis_url=own_redis.url, dispatch_ring=standin.dispatch_ring)
    writer.start()
    with httpx.Client(timeout=20) as http:
        world = World(writer, standin, publisher, http)
        world.server("alone", world.target("scripted-stateful"))
        world.server("alone-modern", world.target("modern-cached", eras=("modern",), issues_sessions=False))
        yield world, world.key()
    writer.stop()
    publisher.close()


def pair_of(known: tuple[World, str], directory: Path, **nginx: Any) -> Iterator[Pair]:
    writer = known[0].gateway
    file = writer.state_dir / "routes.snapshot"
    marker = known[0].publisher.last_change()
    wait_for(lambda: file.exists() and marker.encode() in file.read_bytes().split(b"\n")[0], 20)
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    for name in ("a", "b"):
        (directory / name / "gateway").mkdir(parents=True)
        shutil.copy(file, directory / name / "gateway")
    first = writer.sibling(directory / "a", redis_url=nowhere, keepalive_s="1")
    for pair in paired(directory, known[0].publisher, known[0].standin, first, redis_url=nowhere, **nginx):
        pair.world.routes |= known[0].routes
        yield pair


@pytest.fixture(scope="module")
def stateless(
    known: tuple[World, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Pair, str]]:
    for pair in pair_of(known, tmp_path_factory.mktemp("stateless")):
        yield pair, known[1]


@pytest.fixture(scope="module")
def affine(known: tuple[World, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pair, str]]:
    for pair in pair_of(known, tmp_path_factory.mktemp("affinity"), has_affinity=True):
        yield pair, known[1]


class TestStateless:
    @pytest.mark.acceptance("S3.3")
    def test_nodes_are_ready_and_say_what_is_missing(self, stateless: tuple[Pair, str]) -> None:
        for node in stateless[0].nodes:
            ready = httpx.get(f"{node.admin_url}/readyz")
            assert ready.status_code == 200
            assert ready.json()["degraded"]
            assert ready.json()["redis"] == "down"

    @pytest.mark.acceptance("S3.3")
    def test_sessions_and_modern_calls_work_at_both_nodes(self, stateless: tuple[Pair, str]) -> None:
        pair, key = stateless
        caller = pair.caller(pair.world.routes["alone"], key)
        modern = Caller(pair.world.http, caller.url, key)
        began = time.monotonic()
        legacy = [caller.call("echo") for _ in range(8)]
        echo = {"name": "echo", "arguments": {}}
        for asked in (legacy, [modern.modern("tools/call", echo) for _ in range(8)]):
            assert {response.status_code for response in asked} == {200}
            assert {pair.name_of(response) for response in asked} == {"node-a", "node-b"}
        assert time.monotonic() - began < 12  # nobody waits for a Redis

    @pytest.mark.acceptance("S3.3")
    def test_a_killed_node_costs_no_session_either(self, stateless: tuple[Pair, str]) -> None:
        pair, key = stateless
        caller = pair.caller(pair.world.routes["alone"], key)
        kill(pair.nodes[0])
        assert {caller.call("echo").status_code for _ in range(6)} == {200}
        pair.nodes[0].start()

    @pytest.mark.acceptance("S3.3")
    def test_streams_run_but_cannot_be_resumed(self, stateless: tuple[Pair, str]) -> None:
        pair, key = stateless
        caller = pair.caller(pair.world.routes["alone"], key)
        streamed = caller.call("stream", count=3)
        assert progress_in(events_of(streamed.text)) == [0, 1, 2]
        assert "\nid: r1." not in streamed.text

    @pytest.mark.acceptance("S3.3")
    def test_a_session_that_was_ended_is_known_to_have_ended_where_that_was_said(
        self, stateless: tuple[Pair, str]
    ) -> None:
        pair, key = stateless
        caller = pair.caller(pair.world.routes["alone"], key)
        ended = caller.send("DELETE")
        assert ended.status_code == 204
        here = pair.node(pair.name_of(ended))
        assert caller_at(pair, caller, here).call("echo").status_code == 404


def caller_at(pair: Pair, caller: Caller, node: GatewayProcess) -> Caller:
    there = pair.world.at(caller.url.replace(pair.nginx.url, node.url))
    there.headers = caller.headers
    return there


class TestAffinity:
    @pytest.mark.acceptance("S3.5")
    def test_everything_of_a_session_goes_to_one_node(self, affine: tuple[Pair, str]) -> None:
        pair, key = affine
        found: list[str] = []
        for _ in range(12):
            caller = pair.caller(pair.world.routes["alone"], key)
            nodes = {pair.name_of(caller.call("echo")) for _ in range(4)}
            with caller.stream("GET") as response:
                nodes.add(pair.name_of(response))
            ended = caller.send("DELETE")
            assert len(nodes | {pair.name_of(ended)}) == 1
            assert caller.call("echo").status_code == 404  # there it is known
            found += nodes
        assert set(found) == {"node-a", "node-b"}

    @pytest.mark.acceptance("S3.5")
    def test_a_users_answer_reaches_the_call_that_asked(self, affine: tuple[Pair, str]) -> None:
        pair, key = affine
        asks = {
            "a": {
                "method": "elicitation/create",
                "params": {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}},
            }
        }
        for _ in range(6):
            caller = pair.caller(pair.world.routes["alone-modern"], key, capabilities={"elicitation": {}})
            with caller.stream(body=call_of("ask", rounds=[asks])) as response:
                lines = response.iter_lines()
                question = json.loads(next_event(lines)["data"])
                reply = {
                    "jsonrpc": "2.0",
                    "id": question["id"],
                    "result": {"action": "accept", "content": {}},
                }
                assert caller.send(body=reply).status_code == 202
                assert "result" in json.loads(next_event(lines)["data"])

    @pytest.mark.acceptance("S3.5")
    def test_http_sse_finds_its_stream(self, affine: tuple[Pair, str]) -> None:
        pair, key = affine
        talk_http_sse(pair, pair.world.routes["alone"], key)

    @pytest.mark.acceptance("S3.5", "S3.7")
    def test_a_session_moves_when_its_node_is_killed(self, affine: tuple[Pair, str]) -> None:
        pair, key = affine
        caller = pair.caller(pair.world.routes["alone"], key)
        name = pair.name_of(caller.call("echo"))
        kill(pair.node(name))
        moved = [caller.call("echo") for _ in range(4)]
        assert {response.status_code for response in moved} == {200}
        assert name not in {pair.name_of(response) for response in moved}
        pair.node(name).start()
