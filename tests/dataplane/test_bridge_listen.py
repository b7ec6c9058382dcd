"""subscriptions/listen at a legacy server: one shared stream of the server's, to each listener what it asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dataplane.bridging import META, Bridged, bridged, messages_of, requests, script, verbs
from tests.dataplane.harness import GatewayProcess, RedisProcess, World, error_of, next_event
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("P1")

TOOLS = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
PROMPTS = {"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"}


def updated(uri: str, **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri, **more}}


class Ear:
    """What a listener hears."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.headers["content-type"] == "text/event-stream"
        self._lines = response.iter_lines()

    def next(self) -> dict[str, Any]:
        found = next_event(self._lines)
        return dict(json.loads(found["data"])) if found else {}


@contextmanager
def listening(client: Bridged, request_id: Any = 1, **wanted: Any) -> Iterator[tuple[Ear, dict[str, Any]]]:
    """The listener, and what was acknowledged."""
    given = {"capabilities": {}, "request_id": request_id}
    with client.stream("subscriptions/listen", {"notifications": wanted}, **given) as response:
        ear = Ear(response)
        told = ear.next()
        assert told["method"] == "notifications/subscriptions/acknowledged"
        assert told["params"]["_meta"] == {f"{META}subscriptionId": request_id}
        yield ear, told["params"]["notifications"]


def gets(world: World) -> list[dict[str, Any]]:
    return [entry for entry in world.standin.seen if entry["method"] == "GET"]


class TestHearing:
    def test_what_was_asked_for_arrives_with_its_subscription(self, world: World) -> None:
        client = bridged(world, "listen", "legacy-listen")
        with listening(client, "sub", toolsListChanged=True, resourceSubscriptions=["test://a"]) as (
            ear,
            honoured,
        ):
            assert honoured == {"toolsListChanged": True, "resourceSubscriptions": ["test://a"]}
            for message in (PROMPTS, updated("test://b"), {**TOOLS, "params": {"_meta": {"v": 1}}}):
                assert world.standin.broadcast("legacy-listen", message) == 1
            world.standin.broadcast("legacy-listen", updated("test://a", title="x"))
            first, second = ear.next(), ear.next()
        tag = {f"{META}subscriptionId": "sub"}
        assert first == {**TOOLS, "params": {"_meta": {"v": 1, **tag}}}
        assert second == {**updated("test://a"), "params": {"uri": "test://a", "title": "x", "_meta": tag}}

    def test_a_resource_below_one_that_was_asked_for_arrives_too(self, world: World) -> None:
        client = bridged(world, "below", "legacy-below")
        with listening(client, resourceSubscriptions=["test://a"]) as (ear, _):
            world.standin.broadcast("legacy-below", updated("test://ab"))
            world.standin.broadcast("legacy-below", updated("test://a/b"))
            assert ear.next()["params"]["uri"] == "test://a/b"

    def test_listeners_share_one_stream_and_each_uri_once(self, world: World) -> None:
        client = bridged(world, "shared", "legacy-shared")
        with listening(client, 1, toolsListChanged=True, resourceSubscriptions=["test://a", "test://b"]) as (
            one,
            _,
        ):
            with listening(client, 2, resourceSubscriptions=["test://a", "test://a"]) as (two, honoured):
                assert honoured == {"resourceSubscriptions": ["test://a"]}
                assert world.standin.broadcast("legacy-shared", updated("test://a")) == 1
                assert one.next()["params"]["_meta"] == {f"{META}subscriptionId": 1}
                assert two.next()["params"]["_meta"] == {f"{META}subscriptionId": 2}
            assert [one["params"]["uri"] for one in requests(world, "resources/subscribe")] == [
                "test://a",
                "test://b",
            ]
            world.standin.broadcast("legacy-shared", updated("test://a"))
            assert one.next()["method"] == "notifications/resources/updated"
            assert requests(world, "resources/unsubscribe") == []
        wait_for(lambda: len(requests(world, "resources/unsubscribe")) == 2, 5, what="both to be given up")
        wait_for(lambda: gets(world)[-1].get("disconnected"), 5, what="the stream to be closed")
        assert len(gets(world)) == 1

    def test_news_on_a_calls_stream_reach_the_listeners_and_not_the_call(self, world: World) -> None:
        client = bridged(world, "from-call", "legacy-from-call")
        with listening(client, toolsListChanged=True) as (ear, _):
            told = messages_of(client.send("tools/call", script({"say": TOOLS}), capabilities={}))
            assert len(told) == 1
            assert ear.next()["method"] == TOOLS["method"]

    def test_nobody_hears_what_is_anothers(self, world: World) -> None:
        client = bridged(world, "mine", "legacy-mine")
        stranger = Bridged(world.at(client.caller.url, world.key()))
        with (
            listening(client, toolsListChanged=True) as (mine, _),
            listening(stranger, toolsListChanged=True) as (theirs, _),
        ):
            stranger.send("tools/call", script({"say": TOOLS}), capabilities={})
            assert theirs.next()["method"] == TOOLS["method"]
            world.standin.broadcast("legacy-mine", PROMPTS)
            assert world.standin.broadcast("legacy-mine", {**TOOLS, "params": {"to": "all"}}) == 2
            assert mine.next()["params"]["to"] == "all"

    def test_questions_and_messages_on_the_stream_go_no_further(self, world: World) -> None:
        client = bridged(world, "stream-asks", "legacy-stream-asks")
        with listening(client, toolsListChanged=True) as (ear, _):
            for message in (
                {"jsonrpc": "2.0", "id": 5, "method": "roots/list"},
                {"jsonrpc": "2.0", "id": 6, "method": "ping"},
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/message",
                    "params": {"level": "error", "data": 1},
                },
                TOOLS,
            ):
                world.standin.broadcast("legacy-stream-asks", message)
            assert ear.next()["method"] == TOOLS["method"]
            wait_for(
                lambda: len([m for m in requests(world) if "method" not in m]) == 2, 5, what="both answers"
            )
        answers = {message["id"]: message for message in requests(world) if "method" not in message}
        assert answers[5]["error"]["code"] == -32601
        assert answers[6]["result"] == {}


