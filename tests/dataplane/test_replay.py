"""A client loses its connection, or its node, and comes back for the rest of a stream at another node: nothing is missing, nothing twice."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any

import pytest

from hosting.dataplane.contract import Revocation
from tests.dataplane.harness import Caller, GatewayProcess, World, error_of, request
from tests.dataplane.resuming import Heard, calling, progress_in, resuming
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("S4.4")


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"drain_s": "2", "keepalive_s": "1"}


def evaluations(world: World) -> int:
    """Scripts that Redis has run: the journal is the only one that uses them while streams run."""
    info: Any = world.publisher.client.info("commandstats")
    return sum(int(info.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("eval", "evalsha"))


def logs_in(world: World) -> list[bytes]:
    return [bytes(key) for key in list(world.publisher.client.keys("*:log:*"))]  # type: ignore[arg-type]


class TestCalls:
    def test_the_rest_comes_from_another_node_though_the_server_keeps_nothing(
        self, world: World, other_node: GatewayProcess
    ) -> None:
        caller = world.caller(world.server("replay-call"))
        with calling(caller, "stream", count=4, permit="replay-call") as heard:
            world.standin.go("replay-call", 2)
            assert progress_in([next(heard), next(heard)]) == [0, 1]
        world.standin.go("replay-call", 2)
        wait_for(
            lambda: world.standin.seen[-1].get("finished"), 10, what="the call to end without its client"
        )
        with resuming(world.at_node(caller, other_node), heard.last_id) as rest:
            messages = list(rest)
        assert progress_in(messages) == [2, 3]
        assert messages[-1]["id"] == "long"
        assert "result" in messages[-1]
        assert len(world.standin.seen) == 1  # nobody asked the server again
        with resuming(caller, rest.last_id) as nothing:
            assert list(nothing) == []

    def test_a_call_whose_answer_has_not_begun_is_resumed(
        self, world: World, other_node: GatewayProcess
    ) -> None:
        caller = world.caller(world.server("replay-primed"))
        with calling(caller, "stream", count=1, permit="replay-primed") as heard:
            heard.place()
        with resuming(world.at_node(caller, other_node), heard.last_id) as rest:
            world.standin.go("replay-primed")
            messages = list(rest)
        assert progress_in(messages) == [0]
        assert "result" in messages[-1]

    def test_an_older_client_is_given_no_place_without_data(self, world: World) -> None:
        caller = world.at(world.url(world.server("replay-older")), world.key())
        caller.initialize("2025-06-18")
        with calling(caller, "stream", count=2, permit="replay-older") as heard:
            assert next(heard.lines) == ": keep-alive"  # a second has passed
            world.standin.go("replay-older")
            assert progress_in([next(heard)]) == [0]
            assert heard.last_id.startswith("r1.")  # with an event it can come back

    @pytest.mark.parametrize("where", ["same", "other"])
    def test_the_old_connection_is_let_go_of_and_the_new_one_follows(
        self, world: World, other_node: GatewayProcess, where: str
    ) -> None:
        caller = world.caller(world.server("replay-follow"))
        permit = f"replay-follow-{where}"
        with calling(caller, "stream", count=3, permit=permit) as old:
            world.standin.go(permit)
            assert progress_in([next(old)]) == [0]
            node = world.gateway if where == "same" else other_node
            with resuming(world.at_node(caller, node), old.last_id) as new:
                assert list(old) == []  # it has ended, without an error
                assert caller.call("echo").status_code == 200  # and holds up nothing else of the client's
                world.standin.go(permit)
                assert progress_in([next(new)]) == [1]
                world.standin.go(permit)
                messages = list(new)
        assert progress_in(messages) == [2]
        assert "result" in messages[-1]

    def test_a_client_that_polls_is_led_back_to_its_server(
        self, world: World, other_node: GatewayProcess
    ) -> None:
        """The server closes its stream in the middle, to be asked again (2025-11-25)."""
        caller = world.caller(world.server("replay-poll", world.target("scripted-stateful")))
        with calling(caller, "durable", run="replay-poll", count=2, closes_after=1) as heard:
            world.standin.go("replay-poll")
            assert progress_in(list(heard)) == [0]
        with resuming(world.at_node(caller, other_node), heard.last_id) as rest:
            world.standin.go("replay-poll", 2)
            messages = list(rest)
        assert progress_in(messages) == [1]
        assert messages[-1]["result"]["content"][0]["text"] == "replay-poll is done"
        assert world.standin.seen[-1]["headers"]["last-event-id"] == "replay-poll 1"

    def test_an_old_connection_that_nobody_reads_holds_nothing_up(
        self, world: World, other_node: GatewayProcess
    ) -> None:
        """The client's network has gone: to its node it still seems to be there, and reads nothing."""
        caller = world.caller(world.server("replay-stalled"))
        arguments = {"count": 600, "filler": 64_000, "permit": "replay-stalled"}
        body = json.dumps(
            request("tools/call", {"name": "stream", "arguments": arguments}, request_id="long")
        ).encode()
        with open_connection(world, caller, body) as connection:
            told = b""
            while not (found := re.search(rb"\nid: (\S+)\n", told)):
                told += connection.recv(4096)
            place = found[1].decode()
            world.standin.go("replay-stalled", 600)
            wait_for(lambda: is_stuck(world), 20, what="the server to be held back")
            with resuming(world.at_node(caller, other_node), place) as rest:
                comments, messages = [], []
                for line in rest.lines:
                    if line.startswith(": ") and "kept" in line:
                        comments.append(line)
                    elif line.startswith("data: ") and line[6:]:
                        messages.append(json.loads(line[6:]))
        heard = progress_in(messages)
        assert heard[-1] == 599
        assert heard == sorted(set(heard))
        assert "result" in messages[-1]
        assert comments  # 38 MB passed, the log keeps the last of them, and it says so

    def test_an_answer_too_large_to_be_kept_is_said_to_be_lost(
        self, world: World, other_node: GatewayProcess
    ) -> None:
        caller = world.caller(world.server("replay-large"))
        answer = json.dumps({"jsonrpc": "2.0", "id": "long", "result": {"x": "y" * 700_000}})
        note = 'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":0}}\n\n'
        with calling(caller, "raw_stream", pieces=[note, f"data: {answer}\n\n"]) as heard:
            next(heard)
            place = heard.last_id
            assert "result" in next(heard)  # whoever is there gets it
        with resuming(world.at_node(caller, other_node), place) as rest:
            messages = list(rest)
        assert [message["error"]["message"] for message in messages] == [
            "the answer was too large to be kept"
        ]

    def test_a_batch_is_resumed(self, world: World, other_node: GatewayProcess) -> None:
        caller = world.at(world.url(world.server("replay-gone-batch")), world.key())
        caller.initialize("2025-03-26")
        unknown = f"r1.{'0' * 16}.1.WzEsImIiXQ"  # [1,"b"]
        with resuming(world.at_node(caller, other_node), unknown) as rest:
            assert [message["id"] for message in rest] == [1, "b"]


