"""A legacy client's GET at a modern server: what changes there reaches it, whatever it watches and wherever it says so."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hosting.dataplane.contract import Keys, Limits
from tests.dataplane.harness import (
    INSTALLATION,
    Caller,
    GatewayProcess,
    RedisProcess,
    World,
    error_of,
    next_event,
    request,
)
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("P1")


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"keepalive_s": "0.3"}


@pytest.fixture(autouse=True)
def nothing_permitted(world: World) -> None:
    """No permits are left from the test before."""
    world.standin.forget()


def bridged(world: World, slug: str, script: str = "modern-cached", **more: Any) -> Caller:
    target = world.target(script, eras=("modern",), issues_sessions=False)
    caller = world.caller(world.server(slug, target, **more))
    world.standin.forget()
    return caller


@contextmanager
def listening(caller: Caller) -> Iterator[Iterator[str]]:
    with caller.stream("GET") as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        yield response.iter_lines()


def heard(lines: Iterator[str]) -> dict[str, Any]:
    return dict(json.loads(next_event(lines).get("data", "{}")))


def listens(world: World, *, are_open: bool = True) -> list[dict[str, Any]]:
    """What the server is asked to tell, by listens that stand."""
    found = []
    for entry in world.standin.seen:
        message = json.loads(entry["body"])
        is_open = entry.get("acknowledged") and not entry.get("disconnected")
        if message["method"] == "subscriptions/listen" and (is_open or not are_open):
            found.append(message["params"]["notifications"])
    return found


def watch(caller: Caller, uri: str, method: str = "resources/subscribe") -> None:
    assert caller.send(body=request(method, {"uri": uri})).json()["result"] == {}


LISTS = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}


def test_changes_reach_the_client_without_the_marks_of_the_modern_era(world: World) -> None:
    caller = bridged(world, "listen-changes")
    with listening(caller) as lines:
        assert listens(world) == [LISTS]
        world.standin.go("listen")
        told = [heard(lines), heard(lines)]
    assert [message["method"] for message in told] == [
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
    ]
    assert all("_meta" not in message.get("params", {}) for message in told)
    wait_for(lambda: listens(world) == [], what="the listen to end with its client")


def test_what_was_watched_before_is_listened_for(world: World) -> None:
    caller = bridged(world, "listen-before")
    watch(caller, "test://b")
    watch(caller, "test://a")
    with listening(caller) as lines:
        assert listens(world) == [{**LISTS, "resourceSubscriptions": ["test://a", "test://b"]}]
        world.standin.go("listen")
        told = [heard(lines) for _ in range(4)]
    assert [message["params"] for message in told[2:]] == [
        {"uri": uri, "_meta": {"com.example/kept": 1}} for uri in ("test://a", "test://b")
    ]


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_watching_more_or_less_changes_the_listen_before_it_is_answered(
    world: World, other_node: GatewayProcess, is_elsewhere: bool
) -> None:
    caller = bridged(world, "listen-more")
    there = world.at_node(caller, other_node) if is_elsewhere else caller
    wait_for(lambda: there.call("echo").status_code == 200, what="the node to know the route")
    with listening(caller) as lines:
        watch(there, "test://x")
        wait_for(lambda: len(listens(world)) == 1, what="the old listen to end")
        assert listens(world) == [{**LISTS, "resourceSubscriptions": ["test://x"]}]
        world.standin.go("listen")
        assert [heard(lines)["method"] for _ in range(3)][2] == "notifications/resources/updated"
        watch(there, "test://x", "resources/unsubscribe")
        wait_for(lambda: listens(world) == [LISTS], what="the old listen to end")


def test_a_listen_that_ends_is_opened_again_however_old_its_stream(world: World) -> None:
    caller = bridged(world, "listen-again", limits=Limits(answer_budget_s=1))
    with listening(caller) as lines:
        began_at = time.monotonic()
        wait_for(lambda: time.monotonic() - began_at > 1.5, what="the budget to be over")
        world.standin.go("listen-end")
        wait_for(lambda: len(listens(world, are_open=False)) == 2, what="another listen")
        wait_for(lambda: world.standin.seen[-1].get("acknowledged"), what="it to stand")
        world.standin.go("listen")
        assert heard(lines)["method"] == "notifications/tools/list_changed"
        assert heard(lines)["method"] == "notifications/prompts/list_changed"


def test_a_new_release_is_listened_to_and_its_lists_are_said_to_have_changed(world: World) -> None:
    caller = bridged(world, "listen-moved")
    with listening(caller) as lines:
        target = world.target("modern-new", eras=("modern",), issues_sessions=False)
        world.server("listen-moved", target)
        world.standin.go("listen-end")
        assert sorted(heard(lines)["method"] for _ in range(3)) == [
            f"notifications/{name}/list_changed" for name in ("prompts", "resources", "tools")
        ]
        assert world.standin.seen[-1]["script"] == "modern-new"


def test_a_session_has_one_stream_and_the_last_one_is_it(world: World, other_node: GatewayProcess) -> None:
    caller = bridged(world, "listen-one")
    there = world.at_node(caller, other_node)
    wait_for(lambda: there.call("echo").status_code == 200, what="the node to know the route")
    with listening(caller) as first:
        place = Keys(INSTALLATION).of_tenant(world.routes["listen-one"].tenant, "session", "*", "listener")
        wait_for(lambda: world.publisher.client.keys(place), what="the stream's place to be known")
        with listening(there) as second:
            assert heard(first) == {}
            with listening(there) as third:
                assert heard(second) == {}
                wait_for(lambda: len(listens(world)) == 1, what="the others' listens to end")
                world.standin.go("listen")
                assert heard(third)["method"] == "notifications/tools/list_changed"
                assert heard(third)["method"] == "notifications/prompts/list_changed"


def test_delete_ends_the_stream_and_its_listen(world: World, other_node: GatewayProcess) -> None:
    caller = bridged(world, "listen-deleted")
    there = world.at_node(caller, other_node)
    wait_for(lambda: there.call("echo").status_code == 200, what="the node to know the route")
    with listening(caller) as lines:
        assert there.send("DELETE").status_code == 204
        assert heard(lines) == {}
    wait_for(lambda: listens(world) == [], what="the listen to end")
    assert error_of(there.call("echo")) == (404, -32001)


@pytest.mark.parametrize("script", ["modern-cached-plain", "modern-cached-deaf"])
def test_a_server_that_says_nothing_by_itself_has_no_stream(world: World, script: str) -> None:
    caller = bridged(world, "listen-nothing", script)
    response = caller.send("GET")
    assert response.status_code == 405
    assert "POST" in response.headers["allow"]


def test_only_what_the_server_offers_can_be_watched(world: World) -> None:
    caller = bridged(world, "listen-plain", "modern-cached-plain")
    for method in ("resources/subscribe", "resources/unsubscribe"):
        assert error_of(caller.send(body=request(method, {"uri": "test://a"}))) == (200, -32601)


def test_what_cannot_be_watched_is_refused(world: World) -> None:
    caller = bridged(world, "listen-refused")
    for uri in (None, 7, "", "x" * 3000, "test://\ud800"):
        body = json.dumps(request("resources/subscribe", {"uri": uri})).encode()
        assert error_of(caller.send(body=body)) == (200, -32602)
    for at in range(200):
        watch(caller, f"test://{at}")
    assert error_of(caller.send(body=request("resources/subscribe", {"uri": "test://200"}))) == (200, -32602)
    watch(caller, "test://7", "resources/unsubscribe")
    watch(caller, "test://200")


class TestWithoutRedis:
    def test_level_and_watching_hold_at_the_node_where_they_are_said(
        self, world: World, own_redis: RedisProcess
    ) -> None:
        caller = bridged(world, "listen-away")
        own_redis.kill()
        try:
            assert caller.send(body=request("logging/setLevel", {"level": "alert"})).json()["result"] == {}
            with listening(caller) as lines:
                watch(caller, "test://away")
                wait_for(
                    lambda: listens(world) == [{**LISTS, "resourceSubscriptions": ["test://away"]}],
                    what="the listen to have it",
                )
                world.standin.go("listen")
                assert [heard(lines)["method"] for _ in range(3)][2] == "notifications/resources/updated"
            caller.call("echo")
            meta = json.loads(world.standin.seen[-1]["body"])["params"]["_meta"]
            assert meta["io.modelcontextprotocol/logLevel"] == "alert"
        finally:
            own_redis.start()
