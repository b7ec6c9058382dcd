"""A node dies or shuts down in the middle of a stream, or Redis does: the client gets the rest elsewhere, or is told honestly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dataplane.harness import GatewayProcess, RedisProcess, World
from tests.dataplane.resuming import Heard, calling, progress_in, resuming
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("S4.4")


@pytest.fixture
def mortal_node(world: World, own_redis: RedisProcess, tmp_path: Path) -> Iterator[GatewayProcess]:
    """A node of the test's own, to be ended."""
    node = world.gateway.sibling(tmp_path, redis_url=own_redis.url, drain_s="1")
    node.start()
    yield node
    node.stop()


@pytest.mark.acceptance("S3.6", "S3.7")
class TestNodesEnd:
    def test_a_killed_nodes_call_goes_on_where_the_server_keeps_its_events(
        self, world: World, mortal_node: GatewayProcess
    ) -> None:
        route = world.server("replay-killed", world.target("scripted-stateful"))
        caller = world.caller(route)
        with calling(world.at_node(caller, mortal_node), "durable", run="killed", count=4) as heard:
            world.standin.go("killed", 3)
            assert progress_in([next(heard)]) == [0]
            first = heard.last_id
            assert progress_in([next(heard), next(heard)]) == [1, 2]
            kill(mortal_node)
        world.standin.go("killed")
        with resuming(caller, first) as rest:  # as if 1 and 2 had been lost on the way
            assert progress_in([next(rest), next(rest), next(rest)]) == [1, 2, 3]
            world.standin.go("killed")
            messages = list(rest)
        assert messages[-1]["result"]["content"][0]["text"] == "killed is done"
        assert len(messages) == 1
        with resuming(caller, first) as again:  # the new owner has logged the rest
            assert progress_in(list(again)) == [1, 2, 3]
        assert [entry["method"] for entry in world.standin.seen] == ["POST", "GET"]

    def test_a_killed_nodes_call_ends_in_an_honest_error_where_it_does_not(
        self, world: World, mortal_node: GatewayProcess
    ) -> None:
        caller = world.caller(world.server("replay-killed-lost"))
        there = world.at_node(caller, mortal_node)
        with calling(there, "stream", count=3, permit="replay-killed-lost") as heard:
            world.standin.go("replay-killed-lost", 2)
            assert progress_in([next(heard)]) == [0]
            first = heard.last_id
            assert progress_in([next(heard)]) == [1]
            kill(mortal_node)
        began = time.monotonic()
        for _ in range(2):  # and whoever asks again is told the same
            with resuming(caller, first) as rest:
                messages = list(rest)
            assert progress_in(messages) == [1]
            assert (messages[-1]["id"], messages[-1]["error"]["code"]) == ("long", -32603)
        assert time.monotonic() - began < 20
        assert len(world.standin.seen) == 1  # it was not carried out again

    def test_a_killed_nodes_listener_listens_on(self, world: World, mortal_node: GatewayProcess) -> None:
        caller = world.caller(world.server("replay-killed-listen", world.target("scripted-stateful")))
        with world.at_node(caller, mortal_node).stream("GET") as response:
            heard = Heard(response)
            world.standin.go("get", 2)
            assert next(heard)["params"]["data"] == 1
            first = heard.last_id
            next(heard)
            kill(mortal_node)
        with resuming(caller, first) as rest:
            assert next(rest)["params"]["data"] == 2
            wait_for(lambda: len(world.standin.seen) == 2, 20, what="the other node to listen")
            world.standin.go("get")
            assert next(rest)["params"]["data"] == 3

    def test_a_node_that_shuts_down_sends_its_client_elsewhere(
        self, world: World, mortal_node: GatewayProcess
    ) -> None:
        route = world.server("replay-drained", world.target("scripted-stateful"))
        caller = world.caller(route)
        with calling(world.at_node(caller, mortal_node), "durable", run="drained", count=2) as heard:
            world.standin.go("drained")
            assert progress_in([next(heard)]) == [0]
            mortal_node.terminate()
            assert list(heard) == []  # no error: the call goes on
            assert heard.retry == "1000"
        assert mortal_node.wait(10) == 0
        with resuming(caller, heard.last_id) as rest:
            world.standin.go("drained", 2)
            messages = list(rest)
        assert progress_in(messages) == [1]
        assert "result" in messages[-1]

    def test_a_node_that_shuts_down_says_what_is_lost(
        self, world: World, mortal_node: GatewayProcess
    ) -> None:
        caller = world.caller(world.server("replay-drained-lost"))
        there = world.at_node(caller, mortal_node)
        with calling(there, "stream", count=3, permit="replay-drained-lost") as heard:
            world.standin.go("replay-drained-lost")
            assert progress_in([next(heard)]) == [0]
        mortal_node.terminate()  # its client is away
        assert mortal_node.wait(10) == 0
        with resuming(caller, heard.last_id) as rest:
            messages = list(rest)
        assert [message["id"] for message in messages] == ["long"]
        assert messages[0]["error"]["message"] == "this gateway is shutting down"

    def test_who_follows_at_a_node_that_shuts_down_is_sent_elsewhere_at_once(
        self, world: World, mortal_node: GatewayProcess
    ) -> None:
        caller = world.caller(world.server("replay-drained-tail"))
        permit = "replay-drained-tail"
        with calling(caller, "stream", count=3, permit=permit) as heard:
            world.standin.go(permit)
            next(heard)
        with resuming(world.at_node(caller, mortal_node), heard.last_id) as tail:
            world.standin.go(permit)
            assert progress_in([next(tail)]) == [1]
            mortal_node.terminate()
            assert list(tail) == []
            assert tail.retry == "1000"
        with resuming(caller, tail.last_id) as rest:
            world.standin.go(permit)
            assert progress_in(list(rest)) == [2]