class TestHonouring:
    @pytest.mark.parametrize("lacking", ["-streamless", "-newsless"])
    def test_what_the_server_cannot_tell_is_not_acknowledged(self, world: World, lacking: str) -> None:
        client = bridged(world, "subset", f"legacy{lacking}")
        with listening(client, toolsListChanged=True, resourceSubscriptions=["test://a"]) as (_, honoured):
            assert honoured == {}
        assert requests(world, "resources/subscribe") == []

    def test_a_malformed_wish_is_minus_32602(self, world: World) -> None:
        client = bridged(world, "malformed")
        wrong: list[dict[str, Any]] = [
            {},
            {"notifications": []},
            {"notifications": {"resourceSubscriptions": "x"}},
        ]
        for params in wrong:
            assert error_of(client.send("subscriptions/listen", params)) == (200, -32602)

    def test_no_more_than_200_uris(self, world: World) -> None:
        uris = [f"test://{number}" for number in range(250)]
        client = bridged(world, "uris")
        with listening(client, resourceSubscriptions=uris) as (_, honoured):
            assert honoured == {"resourceSubscriptions": uris[:200]}


class TestLoss:
    def test_a_stream_that_ends_is_opened_again(self, world: World) -> None:
        client = bridged(world, "reopen", "legacy-reopen")
        with listening(client, toolsListChanged=True) as (ear, _):
            world.standin.broadcast("legacy-reopen", {})
            wait_for(lambda: len(gets(world)) == 2, 5, what="the stream to be opened again")
            wait_for(lambda: world.standin.broadcast("legacy-reopen", TOOLS), 5, what="it to stand")
            assert ear.next()["method"] == TOOLS["method"]
        assert len(requests(world, "initialize")) == 1

    def test_a_session_that_is_lost_is_opened_again_with_its_subscriptions(self, world: World) -> None:
        client = bridged(world, "relisten", "legacy-relisten")
        with listening(client, resourceSubscriptions=["test://a"]) as (ear, _):
            world.standin.forget()
            assert world.standin.forget_sessions("legacy-relisten") == 1
            wait_for(
                lambda: world.standin.broadcast("legacy-relisten", updated("test://a")),
                10,
                what="a new stream",
            )
            assert ear.next()["method"] == updated("")["method"]
        assert [one["params"] for one in requests(world, "resources/subscribe")] == [{"uri": "test://a"}]
        assert len(requests(world, "initialize")) == 1

    def test_where_sessions_are_not_healed_the_listener_gets_its_result(self, world: World) -> None:
        client = bridged(world, "unhealed", "legacy-unhealed", heals=False)
        with listening(client, "x", toolsListChanged=True) as (ear, _):
            world.standin.forget_sessions("legacy-unhealed")
            told = ear.next()
            assert told["id"] == "x"
            assert told["result"] == {"resultType": "complete", "_meta": {f"{META}subscriptionId": "x"}}
            assert ear.next() == {}

    @pytest.mark.acceptance("S3.7")
    def test_a_drain_ends_listeners_with_their_result(
        self, world: World, own_redis: RedisProcess, tmp_path: Path
    ) -> None:
        node = GatewayProcess(tmp_path, redis_url=own_redis.url, dispatch_ring=world.standin.dispatch_ring)
        node.environ["SMCP_DATAPLANE_KEYS"] = world.gateway.sealing_ring
        node.start()
        client = bridged(world, "drain", "legacy-drain").at(world, node)
        wait_for(lambda: client.send("server/discover").status_code == 200, 10, what="the node to know")
        with listening(client, 9, toolsListChanged=True) as (ear, _):
            node.terminate()
            assert ear.next()["result"]["_meta"] == {f"{META}subscriptionId": 9}
        assert node.wait() == 0
        assert verbs(world)[-1] == "DELETE"