class TestCost:
    def test_what_is_answered_at_once_costs_redis_nothing(self, world: World) -> None:
        caller = world.caller(world.server("replay-cheap"))
        before, known = evaluations(world), len(logs_in(world))
        note = 'data: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n'
        answer = 'data: {"jsonrpc":"2.0","id":"long","result":{}}\n\n'
        for _ in range(5):
            with calling(caller, "raw_stream", pieces=[note + answer]) as heard:
                assert len(list(heard)) == 2
        assert (evaluations(world), len(logs_in(world))) == (before, known)

    def test_the_events_of_one_piece_cost_one_round_trip(self, world: World) -> None:
        caller = world.caller(world.server("replay-pipelined"))
        before = evaluations(world)
        notes = 'data: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n' * 20
        with calling(caller, "raw_stream", pieces=[notes]) as heard:
            assert len(list(heard)) == 21  # and an error, for the server ends without an answer
        assert evaluations(world) - before <= 3  # the notes, the error; a beat at most


class TestListening:
    def test_what_was_not_received_is_replayed_and_what_follows_is_live(
        self, world: World, other_node: GatewayProcess
    ) -> None:
        caller = world.caller(world.server("replay-listen", world.target("scripted-stateful")))
        with caller.stream("GET") as response:
            old = Heard(response)
            world.standin.go("get")
            assert next(old)["params"]["data"] == 1
            first = old.last_id
            world.standin.go("get", 2)
            assert [next(old)["params"]["data"] for _ in range(2)] == [2, 3]
            with resuming(world.at_node(caller, other_node), first) as new:  # as if 2 and 3 had been lost
                assert [next(new)["params"]["data"] for _ in range(2)] == [2, 3]
                assert list(old) == []
                wait_for(lambda: len(world.standin.seen) == 2, 15, what="the other node to listen")
                assert world.standin.seen[-1]["headers"]["last-event-id"] == "ev 3"
                world.standin.go("get")
                assert next(new)["params"]["data"] == 4
        with resuming(caller, new.last_id) as again:
            world.standin.go("get")
            assert next(again)["params"]["data"] == 5

    def test_who_comes_back_after_the_log_has_gone_listens_on(
        self, world: World, other_node: GatewayProcess
    ) -> None:
        caller = world.caller(world.server("replay-listen-gone", world.target("scripted-stateful")))
        with resuming(world.at_node(caller, other_node), f"r1.{'0' * 16}.1.") as live:
            wait_for(lambda: world.standin.seen, 10)
            world.standin.go("get")
            assert next(live)["params"]["data"] == 1
            assert live.last_id.startswith("r1.")