class TestRedisAway:
    @pytest.fixture(autouse=True)
    def _is_well(self, world: World) -> None:
        """Whatever the test before has left."""
        wait_for(lambda: not world.gateway.readyz()["degraded"], 40, what="Redis to be trusted again")

    def test_running_streams_go_on_without_places_and_get_them_back(
        self, world: World, own_redis: RedisProcess
    ) -> None:
        caller = world.caller(world.server("replay-away"))
        with calling(caller, "stream", count=40, permit="replay-away") as heard:
            world.standin.go("replay-away")
            next(heard)
            assert heard.last_id.startswith("r1.")
            own_redis.kill()
            try:
                world.standin.go("replay-away")
                next(heard)  # what became of this one is perhaps not known
                heard.last_id = ""
                world.standin.go("replay-away")
                next(heard)
                assert heard.last_id == ""
                assert "replay: events of streams go on without ids" in world.gateway.readyz()["degraded"]
                assert world.gateway.metric("smcp_gateway_events_unlogged_total", reason="away") >= 1
            finally:
                own_redis.start()

            def has_place() -> str:
                time.sleep(0.2)  # the stream must outlast the time for which Redis is left alone
                world.standin.go("replay-away")
                next(heard)
                return heard.last_id

            wait_for(has_place, 15, what="a place to come back to")
        world.standin.go("replay-away", 40)
        with resuming(caller, heard.last_id) as rest:
            assert "result" in list(rest)[-1]

    def test_who_resumes_meanwhile_is_told(self, world: World, own_redis: RedisProcess) -> None:
        caller = world.caller(world.server("replay-away-told"))
        with calling(caller, "stream", count=2, permit="replay-away-told") as heard:
            world.standin.go("replay-away-told")
            next(heard)
        own_redis.kill()
        try:
            with resuming(caller, heard.last_id) as rest:
                messages = list(rest)
        finally:
            own_redis.start()
        assert [(message["id"], message["error"]["code"]) for message in messages] == [("long", -32603)]

    def test_a_redis_that_comes_back_in_time_is_waited_for(
        self, world: World, own_redis: RedisProcess
    ) -> None:
        caller = world.caller(world.server("replay-away-short"))
        with calling(caller, "stream", count=1, permit="replay-away-short") as heard:
            heard.place()
        world.standin.go("replay-away-short")
        wait_for(lambda: world.standin.seen[-1].get("finished"), 10)
        time.sleep(0.5)  # the answer is on its way into the log
        own_redis.kill()
        own_redis.start()
        with resuming(caller, heard.last_id) as rest:
            messages = list(rest)
        assert progress_in(messages) == [0]
        assert "result" in messages[-1]


def kill(node: GatewayProcess) -> None:
    assert node.process is not None
    node.process.kill()
    node.process.wait(10)
