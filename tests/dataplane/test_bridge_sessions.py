"""The sessions a modern client's requests use at a legacy server: whose they are, how many, how long, and what if one is lost."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from hosting.dataplane.contract import Credential
from tests.dataplane.bridging import ALL, Bridged, bridged, requests, script, verbs
from tests.dataplane.harness import World, error_of
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("P1")


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"bridge_idle_s": "2"}


def sessions(world: World, script_name: str = "") -> list[str]:
    """Of the server, in the order in which they came up."""
    seen = [entry for entry in world.standin.seen if entry["script"].startswith(script_name)]
    found = [entry["headers"].get("mcp-session-id") for entry in seen]
    return list(dict.fromkeys(name for name in found if name))


def ended(world: World, script_name: str) -> list[str]:
    """Its sessions that were ended by DELETE, in that order. Other tests' sessions end meanwhile."""
    return [
        entry["headers"]["mcp-session-id"]
        for entry in world.standin.seen
        if entry["method"] == "DELETE" and entry["script"] == script_name
    ]


class TestWhose:
    def test_one_principal_with_the_same_capabilities_has_one(self, world: World) -> None:
        client = bridged(world, "whose")
        for _ in range(3):
            client.call()
        client.result("tools/list")
        assert len(sessions(world)) == 1

    def test_another_principal_or_other_capabilities_have_another(self, world: World) -> None:
        client = bridged(world, "whose-others")
        client.call()
        Bridged(world.at(client.caller.url, world.key())).call()
        client.call(capabilities={})
        client.call(capabilities={"roots": {"listChanged": True}})
        client.call(capabilities={"roots": {}})
        assert len(sessions(world)) == 4
        told = [one["params"]["capabilities"] for one in requests(world, "initialize")]
        assert told == [ALL, ALL, {}, {"roots": {}}]

    def test_another_environment_or_release_has_another(self, world: World) -> None:
        key = world.key()
        for slug, release in (("whose-a", "r1"), ("whose-b", "r1"), ("whose-b", "r2")):
            target = world.target("legacy-whose", release=release, eras=("legacy",))
            route = world.server(slug, target, modern_clients="bridge")
            Bridged(world.at(world.url(route), key)).call()
            assert len(requests(world, "initialize")) == 1

    def test_many_calls_at_once_open_one(self, world: World) -> None:
        client = bridged(world, "at-once")
        told: list[dict[str, Any]] = []
        threads = [threading.Thread(target=lambda: told.append(client.call())) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(told) == 10
        assert len(requests(world, "initialize")) == 1
        ids = [one["id"] for one in requests(world, "tools/call")]
        assert len(set(ids)) == 10

    def test_a_failed_handshake_is_everybodys_error(self, world: World) -> None:
        route = world.server("handshake", world.target("nowhere", eras=("legacy",)), modern_clients="bridge")
        client = Bridged(world.at(world.url(route), world.key()))
        told: list[tuple[int, int]] = []
        threads = [
            threading.Thread(
                target=lambda at=at: told.append(error_of(client.send("tools/list", request_id=at)))
            )
            for at in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert told == [(502, -32603)] * 5


class TestHowLong:
    def test_unused_it_is_ended_upstream(self, world: World) -> None:
        client = bridged(world, "idle", "legacy-idle")
        client.call()
        wait_for(lambda: ended(world, "legacy-idle"), 10, what="the session to be ended")
        assert ended(world, "legacy-idle") == sessions(world, "legacy-idle")
        client.call()
        assert len(requests(world, "initialize")) == 2

    def test_a_ninth_takes_the_place_of_the_one_used_longest_ago(self, world: World) -> None:
        client = bridged(world, "ninth", "legacy-ninth")
        sets: list[dict[str, Any]] = [
            {"sampling": {}},
            {"roots": {}},
            {"elicitation": {}},
            {"sampling": {}, "roots": {}},
            {"sampling": {}, "elicitation": {}},
            {"roots": {}, "elicitation": {}},
            {"sampling": {"tools": {}}},
            {"elicitation": {"url": {}}},
            {"elicitation": {"form": {}}},
        ]
        for capabilities in sets:
            client.call(capabilities=capabilities)
        wait_for(lambda: ended(world, "legacy-ninth"), 5, what="the first to be ended")
        assert ended(world, "legacy-ninth")[0] == sessions(world, "legacy-ninth")[0]

    def test_nine_that_are_all_in_use_are_one_too_many(self, world: World) -> None:
        client = bridged(world, "nine")
        sets: list[dict[str, Any]] = [
            {"sampling": {}},
            {"roots": {}},
            {"elicitation": {}},
            {"sampling": {}, "roots": {}},
            {"sampling": {}, "elicitation": {}},
            {"roots": {}, "elicitation": {}},
            {"sampling": {"tools": {}}},
            {"elicitation": {"url": {}}},
        ]
        threads = [
            threading.Thread(target=client.call, args=({"permit": "nine"},), kwargs={"capabilities": one})
            for one in sets
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(requests(world, "tools/call")) == 8, 10, what="eight calls to be under way")
        assert error_of(client.send("tools/list", capabilities={}))[0] == 429
        neighbour = Bridged(world.at(client.caller.url, world.key()))
        assert neighbour.call(capabilities={})["resultType"] == "complete"
        world.standin.go("nine", 8)
        for thread in threads:
            thread.join(20)
        assert client.call(capabilities={})["resultType"] == "complete"


class TestAnonymous:
    def test_each_call_has_one_of_its_own_and_ends_it(self, world: World) -> None:
        client = bridged(world, "public", "legacy-public", access=("public",))
        client.call()
        client.call()
        wait_for(lambda: len(ended(world, "legacy-public")) == 2, 5, what="both sessions to be ended")
        assert ended(world, "legacy-public") == sessions(world, "legacy-public")
        assert len(requests(world, "initialize")) == 2

    def test_a_call_that_waits_keeps_its_own(self, world: World) -> None:
        client = bridged(world, "public-parked", "legacy-public-parked", access=("public",))
        steps: list[dict[str, Any]] = [{"ask": [1, "roots/list", {}]}, {"await": 1}]
        required = client.call(*steps)
        (key,) = required["inputRequests"]
        assert ended(world, "legacy-public-parked") == []
        assert "result" in client.retry(required, {key: {"roots": []}}, *steps)
        wait_for(lambda: ended(world, "legacy-public-parked"), 5, what="the session to be ended")
        assert len(sessions(world, "legacy-public-parked")) == 1

    def test_where_there_are_no_sessions_the_handshake_is_kept(self, world: World) -> None:
        client = bridged(world, "public-sessionless", "legacy-sessionless", access=("public",))
        client.call()
        client.call()
        assert len(requests(world, "initialize")) == 1
        assert ended(world, "legacy-sessionless") == []

    def test_discover_is_kept_too(self, world: World) -> None:
        client = bridged(world, "public-discover", "legacy-public-discover", access=("public",))
        first = client.result("server/discover")
        wait_for(lambda: ended(world, "legacy-public-discover"), 5, what="the session to be ended")
        assert client.result("server/discover") == first
        assert len(requests(world, "initialize")) == 1


class TestLost:
    def test_it_is_opened_anew_and_the_call_carried_out_once(self, world: World) -> None:
        client = bridged(world, "lost", "legacy-lost")
        client.call()
        world.standin.forget()
        assert world.standin.forget_sessions("legacy-lost") == 1
        assert client.call()["resultType"] == "complete"
        assert [verb for verb in verbs(world) if verb not in {"DELETE", "GET"}] == [
            "tools/call",
            "initialize",
            "notifications/initialized",
            "tools/list",
            "tools/call",
        ]

    def test_with_it_the_level_is_told_anew(self, world: World) -> None:
        client = bridged(world, "lost-level", "legacy-lost-level")
        client.call(level="info")
        world.standin.forget_sessions("legacy-lost-level")
        client.call(level="info")
        assert len(requests(world, "logging/setLevel")) == 2

    def test_where_it_must_not_be_healed_the_client_is_told(self, world: World) -> None:
        client = bridged(world, "lost-unhealed", "legacy-lost-unhealed", heals=False)
        client.call()
        world.standin.forget_sessions("legacy-lost-unhealed")
        response = client.send("tools/call", script())
        assert error_of(response) == (200, -32603)
        assert "not carried out" in response.json()["error"]["message"]
        assert client.call()["resultType"] == "complete"

    def test_a_waiting_call_is_gone_with_it(self, world: World) -> None:
        client = bridged(world, "lost-parked", "legacy-lost-parked")
        steps: list[dict[str, Any]] = [{"ask": [1, "roots/list", {}]}, {"await": 1}]
        required = client.call(*steps)
        world.standin.forget_sessions("legacy-lost-parked")
        (key,) = required["inputRequests"]
        told = client.retry(required, {key: {"roots": []}}, *steps)
        assert told["error"]["code"] == -32603
        assert "unknown" in told["error"]["message"]
        assert len(requests(world, "tools/call")) == 1

    def test_a_server_that_keeps_none_of_its_own_is_an_error_at_last(self, world: World) -> None:
        target = world.target("scripted-forgetful-stateful", eras=("legacy",), issues_sessions=True)
        route = world.server("forgetful", target, modern_clients="bridge")
        client = Bridged(world.at(world.url(route), world.key()))
        response = client.send("tools/list")
        assert error_of(response) == (200, -32603)
        seen = [entry for entry in world.standin.seen if entry["script"] == target.script]
        asked = [json.loads(entry["body"])["method"] for entry in seen]
        assert asked == ["initialize", "notifications/initialized"]


def test_a_key_that_is_gone_brings_nothing_back(world: World) -> None:
    key_id = "k" * 26
    presented = world.key(id=key_id)
    client = bridged(world, "gone-key")
    client.caller.headers["authorization"] = f"Bearer {presented}"
    steps: list[dict[str, Any]] = [{"ask": [1, "roots/list", {}]}, {"await": 1}]
    required = client.call(*steps)
    gone = Credential(
        tenant=world.routes["gone-key"].tenant,
        version=world.publisher.next_version("credential"),
        digest="0" * 64,
        id=key_id,
        is_gone=True,
    )
    world.publisher.publish(gone)
    world.settle()
    (key,) = required["inputRequests"]
    params = {**script(*steps), "requestState": required["requestState"], "inputResponses": {key: {}}}
    assert client.send("tools/call", params).status_code == 401