class TestStrangers:
    @pytest.mark.acceptance("S4.5", "S4.19")
    def test_another_sessions_events_are_never_replayed(self, world: World) -> None:
        route = world.server("replay-stranger")
        key = world.key()
        owner, other = world.caller(route, key), world.caller(route, key)
        with calling(owner, "stream", count=2, permit="replay-stranger") as heard:
            world.standin.go("replay-stranger")
            next(heard)
        with resuming(other, re.sub(r"\.\d+\.", ".0.", heard.last_id)) as refused:
            messages = list(refused)
        assert [message["id"] for message in messages] == ["long"]
        assert messages[0]["error"]["code"] == -32603

    def test_an_unknown_stream_is_an_error_for_exactly_its_request(self, world: World) -> None:
        caller = world.caller(world.server("replay-unknown"))
        with resuming(caller, f"r1.{'f' * 16}.3.Wzdd") as refused:  # [7]
            messages = list(refused)
        assert [(message["id"], message["error"]["code"]) for message in messages] == [(7, -32603)]
        assert caller.call("echo").status_code == 200

    @pytest.mark.acceptance("S3.11")
    def test_a_session_that_the_control_plane_ends_leaves_no_log(self, world: World) -> None:
        route = world.server("replay-ended")
        caller = world.caller(route)
        before = set(logs_in(world))
        with calling(caller, "stream", count=2, permit="replay-ended") as heard:
            world.standin.go("replay-ended")
            next(heard)
        handle = next(iter(set(logs_in(world)) - before)).decode().split(":session:")[1].partition(":")[0]
        now = time.time()
        world.publisher.publish(
            Revocation(
                tenant=route.tenant,
                version=int(now),
                session=handle,
                until=now + 3600,
                environment=route.environment,
            )
        )
        wait_for(lambda: not set(logs_in(world)) - before, 10, what="its logs to be removed")
        assert error_of(caller.send("GET", last_event_id=heard.last_id)) == (404, -32001)

    @pytest.mark.acceptance("S3.11")
    def test_the_end_of_a_session_ends_its_replay(self, world: World, other_node: GatewayProcess) -> None:
        caller = world.caller(world.server("replay-deleted"))
        before = set(logs_in(world))
        with calling(caller, "stream", count=2, permit="replay-deleted") as heard:
            world.standin.go("replay-deleted")
            next(heard)
        assert set(logs_in(world)) - before
        there = world.at_node(caller, other_node)
        assert caller.send("DELETE").status_code == 204
        assert not set(logs_in(world)) - before
        wait_for(
            lambda: there.send("GET", last_event_id=heard.last_id).status_code == 404,
            5,
            what="the other node to know",
        )


def open_connection(world: World, caller: Caller, body: bytes) -> socket.socket:
    """A connection whose client reads only when it is told to."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", world.gateway.port))
    path = caller.url.removeprefix(world.gateway.url)
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in caller.headers.items())
    connection.sendall(head.encode() + b"\r\n" + body)
    return connection


def is_stuck(world: World) -> bool:
    """Whether the server has stopped sending before its end."""
    sent = world.standin.seen[-1].get("sent", 0)
    time.sleep(1)
    return bool(0 < sent < 600 and world.standin.seen[-1].get("sent") == sent)
